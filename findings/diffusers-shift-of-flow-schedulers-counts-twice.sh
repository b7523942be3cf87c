#!/usr/bin/env bash
# Versions:  diffusers 0.31.0 and 0.42.1, torch 2.14.1, Python 3.11, on a CPU.
# Guess:     FlowMatchEulerDiscreteScheduler(shift=3), as Stable Diffusion 3 is configured, samples on
#            the times 3u / (1 + 2u) of evenly spaced u; set_timesteps(1000) gives the 1,000 times
#            that the scheduler had for training; set_shift(3), or a dynamic shift of log 3, is the
#            same as shift=3.
# Behaviour: none of these. Given to the constructor, the shift also moves the ends of the even
#            spacing, and set_timesteps shifts once more: the smallest time is 0.0089, where that of
#            training is 0.0030, and all between 0 and 1 are larger than they should be. A shift that
#            is set later, and a dynamic one, count once. FlowMatchHeunDiscreteScheduler does the same.
# Hurt:      whoever compares samplers or inverts images by the times of training, and whoever ports a
#            schedule: the same shift gives other samples by how it is set. The last step is one
#            of 0.0089 in place of 0.0030, with the noise that this leaves. Explicit sigmas or
#            set_shift after construction avoid it.
# Source:    seen while comparing shifted times; https://github.com/huggingface/diffusers/issues/13243
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/shifts.py" <<'PYTHON'
import math

import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler as Euler
from diffusers import FlowMatchHeunDiscreteScheduler as Heun


def ends(scheduler) -> list[float]:
    """The three smallest times of ten steps and zero."""
    return [round(time, 4) for time in sorted(set(scheduler.sigmas.tolist()))[:3]]


print(diffusers.__version__)
for name, kind in (("Euler", Euler), ("Heun", Heun)):
    scheduler = kind(shift=3.0)
    trained = scheduler.sigmas.min().item()
    scheduler.set_timesteps(1000)
    sampled = scheduler.sigmas[scheduler.sigmas > 0].min().item()
    scheduler.set_timesteps(10)
    print(f"  {name}: {trained:.4f} in training, {sampled:.4f} in 1,000 steps of sampling")
    print(f"    shift=3, 10 steps: {ends(scheduler)}")

if hasattr(Euler, "set_shift"):
    later = Euler()
    later.set_shift(3.0)
    later.set_timesteps(10)
    print(f"  Euler: set_shift(3), 10 steps: {ends(later)}")
dynamic = Euler(use_dynamic_shifting=True)
dynamic.set_timesteps(10, mu=math.log(3))
print(f"  Euler: mu=log(3), 10 steps: {ends(dynamic)}")
PYTHON

python3 -m venv "$work/venv"
for versions in "0.31.0 huggingface-hub==0.36.0" 0.42.1; do
  "$work/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6 diffusers==$versions
  "$work/venv/bin/python" "$work/shifts.py" 2> /dev/null | tee -a "$work/seen"
done

cat > "$work/expected" <<'TEXT'
0.31.0
  Euler: 0.0030 in training, 0.0089 in 1,000 steps of sampling
    shift=3, 10 steps: [0.0, 0.0089, 0.278]
  Heun: 0.0030 in training, 0.0089 in 1,000 steps of sampling
    shift=3, 10 steps: [0.0, 0.0089, 0.278]
  Euler: mu=log(3), 10 steps: [0.0, 0.003, 0.2745]
0.42.1
  Euler: 0.0030 in training, 0.0089 in 1,000 steps of sampling
    shift=3, 10 steps: [0.0, 0.0089, 0.278]
  Heun: 0.0030 in training, 0.0089 in 1,000 steps of sampling
    shift=3, 10 steps: [0.0, 0.0089, 0.278]
  Euler: set_shift(3), 10 steps: [0.0, 0.003, 0.2745]
  Euler: mu=log(3), 10 steps: [0.0, 0.003, 0.2745]
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
