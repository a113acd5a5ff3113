"""``python -m difflab``, which is what ``accelerate launch -m difflab`` starts."""

import sys

from difflab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
