"""State of networks, optimizers and counters as a file of tensors and plain values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spoco_bundle.core.atomic_files import atomic_write


def save_state(content: Any, path: str | Path, keep_before: str | Path | None = None) -> None:
    """Writes with ``torch.save`` in one step, see ``atomic_write``.

    Args:
        content: tensors and plain Python values in containers; see ``plain_state``.
        path: the file to write.
        keep_before: name that the file before it gets, once the new one is complete.

    Raises:
        SpocoError: if it cannot be written (disk full, no permission). What stood under the name stays.
    """
    file = Path(path)
    with atomic_write(file) as partial:
        try:
            torch.save(content, partial)
        except RuntimeError as error:
            # torch reports a full disk as an error of its zip writer
            raise OSError(str(error).partition("\n")[0]) from error
        if keep_before is not None and file.is_file():
            os.replace(file, keep_before)


def plain_state(value: Any) -> Any:
    """Rebuilds nested state from tensors and plain Python, which is all that loads with ``weights_only``.

    Args:
        value: nested mappings, sequences and sets of tensors, NumPy arrays and scalars, numbers, strings and None.

    Returns:
        The same with dicts, lists, tuples, tensors on the CPU, numbers, strings and None.

    Raises:
        TypeError: if there is anything else in it.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if value is None or isinstance(value, (bool, int, float, str)):
        # subclasses (NumPy's float64, enums) become the type itself
        return value if value is None else next(t for t in (bool, int, float, str) if isinstance(value, t))(value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {plain_state(name): plain_state(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(plain_state(item) for item in value)
    if isinstance(value, (list, set, frozenset)) or hasattr(value, "popleft"):
        return [plain_state(item) for item in value]
    raise TypeError(f"state of type {type(value).__name__} cannot be kept in a checkpoint")
