#!/usr/bin/env bash
# Versions:  torch 2.14.1, numpy 2.4.6, Python 3.11, on a CPU.
# Guess:     get_optimizer_state_dict(net, optimizer) of torch.distributed.checkpoint reads, so that a
#            run that saves a checkpoint before its first step trains like one that does not.
# Behaviour: where the optimizer has no state yet, it takes a step with gradients of zero to make one.
#            The weights stay, as the learning rate is 0 for it, but Adam's count is 1 from then on:
#            the correction of its averages is that of the second step, and the first update is 0.744
#            times as long as it should be. The count of a run stays one ahead.
# Hurt:      whoever compares runs bit for bit, or writes a checkpoint of step 0: the two differ in
#            every weight, and nothing is said. get_state_dict does the same.
# Source:    torch/distributed/checkpoint/state_dict.py (_init_optim_state).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/step.py" <<'PYTHON'
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, get_state_dict


def first_update(read) -> str:
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 1, bias=False)
    before = net.weight.detach().clone()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0)
    if read is not None:
        read(net, optimizer)
    net(torch.randn(8, 3)).square().mean().backward()
    optimizer.step()
    length = (net.weight.detach() - before).abs().mean().item()
    return f"{length:.4f} for each weight, count {int(optimizer.state[net.weight]['step'])}"


print(torch.__version__.partition("+")[0])
print("  first update:", first_update(None))
print("  after get_optimizer_state_dict:", first_update(get_optimizer_state_dict))
print("  after get_state_dict:", first_update(get_state_dict))
print("  after optimizer.state_dict():", first_update(lambda net, optimizer: optimizer.state_dict()))
PYTHON

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
"$work/venv/bin/python" "$work/step.py" 2> /dev/null | tee "$work/seen"

cat > "$work/expected" <<'TEXT'
2.14.1
  first update: 0.1000 for each weight, count 1
  after get_optimizer_state_dict: 0.0744 for each weight, count 2
  after get_state_dict: 0.0744 for each weight, count 2
  after optimizer.state_dict(): 0.1000 for each weight, count 1
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
