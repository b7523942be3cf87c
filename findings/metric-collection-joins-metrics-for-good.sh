#!/usr/bin/env bash
# Versions:  torchmetrics 1.9.0, torch 2.14.1, numpy 2.4.6, Python 3.11, on a CPU.
# Guess:     each metric of a MetricCollection gives what it would give by itself.
# Behaviour: after the first batch, metrics whose states are equal are joined, and from then on only
#            the first of them is updated. Settings are not compared: two thresholds that no value of
#            the first batch lies between are one metric for the rest of the run, and nothing is
#            said. With another first batch the same data give other numbers.
# Hurt:      whoever scores one quantity at several thresholds (designable below 1 and 2 A, confident
#            above 70 and 90): small, easy or empty first batches make the stricter one a copy of the
#            looser one, or the other way round. compute_groups=False costs a little time, and each
#            metric is its own.
# Source:    torchmetrics/collections.py (_merge_compute_groups).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/collect.py" <<'PYTHON'
import torch
import torchmetrics
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy

BATCHES = [([0.95, 0.1], [1, 0]), ([0.6, 0.7], [1, 1]), ([0.8, 0.2], [1, 0])]


def scores(batches, **settings) -> str:
    each = {f"{at}": BinaryAccuracy(threshold=at / 100) for at in (50, 90)}
    metrics = MetricCollection(each, **settings)
    for values, labels in batches:
        metrics.update(torch.tensor(values), torch.tensor(labels))
    return ", ".join(f"{score:.2f} at {at}" for at, score in metrics.compute().items())


print(torchmetrics.__version__)
print("  as they come:", scores(BATCHES))
print("  last batch first:", scores(BATCHES[::-1]))
print("  without groups:", scores(BATCHES, compute_groups=False))
PYTHON

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6 torchmetrics==1.9.0
"$work/venv/bin/python" "$work/collect.py" 2> /dev/null | tee "$work/seen"

cat > "$work/expected" <<'TEXT'
1.9.0
  as they come: 1.00 at 50, 1.00 at 90
  last batch first: 1.00 at 50, 0.50 at 90
  without groups: 1.00 at 50, 0.50 at 90
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
