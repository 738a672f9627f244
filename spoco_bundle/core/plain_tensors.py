"""Tensors without MONAI's metadata, whose bookkeeping costs time in every operation and slice."""

from __future__ import annotations

from typing import Any


def plain(values: Any) -> Any:
    """The tensor that a MetaTensor holds, in the same memory; anything else as it is."""
    return values.as_tensor() if hasattr(values, "as_tensor") else values
