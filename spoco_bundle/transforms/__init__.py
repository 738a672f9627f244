"""Dictionary transforms: from files to training crops, and from embeddings to instance files."""

from spoco_bundle.transforms.annotation import ReadAnnotationd, ScopeAnnotationd
from spoco_bundle.transforms.check_spacing import CheckSpacingd
from spoco_bundle.transforms.checks import CheckLabelsd
from spoco_bundle.transforms.clustering import ClusterEmbeddingsd
from spoco_bundle.transforms.crops import CropAnnotatedd, IndexInstancesd, RelabelAndDropFragmentsd
from spoco_bundle.transforms.equal_sizes import EqualSizesd
from spoco_bundle.transforms.foreground import FindForegroundd
from spoco_bundle.transforms.hold_out import HeldOut, HoldOutObjectsd
from spoco_bundle.transforms.intensity import NormalizePercentiled
from spoco_bundle.transforms.io import CheckResultd, LoadVolumed, SaveInstancesd
from spoco_bundle.transforms.paste import PasteObjectsd
from spoco_bundle.transforms.sampling import KeepInstanceFractiond
from spoco_bundle.transforms.serving import HandOutd, LoadServedWeightsd
from spoco_bundle.transforms.spacing import ResampleToSpacingd, RestoreGridd
from spoco_bundle.transforms.validation_part import ValidationPartd
from spoco_bundle.transforms.views import TwoViewsd
from spoco_bundle.transforms.working_spacing import WorkingSpacingd

__all__ = [
    "CheckLabelsd",
    "CheckResultd",
    "CheckSpacingd",
    "ClusterEmbeddingsd",
    "CropAnnotatedd",
    "EqualSizesd",
    "FindForegroundd",
    "HandOutd",
    "HeldOut",
    "HoldOutObjectsd",
    "IndexInstancesd",
    "KeepInstanceFractiond",
    "LoadServedWeightsd",
    "LoadVolumed",
    "NormalizePercentiled",
    "PasteObjectsd",
    "ReadAnnotationd",
    "RelabelAndDropFragmentsd",
    "ResampleToSpacingd",
    "RestoreGridd",
    "SaveInstancesd",
    "ScopeAnnotationd",
    "TwoViewsd",
    "ValidationPartd",
    "WorkingSpacingd",
]
