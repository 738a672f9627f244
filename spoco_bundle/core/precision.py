"""In which precision a network computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spoco_bundle.core.errors import SpocoError

__all__ = ["uses_bfloat16"]

_PRECISIONS = ("auto", "float32", "bfloat16")
# the backward pass of torch 2.13 wrote beyond its memory on an Intel Xeon with crops of 8 x 96 x 96 to 8 x 128 x 128
# voxels, not with those of 8 x 64 x 64 or 12 x 120 x 120
_THIN, _WIDE = 12, 64


def uses_bfloat16(precision: str, device: torch.device, crop: Sequence[int] = ()) -> bool:
    """Whether a network is to compute in bfloat16.

    Args:
        precision: "float32", "bfloat16", or "auto" for bfloat16 where the processor or GPU computes in it natively.
        device: that computes.
        crop: voxels per axis of a crop that is learnt from. With wide volumes of few planes PyTorch can crash on a
            processor: "auto" takes float32 there.

    Raises:
        SpocoError: if the precision is none of these, or bfloat16 is asked for with such a crop.
    """
    if precision not in _PRECISIONS:
        raise SpocoError(f"precision: {precision!r} is unknown; choose one of {', '.join(_PRECISIONS)}")
    unsafe = device.type == "cpu" and len(crop) == 3 and min(crop) < _THIN and max(crop) > _WIDE
    if unsafe and precision == "bfloat16":
        raise SpocoError(
            f"precision: bfloat16 can crash on a processor with crops of {' x '.join(map(str, crop))} voxels: give "
            f"--precision auto, or a --crop_size of {_THIN} planes or more"
        )
    return precision == "bfloat16" or precision == "auto" and not unsafe and _has_native_bfloat16(device)


def _has_native_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself; False where this release of torch cannot tell."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
