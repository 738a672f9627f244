"""Files in and out: NIfTI, TIFF, Zarr and what ITK reads, each as one `Image` with its geometry."""

from spoco_bundle.formats.files import check_result, image_dimensions, read_image, write_instances
from spoco_bundle.formats.geometry import Image, batch_spacing, voxel_spacing
from spoco_bundle.formats.names import file_suffix, result_suffix
from spoco_bundle.formats.objects_table import objects_table, write_objects_table

__all__ = [
    "Image",
    "batch_spacing",
    "check_result",
    "file_suffix",
    "image_dimensions",
    "objects_table",
    "read_image",
    "result_suffix",
    "voxel_spacing",
    "write_instances",
    "write_objects_table",
]
