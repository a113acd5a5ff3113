#!/usr/bin/env bash
# prdc 0.2: a perfect copy of a set with repeated images has a precision and recall far below 1.
#
# An image counts as covered if its distance to a neighbour is *less than* that neighbour's radius, which is the distance to
# its k-th nearest image. If every image occurs six times and k = 5, all radii are 0, and no distance is less than 0.
# Expected: a copy of the set has precision, recall and coverage 1. Observed: 0. With another build of numpy it is a fifth,
# because rounding errors of the distances decide which images count. The paper that defines precision and recall in this
# way uses less than or equal.
#
# Why it matters: a collapsing loop produces repeated images, and data sets with duplicates are common. The measure then
# reports that the data are far from themselves. Remove duplicates first, or use <= with a small tolerance.
#
# Output seen:
#   prdc 0.2
#   every image 1 times, k = 5, a set against its own copy: {'precision': 1.0, 'recall': 1.0, 'density': 1.0, 'coverage': 1.0}
#   every image 2 times, k = 1, a set against its own copy: {'precision': 0.0, 'recall': 0.0, 'density': 0.0, 'coverage': 0.0}
#   every image 6 times, k = 5, a set against its own copy: {'precision': 0.0, 'recall': 0.0, 'density': 0.0, 'coverage': 0.0}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check numpy==2.4.6 scikit-learn==1.9.1 prdc==0.2
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import contextlib
import importlib.metadata
import io

import numpy
from prdc import compute_prdc

def measured(real, fake, k):
    with contextlib.redirect_stdout(io.StringIO()):
        return {name: round(float(value), 3) for name, value in compute_prdc(real, fake, nearest_k=k).items()}

print("prdc", importlib.metadata.version("prdc"))
features = numpy.random.default_rng(0).normal(size=(100, 16))
for times, k in ((1, 5), (2, 1), (6, 5)):
    repeated = numpy.repeat(features, times, axis=0)
    values = measured(repeated, repeated.copy(), k)
    print(f"every image {times} times, k = {k}, a set against its own copy: {values}")
    for name in ("precision", "recall", "coverage"):
        assert values[name] == 1 if times == 1 else values[name] < 0.9, f"{name} of a copy has changed"
EOF
