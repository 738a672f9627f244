"""Training and prediction sets: lists of files, checks on annotations, and the crops that training draws."""

from spoco_bundle.dataset.batch_dataset import BatchDataset
from spoco_bundle.dataset.crop_dataset import SparseCropDataset
from spoco_bundle.dataset.datalist import build_datalist, image_name
from spoco_bundle.dataset.epoch_sampler import EpochSampler
from spoco_bundle.dataset.label_checks import check_labels
from spoco_bundle.dataset.resume import unfinished

__all__ = [
    "BatchDataset",
    "EpochSampler",
    "SparseCropDataset",
    "build_datalist",
    "check_labels",
    "image_name",
    "unfinished",
]
