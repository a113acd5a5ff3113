#!/usr/bin/env bash
# torchmetrics 1.9.0: MiFID, which should penalise memorisation, does not detect a generator that returns copies of half its
# training set.
#
# MiFID divides FID by the mean distance from each *generated* image to its nearest training image, if that mean is below
# .1. This is the definition of the Kaggle contest, in which copies have distance 0 and get a very large value. Expected:
# copies of training images get a large value. Observed: torchmetrics uses the mean in the other direction, from each *real*
# image to its nearest generated one. If half of the real images are copied, the other half is far away, the mean is above
# .1, and there is no penalty. The copies then have a better value than new images of the same distribution. Copies of all
# real images get 0, the best possible value, because a FID below 1e-8 returns 0 before the distance is used.
#
# Why it matters: small fine-tunes and collapsed loops return part or all of their training set, and MiFID is used to detect
# this. Use the distances from generated to real images instead (nearest neighbours, near duplicates).
#
# Output seen:
#   torchmetrics 1.9.0
#   1,000 new images               FID 0.0575   MiFID 0.0575   by the definition 0.05753
#   copies of 500 training images  FID 0.0301   MiFID 0.0301   by the definition 3.022e+12
#   copies of all 1,000            FID -0.0000   MiFID 0.0000   by the definition nan
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.14.1 torchmetrics==1.9.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import torch
import torchmetrics
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

class Features(torch.nn.Module):
    num_features = 64

    def __init__(self):
        super().__init__()
        self.weight = torch.randn(192, 64, generator=torch.Generator().manual_seed(1)) / 14

    def forward(self, x):
        return torch.relu((x.float().flatten(1) - 0.5) @ self.weight)

def scores(train, generated):
    values = []
    for kind in (FrechetInceptionDistance, MemorizationInformedFrechetInceptionDistance):
        metric = kind(feature=Features(), normalize=True)
        metric.update(train, real=True)
        metric.update(generated, real=False)
        values.append(metric.compute().item())
    unit = [torch.nn.functional.normalize(Features()(x).double()) for x in (generated, train)]
    nearest = (1 - unit[0] @ unit[1].T).min(1).values.mean().item()  # generated to real, as defined
    defined = values[0] / (nearest + 1e-14 if nearest < 0.1 else 1)
    return *values, defined if values[0] > 1e-8 else float("nan")  # 0 / 0

print("torchmetrics", torchmetrics.__version__)
draw = torch.Generator().manual_seed(0)
train, new = (torch.rand(1000, 3, 8, 8, generator=draw) for _ in range(2))
seen = {"1,000 new images": scores(train, new), "copies of 500 training images": scores(train, train[:500]), "copies of all 1,000": scores(train, train)}
for name, (fid, mifid, defined) in seen.items():
    print(f"{name:<30} FID {fid:.4f}   MiFID {mifid:.4f}   by the definition {defined:.4g}")
new, half, full = seen.values()
assert abs(half[1] / half[0] - 1) < 1e-4, "copies of half the set are punished now"
assert half[1] < new[1] and half[2] > 1e3 * new[2]
assert full[1] == 0, "copies of everything are punished now"
EOF
