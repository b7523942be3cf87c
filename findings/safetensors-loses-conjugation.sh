#!/usr/bin/env bash
# Versions:  safetensors 0.8.0, torch 2.14.1, numpy 2.4.6, Python 3.11, on a CPU.
# Guess:     save_file stores the values of a tensor, or refuses it.
# Behaviour: conj() of torch is lazy: it marks a view of the same memory. save_file and save read the
#            memory and not the mark, and write the tensor without conjugation. contiguous() returns
#            such a view as it is, so that it does not help. torch.save keeps the values.
# Hurt:      whoever stores complex phases, spectra or spectral weights (rotary phases of the inverse
#            direction, structure factors): every imaginary part has the wrong sign after loading,
#            and nothing is said. resolve_conj() before saving helps.
# Source:    safetensors/torch.py (_tobytes).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/phases.py" <<'PYTHON'
import io
import sys

import safetensors
import torch
from safetensors.torch import load, load_file, save, save_file

phases = torch.polar(torch.ones(4), torch.arange(1.0, 5.0))
inverse = phases.conj()


def shown(tensor) -> str:
    if torch.equal(tensor, inverse):
        return "as it was"
    return "without conjugation" if torch.equal(tensor, phases) else "something else"


def by_file(tensor) -> str:
    save_file({"x": tensor}, f"{sys.argv[1]}/x.safetensors")
    return shown(load_file(f"{sys.argv[1]}/x.safetensors")["x"])


print(safetensors.__version__)
print("  save_file:", by_file(inverse))
print("  save:", shown(load(save({"x": inverse}))["x"]))
print("  save_file of contiguous():", by_file(inverse.contiguous()))
print("  save_file of resolve_conj():", by_file(inverse.resolve_conj()))
buffer = io.BytesIO()
torch.save(inverse, buffer)
print("  torch.save:", shown(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)))
PYTHON

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6 packaging safetensors==0.8.0
"$work/venv/bin/python" "$work/phases.py" "$work" 2> /dev/null | tee "$work/seen"

cat > "$work/expected" <<'TEXT'
0.8.0
  save_file: without conjugation
  save: without conjugation
  save_file of contiguous(): without conjugation
  save_file of resolve_conj(): as it was
  torch.save: as it was
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
