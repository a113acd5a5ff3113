#!/usr/bin/env bash
# webdataset 1.0.2: images whose names contain a dot are merged into one sample.
#
# The key of a sample is the file name up to the *first* dot; the rest is the name of the field. Expected:
# "cfg7.5_seed000.png" is an image in field "png". Observed: its key is "cfg7" and its field is "5_seed000.png". All images
# of the same guidance scale have the same key, so they become fields of one sample. Twelve images become two samples, and
# neither has a field "png". The number of files in the archive is right, so counting them does not show the fault.
#
# Why it matters: generated images are often named after guidance scales, learning rates and versions. Code that reads with
# missing_is_error=False, or filters on "png", then drops all images or uses one of many.
#
# Output seen:
#   webdataset 1.0.2
#   12 images named like cfg1-5_seed000.png: 12 samples, fields of the first: ['png']
#   12 images named like cfg1.5_seed000.png: 2 samples, fields of the first: ['5_seed000.png', '5_seed001.png', '5_seed002.png', '5_seed003.png', '5_seed004.png', '5_seed005.png']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check numpy==2.4.6 pillow==13.0.0 webdataset==1.0.2
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import importlib.metadata
import io
import tarfile

import webdataset
from PIL import Image

def archive(path, names):
    with tarfile.open(path, "w") as tar:
        for i, name in enumerate(names):
            png = io.BytesIO()
            Image.new("RGB", (8, 8), (i, 0, 0)).save(png, "PNG")
            entry = tarfile.TarInfo(name)
            entry.size = len(png.getvalue())
            tar.addfile(entry, io.BytesIO(png.getvalue()))
    return path

print("webdataset", importlib.metadata.version("webdataset"))
for names in ([f"cfg{g}_seed{i:03d}.png" for g in ("1-5", "7-5") for i in range(6)], [f"cfg{g}_seed{i:03d}.png" for g in ("1.5", "7.5") for i in range(6)]):
    samples = list(webdataset.WebDataset(archive("set.tar", names), shardshuffle=False))
    fields = [sorted(key for key in sample if not key.startswith("__")) for sample in samples]
    print(f"12 images named like {names[0]}: {len(samples)} samples, fields of the first: {fields[0]}")
    if "." in names[0][:5]:
        assert len(samples) == 2 and len(fields[0]) == 6 and "png" not in fields[0], "names with dots are read now"
    else:
        assert len(samples) == 12 and fields[0] == ["png"]
EOF
