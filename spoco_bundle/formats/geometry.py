"""The voxel grid of an image: spacing and affine in the array's own index order (z, y, x or y, x), in micrometres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import MICROMETER, PIXEL, UNITLESS, in_words, parse_unit

if TYPE_CHECKING:
    import torch


class VoxelGrid:
    """What an image in memory and one on disk share: a grid, of which a person may know more than the file says."""

    spacing: tuple[float, ...] | None
    file_unit: str
    affine: np.ndarray

    def take_spacing(self, spacing: tuple[float, ...]) -> None:
        """Takes a spacing, in micrometres along z, y, x or y, x, for what the file states or leaves out.

        Directions stay; where the first voxel lies is unknown then, so 0.
        """
        self.spacing, self.file_unit = spacing, MICROMETER
        self.affine = rescale_affine(self.affine, spacing)
        self.affine[:-1, -1] = 0.0


@dataclass
class Image(VoxelGrid):
    """An image or label array with its voxel grid, as read from one file.

    Attributes:
        array: (C, z, y, x) or (C, y, x), in the file's own data type; labels are int32 with C = 1.
        spacing: distance between neighbouring voxels along z, y, x (or y, x), in micrometres, or plain numbers where
            the file leaves out their unit; None where it states none.
        file_unit: the unit in which the file states lengths, such as ``"nanometer"``, which results take over;
            ``"unknown"`` where it states none.
        affine: (D + 1, D + 1) float64, voxel index (z, y, x) or (y, x) to world (right, anterior, superior, the order
            of NIfTI and MONAI), in the unit of ``spacing``; unknown spacing is a pixel, 1. Column norms are the
            spacing.
        file_format: ``"nifti"``, ``"imagej"``, ``"ome"``, ``"tiff"``, ``"zarr"`` or ``"itk"``.
        axes: letters of the file's axes as stored, slowest first, such as ``"ZYX"`` or ``"YXS"``.
        path: the file.
        stated_size: the voxel size in the words of the file, also where it is of no use or an option replaced it; empty
            where the file states none.
    """

    array: np.ndarray
    spacing: tuple[float, ...] | None
    file_unit: str
    affine: np.ndarray
    file_format: str
    axes: str
    path: str
    stated_size: str = ""

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Voxels along z, y, x (or y, x)."""
        return self.array.shape[1:]


def length_unit(spacing: Sequence[float] | None, file_unit: str) -> str:
    """What the lengths of an image are measured in: ``"micrometer"``, ``"unknown"`` (plain numbers), ``"pixel"``."""
    if spacing is None:
        return PIXEL
    return MICROMETER if parse_unit(file_unit) else UNITLESS


def replacement_message(spacing: Sequence[float] | None, stated_size: str, path: str) -> str | None:
    """The line that says an option replaced what a file states; None where the file states nothing."""
    if spacing is None or not stated_size:
        return None
    return f"--spacing {in_words(spacing, MICROMETER)} replaces the {stated_size} that {path} states"


def assumption_message(spacing: Sequence[float], path: str) -> str:
    """The line that says a file states no size and that of the training's files is taken."""
    return (
        f"{path}: does not say its voxel size: {in_words(spacing, MICROMETER)}, as where the model learned, is "
        "assumed; --spacing gives it"
    )


def affine_from_spacing(spacing: Sequence[float]) -> np.ndarray:
    """Affine of an image whose file holds no orientation.

    Index (z, y, x) goes to right, anterior, superior = (-x, -y, z), as ITK reads such files (identity in left,
    posterior, superior), so that viewers built on ITK lay results over the image.

    Args:
        spacing: spacing along z, y, x or y, x.

    Returns:
        (D + 1, D + 1) float64.
    """
    rank = len(spacing)
    affine = np.zeros((rank + 1, rank + 1))
    affine[-1, -1] = 1.0
    for axis, step in enumerate(spacing):
        world = rank - 1 - axis
        affine[world, axis] = step if world == 2 else -step
    return affine


def rescale_affine(affine: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The same directions and origin with another spacing per array axis; (D + 1, D + 1) in and out."""
    result = np.array(affine, dtype=np.float64)
    rank = result.shape[0] - 1
    norms = np.linalg.norm(result[:rank, :rank], axis=0)
    result[:rank, :rank] *= np.asarray(spacing, dtype=np.float64) / norms
    return result


def column_spacing(affine: np.ndarray) -> tuple[float, ...]:
    """Spacing per array axis, the norms of the affine's columns.

    Rounded to seven digits: NIfTI stores affines in float32, where 0.8 is 0.800000012, and one volume in two formats
    must give one partition.

    Args:
        affine: (R + 1, D) or (D + 1, D + 1), of which the last row and a square affine's last column are left out.
    """
    columns = affine[:-1, : affine.shape[1] - (affine.shape[0] == affine.shape[1])]
    return tuple(float(f"{norm:.7g}") for norm in np.linalg.norm(np.asarray(columns, dtype=np.float64), axis=0))


def voxel_volume(affine: np.ndarray) -> float:
    """Volume of a voxel, in 2D its area, in the unit of the affine; of a sheared grid it is no product of spacings."""
    return abs(float(np.linalg.det(affine[:-1, :-1])))


def checked_spacing(spacing: Sequence[float], spatial_dims: int, name: str = "spacing") -> tuple[float, ...]:
    """Turns a user's spacing into a tuple of positive floats.

    Args:
        spacing: one number per axis in the order z, y, x (or y, x).
        spatial_dims: 2 or 3, how many numbers there must be.
        name: how the error message calls the argument.

    Raises:
        SpocoError: if the count is wrong or a number is not positive and finite.
    """
    try:
        values = tuple(float(step) for step in spacing)
    except (TypeError, ValueError):
        values = ()
    if len(values) != spatial_dims or not all(np.isfinite(step) and step > 0 for step in values):
        order = "z, y, x" if spatial_dims == 3 else "y, x"
        raise SpocoError(f"{name} is {spacing!r}: give {spatial_dims} positive numbers in the order {order}")
    return values


def voxel_spacing(image: torch.Tensor, spatial_dims: int) -> tuple[float, ...]:
    """Spacing of one image as its affine says now, after any flips, rotations and resampling.

    Args:
        image: MetaTensor (C, *spatial) with one affine.
        spatial_dims: 2 or 3.

    Returns:
        Spacing along z, y, x or y, x; 1.0 per axis where the file had none (``meta["length_unit"]`` is "pixel").

    Raises:
        TypeError: if the tensor carries no affine, or a whole batch of them.
    """
    affine = getattr(image, "affine", None)
    if affine is None or affine.ndim != 2:
        raise TypeError("voxel_spacing takes one MetaTensor with one affine; for batches call batch_spacing")
    return column_spacing(affine[:, :spatial_dims].detach().cpu().numpy())


def batch_spacing(images: torch.Tensor, spatial_dims: int) -> torch.Tensor:
    """Spacing of every image of a batch.

    Args:
        images: MetaTensor (B, C, *spatial) whose affine is (B, D + 1, D + 1), or (D + 1, D + 1) for all.
        spatial_dims: 2 or 3.

    Returns:
        (B, spatial_dims) float32 on the images' device, in the order z, y, x or y, x.

    Raises:
        TypeError: if the tensor carries no affine.
    """
    import torch

    affine = getattr(images, "affine", None)
    if affine is None:
        raise TypeError("batch_spacing takes a MetaTensor")
    affines = affine.detach().cpu().numpy().reshape(-1, *affine.shape[-2:])
    spacing = torch.tensor([column_spacing(one[:, :spatial_dims]) for one in affines], dtype=torch.float32)
    return spacing.expand(images.shape[0], spatial_dims).to(images.device)
