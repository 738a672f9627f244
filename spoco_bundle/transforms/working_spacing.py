"""The resolution at which a network looks at an image: as far as it is known, that at which it learnt."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from spoco_bundle.blockwise.memory import available_memory, readable, whole_memory, window_voxels
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import PIXEL, in_words
from spoco_bundle.formats.geometry import rescale_affine, voxel_spacing
from spoco_bundle.networks.lengths import alike_spacings, learnt_diameter, learnt_lengths, spacing_for
from spoco_bundle.transforms.clustering import ClusterEmbeddingsd
from spoco_bundle.transforms.object_size import ObjectFinder, find_scale
from spoco_bundle.transforms.spacing import GRID_AFFINE, ResampleToSpacingd

logger = logging.getLogger(__name__)


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
    done, where it is the same for all images only for the first.

    Args:
        keys: images, MetaTensors from ``LoadVolumed``, normalised.
        network: network with the buffers of ``EmbeddingUNet``.
        clustering: finds the objects that are measured; None measures none.
        inferer: runs the network in windows, for the same purpose.
        target_spacing: working resolution along z, y, x (or y, x) in the unit of the weights; None for that of the
            training where the image differs from it.
        diameter: of the objects, in pixels of the image plane; None where it is not known.
        object_diameter: of the objects that the network learnt, in its unit; None for what its weights say.
        assumed_spacing: that ``LoadVolumed`` was given: it is no size that an image states.
        second_network: where ``clustering`` compares two.
        foreground_key: a foreground mask, resampled with the image by the nearest voxel; None without.
        tolerance: ratio along an axis, at least 1, up to which two resolutions count as the same.
        same_size: ratio, at least 1, up to which objects count as large as those of the training.
        allow_missing_keys: whether a sample without the key passes through.

    Raises:
        SpocoError: if a ratio is out of range; when called, if the axes do not fit the network, or a diameter is
            given and the size of the objects that the network learnt is unknown.
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
        assumed_spacing: Sequence[float] | None = None,
        second_network: torch.nn.Module | None = None,
        foreground_key: str | None = None,
        tolerance: float = 1.25,
        same_size: float = 1.2,
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, allow_missing_keys)
        if min(tolerance, same_size) < 1:
            raise SpocoError(f"tolerance is {tolerance}, same_size {same_size}: give ratios of at least 1")
        self.network = network
        self.clustering = clustering
        self.inferer = inferer
        self.target_spacing = None if target_spacing is None else tuple(target_spacing)
        self.diameter = diameter
        self.object_diameter = object_diameter
        self.assumed_spacing = None if assumed_spacing is None else tuple(assumed_spacing)
        self.second_network = second_network
        self.foreground_key = foreground_key
        self.tolerance = tolerance
        self.same_size = same_size
        self._said: set[str] = set()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the sample, with the network's lengths in the affines, resampled where it has to be."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            mask = None if self.foreground_key is None else sample[self.foreground_key]
            seen = self._seen(sample[key], mask)
            if seen is None:
                continue
            target = self._target(seen)
            if target is not None:
                self._check_memory(sample[key], seen, target)
            for name in (key,) if mask is None else (key, self.foreground_key):
                affine, meta = sample[name].affine, {k: v for k, v in sample[name].meta.items() if k != "affine"}
                seen_as = torch.as_tensor(rescale_affine(affine, seen))
                sample[name] = MetaTensor(sample[name].as_tensor(), affine=seen_as, meta=meta)
                if target is not None:
                    mode = "linear" if name == key else "nearest"
                    sample |= ResampleToSpacingd(name, target, mode)(sample)
                    sample[name].meta[GRID_AFFINE] = affine.clone()
        return sample

    def _check_memory(self, image: MetaTensor, seen: tuple[float, ...], target: tuple[float, ...]) -> None:
        """Refuses an image that is enlarged beyond the free memory."""
        shape = [max(1, round(n * a / b)) for n, a, b in zip(image.shape[1:], seen, target)]
        head = getattr(self.network, "head", None)
        if head is None or math.prod(shape) <= image[0].numel():
            return
        free = available_memory()
        window = int(window_voxels(math.prod(shape), free, head.in_channels))
        need = whole_memory(math.prod(shape), len(image), head.out_channels, head.in_channels, window)
        if need > free:
            raise SpocoError(
                f"{image.meta['filename_or_obj']}: becomes {in_words(shape)} voxels at the resolution at which the "
                f"model works, for which {readable(need)} of {readable(free)} free memory are needed: cut it, or give "
                "another size with --spacing or --diameter"
            )

    def _seen(self, image: MetaTensor, mask: torch.Tensor | None) -> tuple[float, ...] | None:
        """The spacing of the image in the unit of the weights; None where it is a pixel of a network without any."""
        name, unit = str(image.meta["filename_or_obj"]), str(image.meta["length_unit"])
        stated = str(image.meta["stated_size"])
        own = None if unit == PIXEL else voxel_spacing(image, image.ndim - 1)
        usual, message = spacing_for(self.network, own, unit, name, stated)
        trained, learnt = learnt_lengths(self.network)
        diameter = self.object_diameter or learnt_diameter(self.network)
        if self.diameter is not None:
            if trained is None or diameter is None:
                raise SpocoError(
                    f"diameter: the weights do not say the size of the objects that they learnt, so {self.diameter:g} "
                    "pixels say nothing: give --object_diameter too, or resample the image"
                )
            shape = own if unit == learnt != PIXEL else self._usual()
            step = diameter / self.diameter  # of a pixel in the image plane
            self._say_diameter(diameter / _in_plane(self._usual()))
            return tuple(size * step / _in_plane(shape) for size in shape)
        if trained is None:
            self._say(unit, logging.WARNING, message)
            return usual
        known = unit == learnt != PIXEL
        if known and own != self.assumed_spacing:
            across = math.nan if diameter is None else diameter / _in_plane(own)
            if diameter is None or 2 <= across <= max(image.shape[-2:]):
                self._say_resampling(own, learnt, name)
                return own
            message = (
                f"{name}: states a voxel size of {stated or in_words(own, unit)}, at which an object such as the model "
                f"learnt would be {across:.2g} pixels across: it is not believed; --spacing corrects it"
            )
            self._say(f"size {own}", logging.WARNING, message)
            message = None
        base = own if known and own == self.assumed_spacing else self._usual()
        if diameter is None or self.clustering is None:
            self._say(unit, logging.WARNING, message)
            return base
        return self._seen_by_objects(image, mask, base, diameter, message)

    def _usual(self) -> tuple[float, ...]:
        """The spacing of an image of unknown size, where its objects are as large as those of the training."""
        trained, learnt = learnt_lengths(self.network)
        return (1.0,) * len(trained) if learnt == PIXEL else trained

    def _seen_by_objects(
        self,
        image: MetaTensor,
        mask: torch.Tensor | None,
        base: tuple[float, ...],
        diameter: float,
        message: str | None,
    ) -> tuple[float, ...]:
        name, unit = str(image.meta["filename_or_obj"]), str(image.meta["length_unit"])
        work = self._target(base) or base
        grid = [size * step / wanted for size, step, wanted in zip(image.shape[1:], base, work)]
        look = ObjectFinder(
            image.as_tensor(),
            grid,
            work,
            diameter,
            self.network,
            self.inferer,
            self.clustering,
            second_network=self.second_network,
            foreground=mask,
        )
        scale = find_scale(look)
        learnt = diameter / _in_plane(base)
        if scale is None:
            self._say(
                "none",
                logging.WARNING,
                f"{name}: no scale shows objects such as the model learnt, so its pixels are taken as those of the "
                f"training, {learnt:.3g} to an object; --diameter says how many pixels its objects are across",
            )
        if scale is None or max(scale, 1 / scale) <= self.same_size:
            self._say(unit, logging.WARNING, message)
            return base
        logger.info(
            "%s: objects are about %.2g pixels across, the model learnt %.2g: looked at %.2g times the size; "
            "--diameter corrects it",
            *(name, learnt / scale, learnt, scale),
        )
        return tuple(step * scale for step in base)

    def _target(self, seen: tuple[float, ...]) -> tuple[float, ...] | None:
        """The spacing to resample an image of that spacing to; None where it stays as it is."""
        if self.target_spacing is not None:
            return self.target_spacing
        trained, _ = learnt_lengths(self.network)
        return None if trained is None or alike_spacings(seen, trained, self.tolerance) else trained

    def _say_resampling(self, own: tuple[float, ...], learnt: str, name: str) -> None:
        target = self._target(own)
        if target is not None and not alike_spacings(own, target, 1.01):
            self._say(
                f"{own}",
                logging.INFO,
                f"{name}: resampled from {in_words(own, learnt)} to {in_words(target, learnt)}, at which the model "
                "works",
            )

    def _say_diameter(self, learnt: float) -> None:
        self._say(
            "diameter",
            logging.INFO,
            f"objects are {self.diameter:g} pixels across as you say, the model learnt {learnt:.3g}: looked at "
            f"{learnt / self.diameter:.2g} times the size",
        )

    def _say(self, what: str, level: int, message: str | None) -> None:
        if message is not None and what not in self._said:
            self._said.add(what)
            logger.log(level, "%s", message)


def _in_plane(spacing: Sequence[float]) -> float:
    """Size of a pixel in the image plane: the geometric mean of its sides."""
    return math.sqrt(spacing[-2] * spacing[-1])
