"""The voxel grid of an image: spacing, unit and affine in the array's own index order (z, y, x or y, x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spoco_bundle.core.errors import SpocoError

if TYPE_CHECKING:
    import torch

UNKNOWN_UNIT = "unknown"

# Length of each unit that files use, in micrometres, and the name under which it is kept.
_UNIT_NAMES = {
    "micrometer": ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre", "micrometers", "\\u00b5m"),
    "millimeter": ("mm", "millimeter", "millimetre", "millimeters"),
    "nanometer": ("nm", "nanometer", "nanometre", "nanometers"),
}
# The inch is left out on purpose: it tells of a screen or printer resolution, not of the specimen.
_OTHER_LENGTHS = {"m": 1e6, "meter": 1e6, "cm": 1e4, "centimeter": 1e4, "å": 1e-4, "angstrom": 1e-4, "pm": 1e-6}
_MICROMETERS = {"micrometer": 1.0, "millimeter": 1000.0, "nanometer": 0.001}


@dataclass
class Image:
    """An image or label array with its voxel grid, as read from one file.

    Attributes:
        array: (C, z, y, x) or (C, y, x), in the file's own data type; labels are int32 with C = 1.
        spacing: distance between neighbouring voxels along z, y, x (or y, x); None where the file does not say.
        spacing_unit: ``"micrometer"``, ``"millimeter"``, ``"nanometer"`` or ``"unknown"``.
        affine: (D + 1, D + 1) float64, voxel index (z, y, x) or (y, x) to world (right, anterior, superior, the order
            of NIfTI and MONAI). Unknown spacing counts as 1. Column norms are the spacing.
        file_format: ``"nifti"``, ``"imagej"``, ``"ome"``, ``"tiff"`` or ``"itk"``.
        axes: letters of the file's axes as stored, slowest first, such as ``"ZYX"`` or ``"YXS"``.
        path: the file.
    """

    array: np.ndarray
    spacing: tuple[float, ...] | None
    spacing_unit: str
    affine: np.ndarray
    file_format: str
    axes: str
    path: str

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Voxels along z, y, x (or y, x)."""
        return self.array.shape[1:]


def canonical_length(value: float, unit: str | None) -> tuple[float, str]:
    """Expresses a length in one of the units kept here.

    Args:
        value: the length.
        unit: the unit's name as files spell it (``"um"``, ``"micron"``, ``"mm"``, ``"cm"``, ...); letters' case counts
            for nothing.

    Returns:
        The value and one of the names micrometer, millimeter, nanometer; lengths in other units become micrometres,
        and a unit that is no length (``"pixel"``, none) gives ``"unknown"`` with the value unchanged.
    """
    name = (unit or "").strip().lower()
    for canonical, spellings in _UNIT_NAMES.items():
        if name in spellings:
            return float(value), canonical
    if name in _OTHER_LENGTHS:
        return float(value) * _OTHER_LENGTHS[name], "micrometer"
    return float(value), UNKNOWN_UNIT


def convert_length(value: float, unit: str, target_unit: str) -> float:
    """Converts a length between two of micrometer, millimeter, nanometer; unknown units leave it as it is."""
    if UNKNOWN_UNIT in (unit, target_unit):
        return float(value)
    return float(value) * _MICROMETERS[unit] / _MICROMETERS[target_unit]


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
        Spacing along z, y, x or y, x; 1.0 per axis where the file had none (``meta["spacing_known"]`` is 0).

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


def alike_spacings(one: Sequence[float], other: Sequence[float], tolerance: float = 1.5) -> bool:
    """Whether two spacings in the same unit differ by no more than a ratio of ``tolerance`` along any axis."""
    return all(1 / tolerance <= a / b <= tolerance for a, b in zip(one, other, strict=True))


def spacing_warning(
    spacing: Sequence[float] | None,
    unit: str,
    training_spacing: Sequence[float] | None,
    training_unit: str = UNKNOWN_UNIT,
    *,
    name: str = "the image",
    tolerance: float = 1.5,
) -> str | None:
    """Notices a spacing that is unknown, or unlike the one a network was trained with.

    Args:
        spacing: the image's spacing along z, y, x or y, x; None where its file does not say.
        unit: unit of ``spacing``. Where either unit is unknown the plain numbers are compared.
        training_spacing: the spacing the network was trained with; None where that is not known either.
        training_unit: unit of ``training_spacing``.
        name: the file, for the message.
        tolerance: ratio per axis, at least 1, up to which two spacings count as alike.

    Returns:
        One line that says what is wrong and what to do, or None if nothing is.
    """
    if spacing is None:
        known = "" if training_spacing is None else f"; the network was trained at {_written(training_spacing)}"
        return f"{name}: the file does not say its voxel spacing{known}: set the config id spacing (z, y, x order)"
    if training_spacing is None:
        return None
    if len(spacing) != len(training_spacing):
        return f"{name}: {len(spacing)} axes where the network was trained on {len(training_spacing)}"
    converted = [convert_length(step, unit, training_unit) for step in spacing]
    if alike_spacings(converted, training_spacing, tolerance):
        return None
    return (
        f"{name}: voxel spacing {_written(spacing)} {unit} differs from the training spacing "
        f"{_written(training_spacing)} {training_unit} by more than {tolerance:g} times: "
        "correct the config id spacing, or resample the image to the training spacing"
    )


def _written(spacing: Sequence[float]) -> str:
    return "(" + ", ".join(f"{step:g}" for step in spacing) + ")"
