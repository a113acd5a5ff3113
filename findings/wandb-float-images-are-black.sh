#!/usr/bin/env bash
# wandb 0.31.0: float pictures from 0 to 1 are logged as black, and pictures from -1 to 1 as partly white, without a
# warning.
#
# Expected: wandb.Image reads a float array as values from 0 to 1, as matplotlib, tensorboard and wandb 0.22 do. Observed:
# it casts the array to uint8 without scaling. Every value below 1 becomes level 0. Values of exactly -1 wrap round to 255,
# so black becomes white. The argument normalize no longer exists. uint8 arrays and PIL images are logged correctly.
#
# Why it matters: a panel of black previews looks like a model that has collapsed or overflowed to NaN. Pass uint8.
#
# Output seen:
#   wandb 0.31.0
#   uint8, 0 to 255    logged with mean level 127.50, first pixel 0
#   float, 0 to 255    logged with mean level 127.03, first pixel 0
#   float, 0 to 1      logged with mean level   0.02, first pixel 0
#   float, .05 to .95  logged with mean level   0.00, first pixel 0
#   float, -1 to 1     logged with mean level   4.00, first pixel 255
#   warnings: []
set -euo pipefail
export WANDB_MODE=offline WANDB_SILENT=true WANDB_ERROR_REPORTING=false
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check numpy==2.4.6 pillow==13.0.0 wandb==0.31.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import warnings

import numpy
import wandb

print("wandb", wandb.__version__)
ramp = numpy.linspace(0, 1, 64, dtype="float32").reshape(8, 8, 1).repeat(3, 2)
cases = {"uint8, 0 to 255": (ramp * 255).round().astype("uint8"), "float, 0 to 255": ramp * 255, "float, 0 to 1": ramp, "float, .05 to .95": 0.05 + 0.9 * ramp, "float, -1 to 1": ramp * 2 - 1}
seen = {}
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    for name, pixels in cases.items():
        levels = numpy.asarray(wandb.Image(pixels).image)
        seen[name] = levels
        print(f"{name:<18} logged with mean level {levels.mean():6.2f}, first pixel {levels[0, 0, 0]}")
print("warnings:", [str(w.message) for w in warned if "image" in str(w.message).lower()])
assert abs(seen["uint8, 0 to 255"].mean() - 127.5) < 1
assert seen["float, 0 to 1"].mean() < 1, "floats from 0 to 1 are scaled now"
assert seen["float, .05 to .95"].max() == 0
assert seen["float, -1 to 1"][0, 0, 0] == 255
EOF
