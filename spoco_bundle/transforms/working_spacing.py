"""The resolution at which a network looks at an image: as far as it is known, that at which it learnt."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from spoco_bundle.blockwise.memory import PROCESS, available_memory, readable, whole_memory, window_voxels
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import PIXEL, in_words
from spoco_bundle.core.plain_tensors import plain
from spoco_bundle.core.readable_image import ReadableImage
from spoco_bundle.core.resampling import resized_shape
from spoco_bundle.core.sampling import sampled_places
from spoco_bundle.formats.geometry import voxel_spacing
from spoco_bundle.networks.lengths import alike_spacings, learnt_diameter, learnt_lengths, spacing_for
from spoco_bundle.transforms.clustering import ClusterEmbeddingsd
from spoco_bundle.transforms.object_size import ObjectFinder, find_scale
from spoco_bundle.transforms.spacing import GRID_AFFINE, resampled, with_spacing

logger = logging.getLogger(__name__)

#: what is said once, where it has a key, or of every image: key, level, text
Line = tuple[str | None, int, str | None]


class Seen(NamedTuple):
    """How a network sees an image.

    Attributes:
        spacing: of the image's voxels, in the unit of the weights; None where it is a pixel of a network without any.
        shape: voxels of the grid on which the network works, which covers the same extent.
    """

    spacing: tuple[float, ...] | None
    shape: tuple[int, ...]


class WorkingSpacingd(MapTransform):
    """Gives images the lengths with which the network sees them, and resamples them to its working resolution.

    What decides, the first that is there:

    1. ``diameter``, the size of the image's objects in pixels;
    2. the physical size of image and weights, where both have one and it leaves objects visible;
    3. the objects themselves: they are looked for in a part of the image at a few scales (see ``find_scale``). Where
       they are found to be about as large as those of the training, or not at all, the image's pixels are taken as
       those of the training.

    An image that is then coarser or finer than the network works at is resampled; labels come back with
    ``RestoreGridd``. What the file states of its size stays in the metadata, for the results. One line says what was
    done, where it is the same for all images only for the first. Prediction block by block asks ``decide`` and
    resamples by itself.

    Args:
        keys: images, MetaTensors from ``LoadVolumed``, normalised.
        network: network with the buffers of ``EmbeddingUNet``.
        clustering: finds the objects that are measured; None measures none.
        inferer: runs the network in windows, for the same purpose.
        target_spacing: working resolution along z, y, x (or y, x) in the unit of the weights; None for that of the
            training where the image differs from it.
        diameter: of the objects, in pixels of the image plane; None where it is not known.
        object_diameter: of the objects that the network learnt, in its unit; None for what its weights say.
        large_diameter: of a large one of these, no less; objects up to it are not shrunk. None where it is not known.
        assumed_spacing: that ``LoadVolumed`` was given: it is no size that an image states.
        second_network: where ``clustering`` compares two.
        foreground_key: a foreground mask, resampled with the image by the nearest voxel; None without.
        tolerance: ratio along an axis, at least 1, up to which two resolutions count as the same.
        allow_missing_keys: whether a sample without the key passes through.

    Raises:
        SpocoError: if the tolerance is below 1; when called, if the axes do not fit the network, a diameter is given
            and the size of the objects that the network learnt is unknown, large objects are below typical ones, or an
            image does not fit into the free memory.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        *,
        network: torch.nn.Module,
        clustering: ClusterEmbeddingsd | None = None,
        inferer: Callable[..., torch.Tensor] | None = None,
        target_spacing: Sequence[float] | None = None,
        diameter: float | None = None,
        object_diameter: float | None = None,
        large_diameter: float | None = None,
        assumed_spacing: Sequence[float] | None = None,
        second_network: torch.nn.Module | None = None,
        foreground_key: str | None = None,
        tolerance: float = 1.25,
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, allow_missing_keys)
        if tolerance < 1:
            raise SpocoError(f"tolerance is {tolerance}: give a ratio of at least 1")
        self.network = network
        self.clustering = clustering
        self.inferer = inferer
        self.target_spacing = None if target_spacing is None else tuple(target_spacing)
        self.diameter = diameter
        self.object_diameter = object_diameter
        self.large_diameter = large_diameter
        self.assumed_spacing = None if assumed_spacing is None else tuple(assumed_spacing)
        self.second_network = second_network
        self.foreground_key = foreground_key
        self.tolerance = tolerance
        self._said: set[str] = set()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the sample, with the network's lengths in the affines, resampled where it has to be."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            mask = None if self.foreground_key is None else sample[self.foreground_key]
            seen = self.decide(in_memory(sample[key], mask))
            self._check_memory(sample[key], seen.shape)
            if seen.spacing is None:
                continue
            other_grid = seen.shape != tuple(sample[key].shape[1:])
            for name in (key,) if mask is None else (key, self.foreground_key):
                affine = sample[name].affine
                sample[name] = with_spacing(sample[name], seen.spacing)
                if other_grid:
                    sample[name] = resampled(sample[name], seen.shape, "linear" if name == key else "nearest")
                    sample[name].meta[GRID_AFFINE] = affine.clone()
        return sample

    def decide(self, image: ReadableImage) -> Seen:
        """How the network sees an image; says so."""
        seen, lines = self._decided(image)
        for key, level, message in lines:
            if message is not None and key not in self._said:
                self._said |= set() if key is None else {key}
                logger.log(level, "%s", message)
        return seen

    def foresee(self, image: ReadableImage) -> tuple[int, ...]:
        """Voxels of the grid on which the network will work, as far as the header of an image tells."""
        return self._decided(image)[0].shape

    def _decided(self, image: ReadableImage) -> tuple[Seen, list[Line]]:
        spacing, lines = self._seen_as(image)
        target = None if spacing is None else self._target(spacing)
        shape = image.shape if target is None else resized_shape(image.shape, spacing, target)
        return Seen(spacing, shape), lines

    def _check_memory(self, image: MetaTensor, shape: tuple[int, ...]) -> None:
        """Refuses an image that does not fit into the free memory as a whole, on the grid of the network."""
        head = getattr(self.network, "head", None)
        if head is None:
            return
        free, stored = available_memory(), tuple(image.shape[1:])
        window = int(window_voxels(math.prod(shape), free, head.in_channels))
        resampled_from = 0 if shape == stored else math.prod(stored)
        need = whole_memory(math.prod(shape), len(image), head.out_channels, head.in_channels, window, resampled_from)
        if need - PROCESS <= free:
            return
        part = 2 ** int(math.log2(max(1, math.prod(stored) * free / need)))
        size, remedy = f"has {in_words(shape)} voxels", ""
        if resampled_from:
            size = f"becomes {in_words(shape)} voxels at the resolution at which the model works"
            remedy = ", or give another size with --spacing or --diameter"
        raise SpocoError(
            f"{image.meta['filename_or_obj']}: {size}, for which {readable(need - PROCESS)} of {readable(free)} free "
            "memory are needed: predict it block by block with --blockwise True, evaluate a part of it with "
            f"--validation_voxels {part}{remedy}"
        )

    def _seen_as(self, image: ReadableImage) -> tuple[tuple[float, ...] | None, list[Line]]:
        """The spacing with which the network sees an image, and what is to be said of it."""
        name, unit, own, stated = image.name, image.unit, image.spacing, image.stated_size
        usual, message = spacing_for(self.network, own, unit, name, stated)
        trained, learnt = learnt_lengths(self.network)
        diameter = self.object_diameter or learnt_diameter(self.network)
        if diameter is not None and self.large_diameter is not None and self.large_diameter < diameter:
            raise SpocoError(
                f"large_diameter: {self.large_diameter:g} is less than the {diameter:g} of a typical object that the "
                "network learnt: give at least that, or None"
            )
        if self.diameter is not None:
            if trained is None or diameter is None:
                raise SpocoError(
                    f"diameter: the weights do not say the size of the objects that they learnt, so {self.diameter:g} "
                    "pixels say nothing: give --object_diameter too, or resample the image"
                )
            shape = own if unit == learnt != PIXEL else self._usual()
            step = diameter / self.diameter  # of a pixel in the image plane
            across = diameter / _in_plane(self._usual())
            message = (
                f"objects are {self.diameter:g} pixels across as you say, the model learnt {across:.3g}: looked at "
                f"{across / self.diameter:.2g} times the size"
            )
            return tuple(size * step / _in_plane(shape) for size in shape), [("diameter", logging.INFO, message)]
        if trained is None:
            return usual, [(unit, logging.WARNING, message)]
        known = unit == learnt != PIXEL
        lines: list[Line] = []
        if known and own != self.assumed_spacing:
            across = math.nan if diameter is None else diameter / _in_plane(own)
            if diameter is None or 2 <= across <= max(image.shape[-2:]):
                return own, self._resampling_lines(own, learnt, name)
            doubt = (
                f"{name}: states a voxel size of {stated or in_words(own, unit)}, at which an object such as the model "
                f"learnt would be {_rounded(across)} pixels across: it is not believed; --spacing corrects it"
            )
            lines.append((f"size {own}", logging.WARNING, doubt))
            message = None
        base = own if known and own == self.assumed_spacing else self._usual()
        if diameter is None or self.clustering is None or image.read is None:
            return base, [*lines, (unit, logging.WARNING, message)]
        seen, found = self._seen_by_objects(image, base, diameter, message)
        return seen, [*lines, *found]

    def _usual(self) -> tuple[float, ...]:
        """The spacing of an image of unknown size, where its objects are as large as those of the training."""
        trained, learnt = learnt_lengths(self.network)
        return (1.0,) * len(trained) if learnt == PIXEL else trained

    def _seen_by_objects(
        self, image: ReadableImage, base: tuple[float, ...], diameter: float, message: str | None
    ) -> tuple[tuple[float, ...], list[Line]]:
        work = self._target(base) or base
        grid = [size * step / wanted for size, step, wanted in zip(image.shape, base, work)]
        look = ObjectFinder(
            image, grid, work, diameter, self.network, self.inferer, self.clustering, self.second_network
        )
        # no object is larger than the image
        least = max(0.05, diameter / min(size * step for size, step in zip(image.shape[-2:], base[-2:])))
        scale = find_scale(look, (self.large_diameter or diameter) / diameter, min(least, 1.0))
        learnt = diameter / _in_plane(base)
        if scale not in (None, 1.0):
            found = (
                f"{image.name}: objects are about {_rounded(learnt / scale)} pixels across, the model learnt "
                f"{_rounded(learnt)}: looked at {scale:.2g} times the size; --diameter corrects it"
            )
            return tuple(step * scale for step in base), [(None, logging.INFO, found)]
        none = (
            f"{image.name}: no scale shows objects such as the model learnt, so its pixels are taken as those of the "
            f"training, {learnt:.3g} to an object; --diameter says how many pixels its objects are across"
        )
        lines: list[Line] = [("none", logging.WARNING, none)] if scale is None else []
        return base, [*lines, (image.unit, logging.WARNING, message)]

    def _target(self, seen: tuple[float, ...]) -> tuple[float, ...] | None:
        """The spacing to resample an image of that spacing to; None where it stays as it is."""
        if self.target_spacing is not None:
            return self.target_spacing
        trained, _ = learnt_lengths(self.network)
        return None if trained is None or alike_spacings(seen, trained, self.tolerance) else trained

    def _resampling_lines(self, own: tuple[float, ...], learnt: str, name: str) -> list[Line]:
        target = self._target(own)
        if target is None or alike_spacings(own, target, 1.01):
            return []
        words = in_words(own, learnt), in_words(target, learnt)
        return [(f"{own}", logging.INFO, f"{name}: resampled from {words[0]} to {words[1]}, at which the model works")]


def in_memory(image: MetaTensor, mask: torch.Tensor | None = None) -> ReadableImage:
    """An image in memory, as ``LoadVolumed`` makes it."""
    voxels, unit = image.as_tensor(), str(image.meta["length_unit"])

    def sample() -> tuple[torch.Tensor, np.ndarray]:
        places = sampled_places(voxels[0].numel())
        places = np.arange(voxels[0].numel()) if places is None else places
        return voxels.flatten(1)[:, torch.from_numpy(places)], places

    return ReadableImage(
        name=str(image.meta["filename_or_obj"]),
        shape=tuple(image.shape[1:]),
        spacing=None if unit == PIXEL else voxel_spacing(image, image.ndim - 1),
        unit=unit,
        stated_size=str(image.meta["stated_size"]),
        read=lambda region: voxels[(slice(None), *region)],
        sample=sample,
        mask=None if mask is None else lambda region: plain(mask)[(slice(None), *region)],
    )


def _in_plane(spacing: Sequence[float]) -> float:
    """Size of a pixel in the image plane: the geometric mean of its sides."""
    return math.sqrt(spacing[-2] * spacing[-1])


def _rounded(length: float) -> str:
    """A length to two digits, in plain figures: 130, not 1.3e+02."""
    return f"{float(f'{length:.2g}'):g}"
