#!/usr/bin/env bash
# Versions:  diffusers 0.35.2 and 0.42.1, torch 2.14.1, numpy 2.4.6, Python 3.11, on a CPU.
# Guess:     add_noise(x, noise, t) of any scheduler with the same betas adds the same share of noise at
#            step t of training, before and after set_timesteps, as that of DDPM does.
# Behaviour: DPMSolverMultistep, UniPC and DEIS look t up in the steps of sampling. New, their steps run
#            down and their noise levels up, so that t = 0 gets all the noise and t = 999 next to
#            none. After set_timesteps(20), each t that is not one of the 20 gets the least noise of
#            all, be it 3 or 998. Nothing is said. (EulerDiscrete raises an error there.)
# Hurt:      whoever trains or fine-tunes with the scheduler of the pipeline at hand, or draws validation
#            images with the one that trains: the net is told t = 998 and shown a nearly clean
#            picture. The loss looks fine. Train with DDPMScheduler.from_config(...) of its settings.
# Source:    diffusers/schedulers/scheduling_dpmsolver_multistep.py (index_for_timestep, add_noise).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/noise.py" <<'PYTHON'
import diffusers
import torch

NAMES = ("DDPM", "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep")


def shares(scheduler) -> str:
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    noisy = [scheduler.add_noise(zero, one, torch.tensor([t])) for t in (0, 3, 501, 998, 999)]
    return " ".join(f"{each.item():.2f}" for each in noisy)


print(diffusers.__version__)
print("  share of noise at t = 0, 3, 501, 998, 999")
for name in NAMES:
    scheduler = getattr(diffusers, f"{name}Scheduler")()
    new = shares(scheduler)
    scheduler.set_timesteps(20)
    print(f"  {name}: {new} when new, {shares(scheduler)} after set_timesteps(20)")
PYTHON

python3 -m venv "$work/venv"
for version in 0.35.2 0.42.1; do
  "$work/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6 diffusers==$version
  "$work/venv/bin/python" "$work/noise.py" 2> /dev/null | tee -a "$work/seen"
done

cat > "$work/expected" <<'TEXT'
0.35.2
  share of noise at t = 0, 3, 501, 998, 999
  DDPM: 0.01 0.02 0.96 1.00 1.00 when new, 0.01 0.02 0.96 1.00 1.00 after set_timesteps(20)
  DPMSolverMultistep: 1.00 1.00 0.96 0.01 0.01 when new, 0.17 0.17 0.17 0.17 1.00 after set_timesteps(20)
  UniPCMultistep: 1.00 1.00 0.96 0.01 0.01 when new, 0.17 0.17 0.17 0.17 1.00 after set_timesteps(20)
  DEISMultistep: 1.00 1.00 0.96 0.01 0.01 when new, 0.17 0.17 0.17 0.17 1.00 after set_timesteps(20)
0.42.1
  share of noise at t = 0, 3, 501, 998, 999
  DDPM: 0.01 0.02 0.96 1.00 1.00 when new, 0.01 0.02 0.96 1.00 1.00 after set_timesteps(20)
  DPMSolverMultistep: 1.00 1.00 0.96 0.01 0.01 when new, 0.17 0.17 0.17 0.17 1.00 after set_timesteps(20)
  UniPCMultistep: 1.00 1.00 0.96 0.01 0.01 when new, 0.17 0.17 0.17 0.17 1.00 after set_timesteps(20)
  DEISMultistep: 1.00 1.00 0.96 0.01 0.01 when new, 0.17 0.17 0.17 0.17 1.00 after set_timesteps(20)
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
