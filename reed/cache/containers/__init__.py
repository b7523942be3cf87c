"""The files that shards are stored in: tar, HDF5 and zarr, all read by byte offsets."""
