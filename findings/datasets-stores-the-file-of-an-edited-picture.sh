#!/usr/bin/env bash
# Versions:  datasets 3.6.0 and 5.2.0, pillow 12.0.0, numpy 2.2.0, Python 3.11.
# Guess:     a picture that is given to a data set is stored with the pixels that it has then.
# Behaviour: a picture of Pillow that was opened from a file still names the file after it was changed
#            in place (paste, thumbnail, drawing on it). datasets then stores the path, not the
#            pixels, and what is read back is the file as it was. map() does so for pictures that it
#            has just decoded itself from a path. A changed copy (resize, convert, crop) has no name
#            of a file, and is stored as it is.
# Hurt:      whoever blacks out faces or labels, or makes pictures smaller by thumbnail(), on the way
#            into a data set: nothing is masked and nothing is smaller, and what is pushed to a hub is
#            the originals. Latents and features cached from it belong to other pictures. copy()
#            before storing helps.
# Source:    datasets/features/image.py (encode_pil_image).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/edit.py" <<'PYTHON'
import sys

import datasets
import numpy as np
from PIL import Image

datasets.disable_progress_bars()
FILE = f"{sys.argv[1]}/grey.png"
IMAGES = datasets.Features({"image": datasets.Image()})
Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(FILE)


def black(image):
    image.paste((0, 0, 0), (0, 0, 64, 64))
    return image


def small(image):
    image.thumbnail((16, 16))
    return image


def shown(image) -> str:
    return f"{image.size[0]} pixels wide, at most {np.asarray(image).max()}"


def stored(image) -> str:
    return shown(datasets.Dataset.from_dict({"image": [image]}, features=IMAGES)[0]["image"])


def mapped(edit) -> str:
    data = datasets.Dataset.from_dict({"image": [FILE]}).cast_column("image", datasets.Image())
    return shown(data.map(lambda row: {"image": edit(row["image"])})[0]["image"])


print(datasets.__version__)
for edit in (black, small):
    print(f"  {edit.__name__} in memory: {shown(edit(Image.open(FILE)))}")
    print(f"    stored: {stored(edit(Image.open(FILE)))}; by map: {mapped(edit)}")
    print(f"    stored as a copy: {stored(edit(Image.open(FILE)).copy())}")
PYTHON

python3 -m venv "$work/venv"
for version in 3.6.0 5.2.0; do
  "$work/venv/bin/pip" install --quiet numpy==2.2.0 pillow==12.0.0 datasets==$version
  HF_HOME="$work/home" "$work/venv/bin/python" "$work/edit.py" "$work" 2> /dev/null \
    | tee -a "$work/seen"
done

cat > "$work/expected" <<'TEXT'
3.6.0
  black in memory: 64 pixels wide, at most 0
    stored: 64 pixels wide, at most 200; by map: 64 pixels wide, at most 200
    stored as a copy: 64 pixels wide, at most 0
  small in memory: 16 pixels wide, at most 200
    stored: 64 pixels wide, at most 200; by map: 64 pixels wide, at most 200
    stored as a copy: 16 pixels wide, at most 200
5.2.0
  black in memory: 64 pixels wide, at most 0
    stored: 64 pixels wide, at most 200; by map: 64 pixels wide, at most 200
    stored as a copy: 64 pixels wide, at most 0
  small in memory: 16 pixels wide, at most 200
    stored: 64 pixels wide, at most 200; by map: 64 pixels wide, at most 200
    stored as a copy: 16 pixels wide, at most 200
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
