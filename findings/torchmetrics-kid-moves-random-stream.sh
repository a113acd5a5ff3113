#!/usr/bin/env bash
# torchmetrics 1.9.0: computing KID or the Inception Score advances torch's global random generator.
#
# compute() of both draws subsets or permutations from the global generator. Expected: measuring does not change the
# training. Observed: every random number that training draws after a KID is different. A run with such a metric in its
# validation loop has other noise, other dropout and other batches than the same run without it. The same features also give
# another KID each time it is computed. FID does not use the generator.
#
# Why it matters: adding a metric, or measuring more often, changes the model. "Reproducible with seed 0" then holds only
# for one set of metrics. Save and restore the generator's state around the metric (torch.random.fork_rng), or use a
# separate generator.
#
# Output seen:
#   torchmetrics 1.9.0
#   no metric                      weight after 10 steps -0.2727
#   FrechetInceptionDistance       weight after 10 steps -0.2727
#   KernelInceptionDistance        weight after 10 steps -0.0449
#   InceptionScore                 weight after 10 steps 0.1740
#   KID of the same features, computed twice: 0.00140, 0.00680
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
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

class Features(torch.nn.Module):
    num_features = 8

    def forward(self, x):
        return x.float().flatten(1)[:, :8]

draw = torch.Generator().manual_seed(0)
real, generated = (torch.rand(300, 3, 4, 4, generator=draw) for _ in range(2))

def trained(metric=None):
    # Ten steps of denoising a number, from seed 0, with a measurement after every step.
    torch.manual_seed(0)
    weight = torch.zeros(1)
    for _ in range(10):
        weight += 0.1 * torch.randn(1)
        if metric:
            metric._computed = None  # torchmetrics keeps the last result until the next update
            metric.compute()
    return weight.item()

print("torchmetrics", torchmetrics.__version__)
plain = trained()
print(f"{'no metric':<30} weight after 10 steps {plain:.4f}")
for kind, settings in ((FrechetInceptionDistance, {}), (KernelInceptionDistance, {"subset_size": 50, "subsets": 2}), (InceptionScore, {})):
    metric = kind(feature=Features(), normalize=True, **settings)
    if kind is InceptionScore:
        metric.update(generated)
    else:
        metric.update(real, real=True)
        metric.update(generated, real=False)
    value = trained(metric)
    print(f"{kind.__name__:<30} weight after 10 steps {value:.4f}")
    assert (value == plain) == (kind is FrechetInceptionDistance), "which metrics draw from the global stream has changed"
kid = KernelInceptionDistance(feature=Features(), normalize=True, subset_size=50, subsets=5)
kid.update(real, real=True)
kid.update(generated, real=False)
first = kid.compute()[0].item()
kid._computed = None
second = kid.compute()[0].item()
print(f"KID of the same features, computed twice: {first:.5f}, {second:.5f}")
assert first != second
EOF
