#!/usr/bin/env bash
# Versions:  torchvision 0.23.0 and 0.29.1, torch 2.8.0 and 2.14.1, pillow 12.0.0, numpy 2.2.0,
#            Python 3.11, on a CPU.
# Guess:     a float image between 0 and 1 becomes the same bytes by each function of torchvision that
#            makes 8-bit images of it, as a picture that was read from a file does.
# Behaviour: to_pil_image cuts 255 x off, save_image rounds it, and ToDtype(uint8, scale=True) and
#            convert_image_dtype cut 255.999 x off. Multiples of 1/255, which is what one tests with,
#            come back the same from all. Of other values, to_pil_image and save_image differ in half,
#            and to_pil_image makes an image darker by half a level on average.
# Hurt:      whoever compares generated images that were saved by one way with a published number that
#            was saved by another, or computes FID once from tensors and once from files: the images
#            are one level apart in half of their values, always to one side. Rounding (save_image)
#            is the one without a bias.
# Source:    seen while comparing measures of tensors and of the files that were saved from them.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/bytes.py" <<'PYTHON'
import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.transforms.functional import convert_image_dtype, to_pil_image
from torchvision.transforms.v2 import functional
from torchvision.utils import save_image


def saved(x):
    save_image(x, "saved.png")
    return torch.from_numpy(np.array(Image.open("saved.png"))).permute(2, 0, 1)


WAYS = {
    "to_pil_image": lambda x: torch.from_numpy(np.array(to_pil_image(x))).permute(2, 0, 1),
    "save_image": saved,
    "convert_image_dtype": lambda x: convert_image_dtype(x, torch.uint8),
    "ToDtype": lambda x: functional.to_dtype(x, torch.uint8, scale=True),
}

print(torchvision.__version__.split("+")[0])
levels = torch.arange(256)
files = (levels / 255).view(1, 16, 16).expand(3, 16, 16)
made = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
found = {name: way(made).to(torch.int64) for name, way in WAYS.items()}
for name, way in WAYS.items():
    wrong = int((way(files)[0].flatten() != levels).sum())
    bias = float((found[name] - made.double() * 255).mean())
    other = float((found[name] != found["save_image"]).double().mean())
    print(f"  {name}: {wrong} of 256 levels change, others by {bias:+.1f} on average,", end=" ")
    print(f"{other:.0%} unlike save_image")
PYTHON

python3 -m venv "$work/venv"
for versions in "torch==2.8.0 torchvision==0.23.0" "torch==2.14.1 torchvision==0.29.1"; do
  "$work/venv/bin/pip" install --quiet numpy==2.2.0 pillow==12.0.0 $versions
  (cd "$work" && "$work/venv/bin/python" bytes.py) | tee -a "$work/seen"
done

cat > "$work/expected" <<'TEXT'
0.23.0
  to_pil_image: 0 of 256 levels change, others by -0.5 on average, 50% unlike save_image
  save_image: 0 of 256 levels change, others by +0.0 on average, 0% unlike save_image
  convert_image_dtype: 0 of 256 levels change, others by +0.0 on average, 25% unlike save_image
  ToDtype: 0 of 256 levels change, others by +0.0 on average, 25% unlike save_image
0.29.1
  to_pil_image: 0 of 256 levels change, others by -0.5 on average, 50% unlike save_image
  save_image: 0 of 256 levels change, others by +0.0 on average, 0% unlike save_image
  convert_image_dtype: 0 of 256 levels change, others by +0.0 on average, 25% unlike save_image
  ToDtype: 0 of 256 levels change, others by +0.0 on average, 25% unlike save_image
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
