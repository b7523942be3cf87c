#!/usr/bin/env bash
# Versions:  zarr 3.1.6, xarray 2026.9.0, numpy 2.2.0, Python 3.11.
# Guess:     the fill value of a zarr array says what chunks that nobody wrote hold. Values that were
#            written are values, whichever library reads them.
# Behaviour: of an array in zarr's format 2, xarray takes the fill value for "missing", and zarr's own
#            default for it is 0. Every zero that was written is NaN, and integers become floats. The
#            same array in format 3 is read as it was written.
# Hurt:      whoever stores uint8 pixels, one-hot labels, masks or features behind a ReLU with zarr, and
#            opens them by open_zarr (for its names of axes, or dask): black is missing, means leave
#            zeros out, and a uint8 array takes four times the memory. mask_and_scale=False helps.
# Source:    seen while reading caches of features by other libraries; open_zarr has
#            use_zarr_fill_value_as_mask, which goes by the format.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/zeros.py" <<'PYTHON'
import warnings

import numpy as np
import xarray as xr
import zarr

warnings.simplefilter("ignore")
values = np.array([[0, 1, 2, 3], [4, 0, 6, 7]], dtype=np.uint8)
for form in (2, 3):
    group = zarr.open_group(f"{form}.zarr", mode="w", zarr_format=form)
    names = {"dimension_names": ("n", "d")} if form == 3 else {}
    array = group.create_array("features", shape=values.shape, dtype=values.dtype, **names)
    if form == 2:  # where names of axes are kept by convention
        array.attrs["_ARRAY_DIMENSIONS"] = ["n", "d"]
    array[:] = values
    own = zarr.open_group(f"{form}.zarr", mode="r")["features"][:]
    print(f"format {form}, zarr:   {own.dtype} {own.tolist()}, mean of row 0 {own[0].mean()}")
    for options in ({}, {"mask_and_scale": False}):
        read = xr.open_zarr(f"{form}.zarr", consolidated=False, **options)["features"]
        said = f"{read.dtype} {read.values.tolist()}, mean of row 0 {float(read[0].mean())}"
        print(f"format {form}, xarray: {said}" + (f" ({options})" if options else ""))
PYTHON

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.2.0 zarr==3.1.6 xarray==2026.9.0
(cd "$work" && "$work/venv/bin/python" zeros.py) | tee "$work/seen"

cat > "$work/expected" <<'TEXT'
format 2, zarr:   uint8 [[0, 1, 2, 3], [4, 0, 6, 7]], mean of row 0 1.5
format 2, xarray: float32 [[nan, 1.0, 2.0, 3.0], [4.0, nan, 6.0, 7.0]], mean of row 0 2.0
format 2, xarray: uint8 [[0, 1, 2, 3], [4, 0, 6, 7]], mean of row 0 1.5 ({'mask_and_scale': False})
format 3, zarr:   uint8 [[0, 1, 2, 3], [4, 0, 6, 7]], mean of row 0 1.5
format 3, xarray: uint8 [[0, 1, 2, 3], [4, 0, 6, 7]], mean of row 0 1.5
format 3, xarray: uint8 [[0, 1, 2, 3], [4, 0, 6, 7]], mean of row 0 1.5 ({'mask_and_scale': False})
TEXT
diff "$work/expected" "$work/seen" && echo "as described above"
