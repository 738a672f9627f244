"""From raw network output to instance labels."""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from spoco_bundle.clustering import MIN_SIZE, check_method, cluster_embeddings, default_parameters
from spoco_bundle.clustering.blocks import block_size
from spoco_bundle.clustering.half_voxels import NO_SHIFT
from spoco_bundle.core.embedding_space import add_coordinates
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.plain_tensors import plain
from spoco_bundle.formats.files import voxel_spacing


class ClusterEmbeddingsd(MapTransform):
    """Clusters the raw output of the network, (E, *spatial) or (E + 1, *spatial), into instance labels.

    Adds the coordinates to the first channels (semi-convolutional embeddings), takes the sigmoid of the objectness
    logit, calls ``cluster_embeddings``, and writes the labels (1, *spatial), int32 with the image's metadata,
    into the key, and the confidence per object, float32 (n,), into ``KEY_confidence``.

    Args:
        keys: raw network outputs (C, *spatial).
        method: one of ``spoco_bundle.clustering.METHODS``.
        coordinate_channels: number of channels that vote for the object's centre: the spatial axes, or 0.
        coordinate_scale: physical length that is 1 in the embedding space; None takes the network's.
        objectness: whether the last channel is the objectness logit.
        network: network whose buffer ``coordinate_scale`` travels with the weights, read at every call.
        image_key: the image, whose affine gives the spacing and whose metadata the labels take over.
        teacher_key: raw output of the teacher, same shape, for "consistency" and for the confidence; None without.
        foreground_key: a foreground mask (1, *spatial); None without.
        confidence: whether to compute the confidence.
        min_confidence: objects below it are dropped, in [0, 1].
        min_fraction: least size of an object, as a fraction of a ball (disc) of twice the coordinate scale, which is
            near the typical object; sets ``min_size`` where that is not given. None leaves it at its default.
        allow_missing_keys: whether a sample without the key passes through.
        params: further keywords of ``cluster_embeddings``: background, objectness_threshold, merge_distance... One that
            is None is left at its default.

    A sample may be a block of a larger volume: the image's metadata ``block_origin``, the index of its first voxel in
    the whole volume, then shifts the coordinates.

    Raises:
        SpocoError: if the method or a keyword of it is unknown; when called, if coordinates are asked for and no scale
            is known, or an argument does not fit.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        method: str = "density_peaks",
        coordinate_channels: int = 0,
        coordinate_scale: float | None = None,
        objectness: bool = False,
        network: torch.nn.Module | None = None,
        image_key: str = "image",
        teacher_key: str | None = None,
        foreground_key: str | None = None,
        confidence: bool = True,
        min_confidence: float = 0.0,
        min_fraction: float | None = None,
        allow_missing_keys: bool = False,
        **params: Any,
    ):
        super().__init__(keys, allow_missing_keys)
        if not 0 <= min_confidence <= 1:
            raise SpocoError(f"min_confidence is {min_confidence}: give a number from 0 to 1")
        params = {name: value for name, value in params.items() if value is not None}
        check_method(method, params)
        self.method = method
        self.coordinate_channels = coordinate_channels
        self.coordinate_scale = coordinate_scale
        self.objectness = objectness
        self.network = network
        self.image_key = image_key
        self.teacher_key = teacher_key
        self.foreground_key = foreground_key
        self.confidence = confidence
        self.min_confidence = min_confidence
        self.min_fraction = min_fraction
        self.params = params

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Returns a copy of the sample with labels in place of the network's outputs."""
        sample = dict(data)
        image = sample[self.image_key]
        for key in self.key_iterator(sample):
            embeddings, objectness = self._prepare(sample[key], image)
            teacher = None
            if self.teacher_key is not None:
                teacher, _ = self._prepare(sample[self.teacher_key], image)
            labels, confidence = cluster_embeddings(
                embeddings,
                self.method,
                teacher_embeddings=teacher,
                coordinate_channels=self.coordinate_channels,
                foreground=None if self.foreground_key is None else sample[self.foreground_key],
                objectness=objectness,
                image=plain(image) if self.params.get("background") == "intensity" else None,
                return_confidence=True,
                **{**self._smallest(image), **self.params},
            )
            if self.min_confidence > 0:
                labels, confidence = _drop_uncertain(labels, confidence, self.min_confidence)
            sample[key] = _like_image(labels[None], image)
            if self.confidence:
                sample[f"{key}_confidence"] = torch.as_tensor(confidence)
        return sample

    def _prepare(self, output: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings with coordinates (E, *spatial), and the objectness (*spatial) in [0, 1]."""
        output = plain(torch.as_tensor(output))
        objectness = None
        if self.objectness:
            objectness = torch.sigmoid(output[-1].float())
            output = output[:-1]
        if self.coordinate_channels:
            dims = output.ndim - 1
            origin = getattr(image, "meta", {}).get("block_origin")
            output = add_coordinates(output[None], voxel_spacing(image, dims), self.scale(), origin)[0]
        return output, objectness

    def for_pieces_of(self, shape: Sequence[int]) -> ClusterEmbeddingsd:
        """A copy for pieces of a volume (*spatial) of this shape, which sees them as it would see the whole volume."""
        clustering = copy.copy(self)
        if self.method == "density_peaks":
            most = self.params.get("max_blocks", default_parameters(self.method)["max_blocks"])
            whole = (1,) * (3 - len(shape)) + tuple(shape)
            # a shift is measured on whole volumes: pieces that disagreed about it would not fit together
            clustering.params = {"pooling": block_size(whole, most), "half_voxels": NO_SHIFT, **self.params}
        return clustering

    def least_voxels(self, image: torch.Tensor) -> int:
        """Voxels of the smallest object that is kept in this image."""
        return int({"min_size": MIN_SIZE, **self._smallest(image), **self.params}["min_size"])

    def _smallest(self, image: torch.Tensor) -> dict[str, int]:
        """Least size of an object in voxels, where it follows from the coordinate scale."""
        if self.min_fraction is None or not self.coordinate_channels:
            return {}
        dims = image.ndim - 1
        radius = 2 * self.scale()
        ball = 4 / 3 * math.pi * radius**3 if dims == 3 else math.pi * radius**2
        voxels = self.min_fraction * ball / math.prod(voxel_spacing(image, dims))
        return {"min_size": max(1, round(voxels))}

    def scale(self) -> float:
        """Physical length that is 1 in the embedding space.

        Raises:
            SpocoError: if neither the argument nor the network says it.
        """
        if self.coordinate_scale is not None:
            return float(self.coordinate_scale)
        scale = float(getattr(self.network, "coordinate_scale", 0.0))
        if scale <= 0:
            raise SpocoError(
                "coordinate_scale: neither the network's weights nor the argument say it; set coordinate_scale to a "
                "length near the objects' radius, in the unit of the image's spacing"
            )
        return scale


def _drop_uncertain(
    labels: torch.Tensor, confidence: torch.Tensor, threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    kept = confidence >= threshold
    new = torch.zeros(len(kept) + 1, dtype=labels.dtype, device=labels.device)
    new[1:][kept] = torch.arange(1, int(kept.sum()) + 1, dtype=labels.dtype, device=labels.device)
    return new[labels.long()], confidence[kept]


def _like_image(labels: torch.Tensor, image: torch.Tensor) -> MetaTensor:
    if not isinstance(image, MetaTensor):
        return MetaTensor(labels)
    meta = {name: value for name, value in image.meta.items() if name != "affine"}
    return MetaTensor(labels, affine=image.affine, meta=meta)
