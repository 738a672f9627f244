"""Cached volumes, fresh random crops: each sample a pure function of (seed, epoch, index)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Randomizable, RandomizableTrait, Transform

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.epoch_sampler import keyed_generator

# First words of the keys, so that the streams of random numbers differ.
_VOLUMES, _SAMPLES = 1, 2


def seed_together(steps: Iterable[Callable], seed: int) -> None:
    """Lets the random transforms among some steps draw from one generator with this seed, one after the other.

    MONAI's ``Compose.set_random_state`` makes one for each: at 0.2 ms a generator, that was a fifth of the time of a
    crop.
    """
    state = np.random.RandomState(seed)
    for step in steps:
        if isinstance(step, Randomizable):
            step.set_random_state(state=state)


class SparseCropDataset(CacheDataset):
    """Draws crops from a few volumes, as many per epoch as wanted.

    The deterministic head of the transforms (everything before the first random one) runs once per volume and is
    cached; the random tail runs anew for every sample. Sample ``i`` of an epoch takes volume ``order[i mod n]``, where
    the order is a permutation keyed by (seed, epoch, i // n): every volume comes equally often. The random
    transforms of the tail share a generator keyed by (seed, epoch, i). A sample thus does not depend on the number of
    workers, on the order of reading, or on what came before.

    Transforms that draw from torch's or NumPy's global generator, or that hide random transforms inside without
    passing ``set_random_state`` on, are outside this promise.

    ``set_epoch`` writes into shared memory, so it reaches loader workers that already run (``persistent_workers``) as
    well as new ones; call it between epochs, before the loader is iterated.

    Every sample gets an entry ``sample_seed`` (int, 0 to 2^31 - 1) for whatever draws later, such as the anchors of
    the loss.

    Args:
        data: list of ``{"image": path, "label": path}``; one volume is enough.
        transform: list of transforms or ``Compose``.
        volumes: the samples of ``data`` as they are read, see ``ReadOnce``; the transforms then begin after that. None
            where the transforms read them.
        samples_per_epoch: length of the dataset; None for the number of volumes.
        seed: key of all randomness.
        cache_num: at most this many volumes are cached, the others are read for every sample.
        cache_rate: at most this part of the volumes is cached.
        num_workers: threads that fill the cache.
        progress: whether to show a progress bar while filling the cache.
        copy_cache: copy a cached volume before the tail; False saves time where the tail's first transform crops and
            none changes voxels of its input in place.

    Raises:
        SpocoError: if the list is empty or ``samples_per_epoch`` is below 1.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Sequence[Callable] | Callable,
        samples_per_epoch: int | None = None,
        seed: int = 0,
        cache_num: int = sys.maxsize,
        cache_rate: float = 1.0,
        num_workers: int | None = 1,
        progress: bool = False,
        copy_cache: bool = True,
        volumes: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        if not data:
            raise SpocoError("the list of training images is empty: check dataset_dir")
        if samples_per_epoch is not None and samples_per_epoch < 1:
            raise SpocoError(f"samples_per_epoch is {samples_per_epoch}: give at least 1, or null for one per volume")
        self.samples_per_epoch = samples_per_epoch
        self.seed = int(seed)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        super().__init__(
            data=data if volumes is None else volumes,
            transform=transform,
            cache_num=cache_num,
            cache_rate=cache_rate,
            num_workers=num_workers,
            progress=progress,
            copy_cache=copy_cache,
        )

    @property
    def epoch(self) -> int:
        """The epoch that samples are drawn for, from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that samples are drawn for, from 0."""
        self._epoch.fill_(int(epoch))

    def __len__(self) -> int:
        """Samples per epoch."""
        return len(self.data) if self.samples_per_epoch is None else self.samples_per_epoch

    def volume_of(self, index: int) -> int:
        """Which volume sample ``index`` of the current epoch is drawn from."""
        block, position = divmod(index, len(self.data))
        order = keyed_generator(_VOLUMES, self.seed, self.epoch, block).permutation(len(self.data))
        return int(order[position])

    def __getitem__(self, index: int | slice | Sequence[int]) -> Any:
        """One sample, or a ``Subset`` for a slice or a sequence of indices."""
        # a list ends where its indices do, from which iteration knows the end
        return super().__getitem__(index if isinstance(index, (slice, Sequence)) else range(len(self))[int(index)])

    def _transform(self, index: int) -> Any:
        volume = self.volume_of(index)
        random_seed, sample_seed = _sample_seeds(self.seed, self.epoch, index)
        first_random = self._first_random()
        sample = self.whole_volume(volume)
        seed_together(self.transform.transforms, random_seed)
        if first_random is not None:
            sample = self.transform(sample, start=first_random)
        if isinstance(sample, dict):
            return sample | {"sample_seed": sample_seed}
        return [part | {"sample_seed": (sample_seed + number) % 2**31} for number, part in enumerate(sample)]

    def whole_volume(self, number: int) -> Any:
        """One volume as the deterministic transforms leave it, from the cache if it is there."""
        if number >= self.cache_num:
            return self.transform(self.data[number], end=self._first_random())
        return deepcopy(self._cache[number]) if self.copy_cache else _sharing_voxels(self._cache[number])

    def _first_random(self) -> int | None:
        """Where the tail begins, by the rule that fills the cache."""
        return self.transform.get_index_of_first(
            lambda step: isinstance(step, RandomizableTrait) or not isinstance(step, Transform)
        )


def _sharing_voxels(sample: dict[str, Any]) -> dict[str, Any]:
    """A copy of the sample with metadata of its own, on which MONAI records every transform, but the same voxels."""
    return {key: _with_own_metadata(value) if isinstance(value, MetaTensor) else value for key, value in sample.items()}


def _with_own_metadata(tensor: MetaTensor) -> MetaTensor:
    meta, operations = deepcopy((tensor.meta, tensor.applied_operations))
    return MetaTensor(tensor.as_tensor(), meta=meta, applied_operations=operations)


def _sample_seeds(seed: int, epoch: int, index: int) -> tuple[int, int]:
    """Two independent hashes of (seed, epoch, index): 32 bits for transforms, 31 bits for the sample itself."""
    first, second = np.random.SeedSequence((_SAMPLES, seed, epoch, index)).generate_state(2)
    return int(first), int(second) & 0x7FFFFFFF
