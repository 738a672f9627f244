"""Volumes larger than memory: blocks with overlap on Dask, stitched into the partition of the whole volume."""
