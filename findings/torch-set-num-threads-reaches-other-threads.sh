#!/usr/bin/env bash
# torch 2.14.1: torch.set_num_threads in a worker thread also changes the number of threads that are started later, and that of
# the main thread, unless the main thread has read its own number before.
#
# With OpenMP the number belongs to a thread: omp_set_num_threads holds for the thread that calls it. Expected: a worker that asks
# for one core changes nothing elsewhere. Observed: every thread that is started after the workers has one core. The main thread
# has one core too if it has only set its number (torch.set_num_threads(2)), and keeps two if it has read it (torch.get_num_threads).
#
# Why it matters: a pool of workers with one core each (to give each core a batch of its own) leaves other threads of the
# program with one core, without a message. Store the number before, and set it again afterwards.
#
# Output seen:
#   torch 2.14.1
#   main thread has read its number: 2, after workers with 1: main 2, a new thread 1, set again: main 2, a new thread 2
#   main thread has set its number: 2, after workers with 1: main 1, a new thread 1, set again: main 2, a new thread 2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check numpy==2.4.6 torch==2.14.1
cd "$folder"
cat > threads.py <<'EOF'
import sys
from concurrent.futures import ThreadPoolExecutor

import torch


def numbers():
    with ThreadPoolExecutor(1) as pool:
        new = pool.submit(torch.get_num_threads).result()
    return torch.get_num_threads(), new


torch.get_num_threads() if sys.argv[1] == "read" else torch.set_num_threads(2)
with ThreadPoolExecutor(2, initializer=lambda: torch.set_num_threads(1)) as pool:
    assert list(pool.map(lambda _: torch.get_num_threads(), range(2))) == [1, 1]
after = numbers()
torch.set_num_threads(2)
again = numbers()
print(f"main thread has {sys.argv[1]} its number: 2, after workers with 1: main {after[0]}, a new thread {after[1]}, "
      f"set again: main {again[0]}, a new thread {again[1]}")
assert after == ((2, 1) if sys.argv[1] == "read" else (1, 1)), "the number of a worker reaches other threads now"
assert again == (2, 2)
EOF
"$folder/venv/bin/python" -c "import torch; print('torch', torch.__version__.partition('+')[0])"
for case in read set; do
    OMP_NUM_THREADS=2 "$folder/venv/bin/python" -W ignore threads.py "$case"
done
