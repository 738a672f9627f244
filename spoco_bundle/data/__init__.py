"""Images in and out, lists of them, checks on annotations, and the crops that training draws."""

from spoco_bundle.data.batch_dataset import BatchDataset
from spoco_bundle.data.crop_dataset import SparseCropDataset
from spoco_bundle.data.datalist import build_datalist, image_name
from spoco_bundle.data.epoch_sampler import EpochSampler
from spoco_bundle.data.finished import unfinished
from spoco_bundle.data.geometry import Volume, batch_spacing, spacing_warning, voxel_spacing
from spoco_bundle.data.label_checks import check_labels
from spoco_bundle.data.objects_table import objects_table, write_objects_table
from spoco_bundle.data.volumes import file_suffix, read_volume, write_instances

__all__ = [
    "BatchDataset",
    "EpochSampler",
    "SparseCropDataset",
    "Volume",
    "batch_spacing",
    "build_datalist",
    "check_labels",
    "file_suffix",
    "image_name",
    "objects_table",
    "read_volume",
    "spacing_warning",
    "unfinished",
    "voxel_spacing",
    "write_instances",
    "write_objects_table",
]
