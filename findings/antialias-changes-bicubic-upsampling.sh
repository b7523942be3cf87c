#!/usr/bin/env bash
# Versions:  torch 2.8.0 and 2.14.1, pillow 12.0.0, numpy 2.2.0, Python 3.11, on a CPU.
# Guess:     antialiasing widens the kernel where an image is made smaller; where one is made larger
#            there is nothing to widen, so interpolate(..., mode="bicubic") gives the same with
#            antialias=True and without.
# Behaviour: the two use different kernels. Without antialias the cubic has the coefficient -0.75,
#            with it -0.5, as Pillow has it, at every size: twice as large, a single one in a row of
#            zeros becomes 0.879 in the one and 0.867 in the other.
# Hurt:      whoever resizes the position embedding of a vision transformer to a larger grid by
#            another library than the one it was published with: DINOv2's own code resizes without
#            antialias, timm with it. Features of the same weights and pixels then differ, and so do
#            distances such as FD-DINOv2, with no downsampling anywhere.
# Source:    seen while comparing resized position embeddings with those of the hub's code.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/resize.py" <<'PYTHON'
import numpy as np
import torch
from PIL import Image

row = np.zeros((1, 9), np.float32)
row[0, 4] = 1
x = torch.from_numpy(row)[None, None]


def shown(values) -> str:
    return " ".join(f"{value:+.4f}" for value in np.asarray(values).ravel()[5:9])


print(torch.__version__.partition("+")[0])
for antialias in (False, True):
    y = torch.nn.functional.interpolate(x, (1, 18), mode="bicubic", antialias=antialias)
    print(f"  antialias={antialias}: {shown(y)}")
print(f"  Pillow: {shown(Image.fromarray(row).resize((18, 1), Image.Resampling.BICUBIC))}")
PYTHON

python3 -m venv "$work/venv"
for version in 2.8.0 2.14.1; do
  "$work/venv/bin/pip" install --quiet torch==$version numpy==2.2.0 pillow==12.0.0
  "$work/venv/bin/python" "$work/resize.py" | tee -a "$work/seen"
done

cat > "$work/expected" <<'TEXT'
2.8.0
  antialias=False: -0.0352 -0.1055 +0.2617 +0.8789
  antialias=True: -0.0234 -0.0703 +0.2266 +0.8672
  Pillow: -0.0234 -0.0703 +0.2266 +0.8672
2.14.1
  antialias=False: -0.0352 -0.1055 +0.2617 +0.8789
  antialias=True: -0.0234 -0.0703 +0.2266 +0.8672
  Pillow: -0.0234 -0.0703 +0.2266 +0.8672
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
