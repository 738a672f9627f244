"""The order of samples as a pure function of seed and epoch, so that training resumes where it stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import ignite.distributed as idist
import numpy as np
from torch.utils.data import Sampler


def keyed_generator(*key: int) -> np.random.Generator:
    """A random generator that depends on the given non-negative integers alone."""
    return np.random.default_rng(np.random.SeedSequence(key))


class EpochSampler(Sampler[int]):
    """Yields the samples of one epoch in an order keyed by (seed, epoch), shared out among processes.

    Every process gets the same number of samples: the order is filled up from its own beginning until it divides, as
    torch's ``DistributedSampler`` does, so that up to ``world_size - 1`` samples come twice in an epoch. With one
    process nothing is repeated.

    Call :meth:`set_position` before each epoch. ``len`` is always the full number per process, also after a resume.

    Args:
        data_source: the dataset.
        seed: key of the order.
        rank: number of this process; None asks torch.distributed, 0 where that is not running.
        world_size: count of processes; None asks torch.distributed, 1 where that is not running.

    Raises:
        ValueError: if there is no sample, or the rank is not below the count of processes.
    """

    def __init__(
        self,
        data_source: Sized,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.data_source = data_source
        self.seed = int(seed)
        self.rank = idist.get_rank() if rank is None else rank
        self.world_size = idist.get_world_size() if world_size is None else world_size
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not below world_size {self.world_size}")
        if not len(data_source):
            raise ValueError("an epoch needs at least one sample")
        self.epoch = 0
        self.start_sample = 0

    def set_position(self, epoch: int, start_sample: int = 0) -> None:
        """Chooses what the next iteration yields.

        Args:
            epoch: the epoch, from 0.
            start_sample: how many samples of that epoch this process has already had. It counts for the next
                iteration only; the one after starts at 0.
        """
        if not 0 <= start_sample <= len(self):
            raise ValueError(f"start_sample {start_sample} is outside an epoch of {len(self)} samples")
        self.epoch = int(epoch)
        self.start_sample = int(start_sample)

    def __len__(self) -> int:
        """Samples per process and epoch."""
        return -(-len(self.data_source) // self.world_size)

    def __iter__(self) -> Iterator[int]:
        """The remaining samples of the epoch for this process."""
        order = keyed_generator(self.seed, self.epoch).permutation(len(self.data_source))
        order = np.resize(order, len(self) * self.world_size)
        mine = order[self.rank :: self.world_size][self.start_sample :]
        self.start_sample = 0
        return iter(mine.tolist())
