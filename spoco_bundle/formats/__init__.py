"""Files in and out: NIfTI, TIFF, Zarr and what ITK reads, each as one `Image` with its geometry."""

from spoco_bundle.formats.files import file_suffix, read_image, write_instances
from spoco_bundle.formats.geometry import Image, batch_spacing, spacing_warning, voxel_spacing
from spoco_bundle.formats.objects_table import objects_table, write_objects_table

__all__ = [
    "Image",
    "batch_spacing",
    "file_suffix",
    "objects_table",
    "read_image",
    "spacing_warning",
    "voxel_spacing",
    "write_instances",
    "write_objects_table",
]
