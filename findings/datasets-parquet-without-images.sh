#!/usr/bin/env bash
# datasets 5.2.0: the parquet file that `to_parquet` writes of an image folder holds no images.
#
# Expected: a parquet file with an Image column holds the bytes of the images, as a set that was pushed to the hub does. Observed:
# it holds the absolute path of each file and null for its bytes. `load_dataset` opens it without a word while the folder is there.
# On another machine, or once the folder is gone, every image is an error.
#
# Why it matters: samples are exported to parquet to be kept or sent, and the folder of PNG files is deleted.
#
# Output seen:
#   datasets 5.2.0
#   4 images of 12,420 bytes or more; the parquet file has 1,257 bytes; images with bytes in it: 0
#   after the folder is gone: FileNotFoundError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check datasets==5.2.0 numpy==2.4.6 pillow==13.0.0
cd "$folder"
HF_HOME="$folder/hf" HF_DATASETS_OFFLINE=1 "$folder/venv/bin/python" -W ignore - <<'EOF'
import pathlib
import shutil

import datasets
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

datasets.disable_progress_bars()
home = pathlib.Path("set")
home.mkdir()
for i in range(4):
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)).save(home / f"{i}.png")
smallest = min(file.stat().st_size for file in home.iterdir())
datasets.load_dataset("imagefolder", data_dir=str(home), split="train").to_parquet("set.parquet")
with_bytes = sum(row["bytes"] is not None for row in pq.read_table("set.parquet")["image"].to_pylist())
size = pathlib.Path("set.parquet").stat().st_size
print("datasets", datasets.__version__)
print(f"4 images of {smallest:,} bytes or more; the parquet file has {size:,} bytes; images with bytes in it: {with_bytes}")
assert with_bytes == 0 and size < smallest, "the images are in the file now"
again = datasets.load_dataset("parquet", data_files="set.parquet", split="train")
assert again[0]["image"].size == (64, 64)
shutil.rmtree(home)
try:
    again[0]["image"]
    raise SystemExit("the image opens without its file")
except OSError as error:
    print("after the folder is gone:", type(error).__name__)
EOF
