"""In which precision a network computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spoco_bundle.core.errors import SpocoError

_PRECISIONS = ("auto", "float32", "bfloat16")
#: planes up to which a volume may shrink to two in a network that does not tell its strides
_FEW = 11


def uses_bfloat16(
    precision: str, device: torch.device, shape: Sequence[int] = (), stride: Sequence[int] = (), learns: bool = False
) -> bool:
    """Whether a network is to compute in bfloat16.

    On a processor, "auto" takes float32 for volumes with which PyTorch goes wrong: where a row shrinks to one voxel in
    the network (pytorch/pytorch#169688: wrong values or NaN), and for learning from volumes that shrink to two planes
    or one: there the gradients of convolutions are wrong, infinite or NaN (torch 2.13, Intel Xeon and AMD EPYC).

    Args:
        precision: "float32", "bfloat16", or "auto" for bfloat16 where the processor or GPU computes in it natively.
        device: that computes.
        shape: voxels per axis of what the network is given.
        stride: total stride of the network per axis; empty where it is not known.
        learns: whether the network is run backward, too.

    Raises:
        SpocoError: if the precision is none of these, or bfloat16 is asked for with such a volume.
    """
    if precision not in _PRECISIONS:
        raise SpocoError(f"precision: {precision!r} is unknown; choose one of {', '.join(_PRECISIONS)}")
    volume = device.type == "cpu" and len(shape) == 3
    row = volume and len(stride) == 3 and shape[-1] <= stride[-1] > 1
    thin = volume and learns and shape[0] <= (2 * stride[0] if len(stride) == 3 else _FEW)
    if precision == "bfloat16" and (row or thin):
        voxels = " x ".join(map(str, shape))
        raise SpocoError(f"precision: bfloat16 goes wrong on a processor with {voxels} voxels: give --precision auto")
    return precision == "bfloat16" or precision == "auto" and not (row or thin) and _has_native_bfloat16(device)


def _has_native_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself; False where this release of torch cannot tell."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
