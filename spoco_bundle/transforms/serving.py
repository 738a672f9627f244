"""What the configs need besides when MONAI Label runs them: weights before the image, a file for viewers after."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from spoco_bundle.formats.itk_io import file_grid
from spoco_bundle.networks import load_weights

#: entry that MONAI Label adds to every sample; other workflows have none
SERVED = "image_path"


class LoadServedWeightsd(Transform):
    """Loads the weights that a request asks for into the network that the other transforms read.

    MONAI Label runs the weights in a copy of its own of the network; spacing and coordinate scale, which travel with
    the weights, are read from the one of the config. Weights that do not fit are refused here, where MONAI Label would
    go on with random ones. Samples of other workflows pass through.

    Args:
        network: the ``network_def`` of the config.
        ckpt_dir: folder of the weights; the request's ``model_filename`` names the file, by default ``model.pt``.

    Raises:
        SpocoError: when called, if the file is missing or made for another network.
    """

    def __init__(self, network: torch.nn.Module, ckpt_dir: str):
        self.network = network
        self.ckpt_dir = Path(ckpt_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the sample as it is."""
        if SERVED in data:
            name = data.get("model_filename") or "model.pt"
            load_weights(self.network, self.ckpt_dir / (name if isinstance(name, str) else name[0]))
        return dict(data)


class HandOutd(MapTransform):
    """Brings labels into the form that MONAI Label writes and viewers lay over the image.

    Axes become x, y, z and the affine that of the file as ITK reads it, whose readers all viewers share. The type is
    the smallest of uint16 and uint32 that holds the ids, whatever the client asked for (3D Slicer and OHIF ask for
    uint8, which would wrap ids above 255). Samples of other workflows pass through.

    Args:
        keys: labels (1, *spatial), z, y, x, on the grid of the file.

    Raises:
        SpocoError: when called, if the image file cannot be read.
    """

    def __init__(self, keys: KeysCollection = "pred"):
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the sample with labels (x, y, z), (x, y, 1) where the file says so, or (x, y)."""
        sample = dict(data)
        if SERVED in sample:
            for key in self.key_iterator(sample):
                labels = np.asarray(torch.as_tensor(sample[key]).cpu())[0]
                sample[key], sample["result_dtype"] = as_served(labels, sample[SERVED])
        return sample


def as_served(labels: np.ndarray, image_path: str | Path) -> tuple[MetaTensor, str]:
    """Labels as MONAI Label's writer takes them, and the type to write them in.

    Args:
        labels: (*spatial) non-negative ids, z, y, x.
        image_path: the image, whose grid they are on.

    Returns:
        MetaTensor int64 (x, y, z), with the affine from index x, y, z to right, anterior, superior, and "uint16" or
        "uint32".

    Raises:
        SpocoError: if the image file cannot be read.
    """
    affine, rank = file_grid(image_path)
    array = torch.from_numpy(labels.astype(np.int64).transpose().copy())
    array = array[..., None] if array.ndim < rank else array
    dtype = "uint16" if labels.size == 0 or labels.max() < 2**16 else "uint32"
    return MetaTensor(array, affine=torch.from_numpy(affine)), dtype
