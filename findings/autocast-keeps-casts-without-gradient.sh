#!/usr/bin/env bash
# Versions:  torch 2.8.0 shows it, torch 2.14.1 does not; numpy 2.2.0, Python 3.11, on a CPU.
# Guess:     a pass under torch.no_grad() inside of an autocast region changes nothing for a later
#            pass that is meant to have gradients: no_grad ends where its block ends.
# Behaviour: autocast keeps the weights that it has cast until the region ends. Those of the first
#            pass were cast without a gradient, and the second pass gets them from there, so they
#            get no gradient. Nothing is said: whatever is not cast (norms, embeddings, parameters
#            that are used directly) still trains, and the loss may fall, while the rest stays as
#            it was initialised.
# Hurt:      whoever trains with self-conditioning or another first guess of the net itself (a
#            first pass without gradient, its output as an input of the second) in bf16 or fp16
#            with the usual one autocast region around the whole step. Clearing the cache between
#            the passes (torch.clear_autocast_cache) or a region for each pass helps.
# Source:    seen while testing such a first pass against the oldest torch that we allow.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/step.py" <<'PYTHON'
import sys

import torch


def gradient(first_pass: bool, clear: bool) -> str:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 1))
    x = torch.randn(8, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if first_pass:
            with torch.no_grad():
                net(x)
        if clear:
            torch.clear_autocast_cache()
        y = net(x)
    y.float().square().sum().backward()
    idle = [name for name, weight in net.named_parameters() if weight.grad is None]
    return f"without a gradient: {', '.join(idle) or 'none'}"


print(torch.__version__.partition("+")[0])
print("  one pass:", gradient(False, False))
print("  after a pass under no_grad:", gradient(True, False))
print("  after it, the cache cleared:", gradient(True, True))
PYTHON

python3 -m venv "$work/venv"
for version in 2.8.0 2.14.1; do
  "$work/venv/bin/pip" install --quiet torch==$version numpy==2.2.0
  "$work/venv/bin/python" "$work/step.py" | tee -a "$work/seen"
done

cat > "$work/expected" <<'TEXT'
2.8.0
  one pass: without a gradient: none
  after a pass under no_grad: without a gradient: 0.weight, 0.bias, 2.weight, 2.bias
  after it, the cache cleared: without a gradient: none
2.14.1
  one pass: without a gradient: none
  after a pass under no_grad: without a gradient: none
  after it, the cache cleared: without a gradient: none
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
