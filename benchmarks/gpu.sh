#!/bin/sh
# What only a GPU can tell, in one table: see the head of gpu.py.
#   bash benchmarks/gpu.sh [--out FILE_OR_FOLDER] [--minutes 8]     # one GPU
#   bash benchmarks/gpu.sh --tiny                                   # the same rows with a tiny model on the CPU
# PYTHON names the interpreter (default: python3). Packages are installed only if difflab cannot be imported.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
case " $* " in *" --tiny "*) export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" ;; esac
"$python" -c "import difflab.config, importlib.util as u, sys; sys.exit(not u.find_spec('diffusers'))" 2>/dev/null ||
    "$python" -m pip install -e "$root"
exec "$python" "$root/benchmarks/gpu.py" "$@"
