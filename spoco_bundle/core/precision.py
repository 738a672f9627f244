"""In which precision a network computes."""

from __future__ import annotations

import torch

from spoco_bundle.core.errors import SpocoError

__all__ = ["uses_bfloat16"]

_PRECISIONS = ("auto", "float32", "bfloat16")


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether a network is to compute in bfloat16.

    Args:
        precision: "float32", "bfloat16", or "auto" for bfloat16 where the processor or GPU computes in it natively.
        device: that computes.

    Raises:
        SpocoError: if the precision is none of these.
    """
    if precision not in _PRECISIONS:
        raise SpocoError(f"precision: {precision!r} is unknown; choose one of {', '.join(_PRECISIONS)}")
    return precision == "bfloat16" or precision == "auto" and _has_native_bfloat16(device)


def _has_native_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself; False where this release of torch cannot tell."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
