#!/usr/bin/env bash
# Versions:  timm 1.0.12 and 1.0.31, torch 2.14.1, Python 3.11, on a CPU.
# Guess:     ModelEmaV3(net, use_warmup=True, update_after_step=10) counts its updates, as the average
#            of diffusers does: it copies the net for ten updates and then averages over a growing
#            part of the past.
# Behaviour: it has no counter. Both settings act through update(net, step=...) alone; update(net),
#            which is all that ModelEma and ModelEmaV2 took, averages from the first call on with the
#            full decay, and nothing is said. After 100 updates with a decay of 0.9999, 99 % of the
#            average is still the net as it was initialised; told the step, it is the trained net.
# Hurt:      whoever trains for fewer steps than 1 / (1 - decay), or looks at early checkpoints: what is
#            sampled and scored is mostly noise, and looks like a net that does not learn. Whoever
#            moves from V2 to V3 for its warm-up gets none.
# Source:    seen while comparing averages of weights; timm/utils/model_ema.py.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/average.py" <<'PYTHON'
import timm
import torch
from timm.utils import ModelEmaV3


def average(tell: bool, **settings) -> float:
    """What the average of a weight is that was 0 at first and 1 in all of 100 updates."""
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(net.weight)
    averaged = ModelEmaV3(net, decay=0.9999, **settings)
    torch.nn.init.ones_(net.weight)
    for step in range(100):
        averaged.update(net, step=step) if tell else averaged.update(net)
    return averaged.module.weight.item()


print(timm.__version__)
warm = {"use_warmup": True, "update_after_step": 10}
print(f"  plain, update(net):              {average(False):.4f}")
print(f"  with warm-up, update(net):       {average(False, **warm):.4f}")
print(f"  with warm-up, update(net, step): {average(True, **warm):.4f}")
PYTHON

python3 -m venv "$work/venv"
for version in 1.0.12 1.0.31; do
  "$work/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6 timm==$version
  "$work/venv/bin/python" "$work/average.py" 2> /dev/null | tee -a "$work/seen"
done

cat > "$work/expected" <<'TEXT'
1.0.12
  plain, update(net):              0.0100
  with warm-up, update(net):       0.0100
  with warm-up, update(net, step): 1.0000
1.0.31
  plain, update(net):              0.0100
  with warm-up, update(net):       0.0100
  with warm-up, update(net, step): 1.0000
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
