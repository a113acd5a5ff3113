#!/usr/bin/env bash
# datasets 5.2.0: an imagefolder drops images that metadata.jsonl does not list, and class folders lose their labels.
#
# Eight images lie in two class folders. load_dataset("imagefolder") gives 8 rows with labels. Then a metadata.jsonl with
# captions for four of them is added. Expected: an error, or eight rows of which four have no caption. Observed: four rows,
# no label column, and no message about the other four.
#
# Why it matters: the training set loses every image without a caption, and a class-conditional model loses its classes
# because somebody added captions. Compare the number of rows with the number of files.
#
# Output seen:
#   datasets 5.2.0
#   8 images in 2 class folders:           (8, ['image', 'label'])
#   and a metadata.jsonl with 4 captions:  (4, ['image', 'text'])
set -euo pipefail
export HF_HUB_OFFLINE=1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check datasets==5.2.0 pillow==13.0.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import json
import pathlib

import datasets
from PIL import Image

datasets.disable_progress_bars()
print("datasets", datasets.__version__)
folder = pathlib.Path("pictures")
for label in ("cat", "dog"):
    (folder / label).mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (8, 8), (40 * i, 80, 120)).save(folder / label / f"{i}.png")

def rows(cache):
    table = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=cache)
    return len(table), table.column_names

plain = rows("a")
lines = [json.dumps({"file_name": f"cat/{i}.png", "text": "a cat"}) for i in range(4)]
(folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
captioned = rows("b")
print("8 images in 2 class folders:          ", plain)
print("and a metadata.jsonl with 4 captions: ", captioned)
assert plain == (8, ["image", "label"])
assert captioned == (4, ["image", "text"]), "unlisted images or labels are kept now"
EOF
