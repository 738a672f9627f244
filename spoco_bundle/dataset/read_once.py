"""The annotated volumes of a training, read from disk once for all who look at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psutil


class ReadOnce(Sequence):
    """A list of samples that are read when they are first asked for, and kept until they are asked for again.

    The profile of a training set looks at every volume before the crops are planned; the data set of crops caches them
    after that. What the profile read is handed on and let go of. Where the volumes outgrow half of the free memory, the
    rest is read anew.

    Args:
        data: list of ``{"image": path, "label": path}``.
        transform: reads and checks one sample.
    """

    def __init__(self, data: Sequence[dict[str, Any]], transform: Callable) -> None:
        self.data = data
        self.transform = transform
        self.most_bytes = psutil.virtual_memory().available / 2
        self._kept: dict[int, Any] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        """The sample, which is let go of."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        if index not in self._kept:
            return self.transform(self.data[index])
        sample = self._kept.pop(index)
        self._bytes -= _size(sample)
        return sample

    def look(self, index: int) -> Any:
        """The sample, kept for who asks next."""
        if index in self._kept:
            return self._kept[index]
        sample = self.transform(self.data[index])
        if self._bytes + _size(sample) <= self.most_bytes:
            self._kept[index] = sample
            self._bytes += _size(sample)
        return sample


def _size(sample: dict[str, Any]) -> int:
    return sum(value.nbytes for value in sample.values() if hasattr(value, "nbytes"))
