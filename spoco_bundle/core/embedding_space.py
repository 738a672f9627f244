"""Distances, kernels and coordinates of the embedding space.

All distances are computed in float32 (float64 for float64 input), whatever the ambient precision: by matrix product
they cancel badly in half precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from spoco_bundle.core.errors import SpocoError


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Run matrix products in float32: no autocast, no TF32.

    Args:
        device: the device whose autocast is switched off.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def kernel_scale(delta_var: float, kernel_threshold: float) -> float:
    """Scale `s` of the Gaussian kernel `exp(-d^2 / s)` that takes the value `kernel_threshold` at distance `delta_var`.

    `s = delta_var^2 / -ln(kernel_threshold)` (Wolny et al., "Sparse object-level supervision for instance segmentation
    with pixel embeddings", CVPR 2022).

    Args:
        delta_var: radius of an object in the embedding space, above 0.
        kernel_threshold: kernel value at that radius, between 0 and 1, both excluded.

    Returns:
        The scale, above 0.

    Raises:
        SpocoError: when an argument is out of its range.
    """
    if not delta_var > 0:
        raise SpocoError(f"delta_var is {delta_var}; give a number above 0 (published: 0.5)")
    if not 0 < kernel_threshold < 1:
        raise SpocoError(f"kernel_threshold is {kernel_threshold}; give a number between 0 and 1 (published: 0.5, 0.9)")
    return delta_var**2 / -math.log(kernel_threshold)


def soft_mask(sq_dist: Tensor, delta_var: float, kernel_threshold: float) -> Tensor:
    """Gaussian soft mask `exp(-d^2 / s)`, see `kernel_scale`.

    Args:
        sq_dist: squared distances, any shape.
        delta_var: radius of an object in the embedding space, above 0.
        kernel_threshold: kernel value at that radius, in (0, 1).

    Returns:
        Values in [0, 1], shape of `sq_dist`.
    """
    return torch.exp(sq_dist / -kernel_scale(delta_var, kernel_threshold))


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs, in float32 or float64.

    By matrix product, `|a|^2 + |b|^2 - 2ab`, after the mean of `b` was subtracted from both: the absolute error is
    about 1e-7 times the squared spread of the vectors in float32, wherever their origin is.

    Args:
        a: (N, E) vectors.
        b: (M, E) vectors; M may be 0.

    Returns:
        (N, M) squared distances, at least 0.
    """
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = a.to(dtype), b.to(dtype)
    if b.shape[0] == 0:
        return a.new_zeros(a.shape[0], 0)
    centre = b.detach().mean(0)
    a, b = a - centre, b - centre
    with full_precision(a.device):
        product = torch.addmm(b.square().sum(1)[None], a, b.T, alpha=-2)
    return (product + a.square().sum(1)[:, None]).clamp_min(0)


def coordinate_lines(
    shape: Sequence[int],
    spacing: Sequence[float],
    scale: float,
    origin: Sequence[float] | None = None,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """Coordinates of the voxels along every axis, in units of the embedding space.

    Args:
        shape: spatial shape, D numbers in the order z, y, x (or y, x).
        spacing: voxel size per axis, in micrometres or pixels, D numbers above 0.
        scale: length that becomes 1 in the embedding space, in the unit of `spacing`, above 0; near a radius.
        origin: index of the first voxel in the whole volume, D numbers in voxels; the zero vector by default.
        device: where the lines are made.

    Returns:
        D tensors (size,) float32, `(origin + index) * spacing / scale`.

    Raises:
        SpocoError: when the numbers of axes differ, or a spacing or the scale is not above 0.
    """
    dims = len(shape)
    origin = [0.0] * dims if origin is None else [float(start) for start in origin]
    steps = [float(step) for step in spacing]
    if not len(steps) == len(origin) == dims:
        raise SpocoError(f"spacing {steps} and origin {origin} need one number per axis of the shape {tuple(shape)}")
    if not all(step > 0 and math.isfinite(step) for step in steps):
        raise SpocoError(f"spacing is {steps}; give the voxel size per axis, above 0")
    if not scale > 0:
        raise SpocoError(f"coordinate scale is {scale}; give a length above 0, near the objects' radius")
    return [
        (torch.arange(size, dtype=torch.float64) + start).mul_(step).to(device=device, dtype=torch.float32) / scale
        for size, start, step in zip(shape, origin, steps, strict=True)
    ]


def add_coordinates(embeddings: Tensor, spacing: Tensor | Sequence[float], scale: float) -> Tensor:
    """Semi-convolutional embeddings: coordinates over `scale` added to the first channels.

    After Novotny et al., "Semi-convolutional operators for instance segmentation", ECCV 2018.

    Args:
        embeddings: (B, E, *spatial) with E >= D.
        spacing: voxel size per axis, D floats for the whole batch or a (B, D) tensor.
        scale: see `coordinate_lines`.

    Returns:
        A new tensor (B, E, *spatial), float32 (float64 for float64 input).

    Raises:
        SpocoError: when there are fewer channels than axes, or spacing or scale do not fit.
    """
    batch, channels, *shape = embeddings.shape
    dims = len(shape)
    if channels < dims:
        raise SpocoError(f"{channels} embedding channels cannot carry {dims} coordinates; use at least {dims} channels")
    steps = torch.as_tensor(spacing, dtype=torch.float64, device="cpu")
    if steps.shape not in ((dims,), (batch, dims)):
        raise SpocoError(f"spacing has shape {tuple(steps.shape)}; expected ({dims},) or ({batch}, {dims})")
    shifted = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32), copy=True)
    for number, row in enumerate(steps.expand(batch, dims).tolist()):
        for axis, line in enumerate(coordinate_lines(shape, row, scale, device=shifted.device)):
            shifted[number, axis] += line.reshape([-1 if a == axis else 1 for a in range(dims)])
    return shifted
