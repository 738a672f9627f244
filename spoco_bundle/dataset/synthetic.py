"""A made-up fluorescence microscopy sample, so that the bundle can be tried without any data.

Crowds of touching nuclei with an envelope, nucleoli and textured chromatin, dim and bright ones side by side, haze of
out-of-focus light around the crowds, light that fades across the field, blur longer along z, photon and camera noise.
One threshold cuts the dim side off or fuses the bright one, and the necks between nuclei are too wide for a distance
transform; the gap between two nuclei can be seen, though, and learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats.geometry import affine_from_spacing
from spoco_bundle.formats.tiff_writing import write_image

SPACING = (2.0, 0.8, 0.8)


def make_synthetic_sample(
    folder: str | Path,
    seed: int = 0,
    train_volumes: int = 6,
    train_shape: Sequence[int] = (24, 80, 80),
    val_shape: Sequence[int] = (24, 96, 96),
    spacing: Sequence[float] = SPACING,
) -> dict[str, list[dict[str, str]]]:
    """Write a sample to train and validate on: `{train,val}/NAME_raw.EXT` with `NAME_label.EXT`, all nuclei labelled.

    Training volumes are NIfTI. The held-out ones are `val/field_a` (NIfTI) and `val/field_b` (OME-TIFF).
    The files state the spacing in micrometres. The same seed gives the same voxels.

    Args:
        folder: written to; made if missing, older files of the same names are replaced.
        seed: of all randomness.
        train_volumes: number of training volumes.
        train_shape: voxels (z, y, x) of a training volume.
        val_shape: voxels (z, y, x) of a held-out volume.
        spacing: voxel size (z, y, x) in micrometres.

    Returns:
        Paths of the files, as a datalist: `{"train": [{"image": ..., "label": ...}, ...], "val": [...]}`.

    Raises:
        SpocoError: the folder cannot be written, or the sizes make no volume.
    """
    names = [("train", f"crowd_{index:02d}", ".nii.gz", train_shape) for index in range(train_volumes)]
    names += [("val", "field_a", ".nii.gz", val_shape), ("val", "field_b", ".ome.tif", val_shape)]
    datalist: dict[str, list[dict[str, str]]] = {"train": [], "val": []}
    for (split, name, suffix, shape), stream in zip(names, np.random.SeedSequence(seed).spawn(len(names)), strict=True):
        image, label = synthetic_volume(np.random.default_rng(stream), shape, spacing)
        paths = {
            "image": Path(folder, split, f"{name}_raw{suffix}"),
            "label": Path(folder, split, f"{name}_label{suffix}"),
        }
        try:
            paths["image"].parent.mkdir(parents=True, exist_ok=True)
            for key, volume in (("image", image), ("label", label)):
                _write(paths[key], volume, spacing)
        except OSError as error:
            raise SpocoError(
                f"cannot write {error.filename or folder}: {error.strerror}; choose another folder"
            ) from error
        datalist[split].append({key: str(path) for key, path in paths.items()})
    return datalist


def synthetic_volume(
    generator: np.random.Generator, shape: Sequence[int] = (24, 80, 80), spacing: Sequence[float] = SPACING
) -> tuple[np.ndarray, np.ndarray]:
    """One image of crowded nuclei and its labels.

    Args:
        generator: source of all randomness.
        shape: voxels (z, y, x).
        spacing: voxel size (z, y, x) in micrometres.

    Returns:
        Image (z, y, x) uint16, labels (z, y, x) uint16 with ids 1..N.

    Raises:
        SpocoError: fewer than 8 voxels along an axis, or a spacing that is not positive.
    """
    shape, step = tuple(shape), np.asarray(spacing, dtype=float)
    if len(shape) != 3 or min(shape) < 8:
        raise SpocoError(f"shape is {shape}; a synthetic volume has 3 axes of at least 8 voxels")
    if step.shape != (3,) or not np.all(step > 0):
        raise SpocoError(f"spacing is {tuple(spacing)}; give three positive numbers (z, y, x) in micrometres")
    label, depth = _nuclei(generator, shape, step)
    light = _stain(generator, label, depth, step)
    # out-of-focus light of the crowd, and the cytoplasm around the nuclei
    crowd = ndimage.gaussian_filter((label > 0).astype(np.float32), 7.0 / step)
    light += 0.10 + 0.45 * crowd / max(float(crowd.max()), 1e-6) * (0.8 + 0.4 * _texture(generator, shape, step, 4.0))
    light = ndimage.gaussian_filter(light * _illumination(generator, shape), [1.3, 0.5, 0.5] / step)
    photons = generator.poisson(90.0 * light) + generator.normal(0.0, 3.0, shape)
    return np.clip(100.0 + 12.0 * photons, 0, 65535).astype(np.uint16), label


def _texture(generator: np.random.Generator, shape: tuple[int, ...], step: np.ndarray, grain: float) -> np.ndarray:
    """Smooth noise in about [0, 1], grains of the given size in micrometres."""
    noise = ndimage.gaussian_filter(generator.normal(size=shape), grain / step)
    return np.clip(0.5 + 0.25 * noise / noise.std(), 0.0, 1.0)


def _illumination(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Light fading to a quarter across the field, and by another third with depth."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    angle = generator.uniform(0, 2 * np.pi)
    along = (np.cos(angle) * y + np.sin(angle) * x) / (abs(np.cos(angle)) + abs(np.sin(angle)))
    return 0.25 ** (0.5 + 0.5 * along) * 0.67 ** (0.5 + 0.5 * z)


def _nuclei(generator: np.random.Generator, shape: tuple[int, ...], step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels of crowded ellipsoids, and the normalised distance of their voxels from the centre (0) to the rim (1)."""
    extent = np.asarray(shape) * step
    field = float(np.prod(extent))
    crowds = [generator.uniform(0.25, 0.75, 3) * extent for _ in range(2)]
    reach = np.array([0.45, 0.33, 0.33]) * extent
    centres: list[np.ndarray] = []
    radii: list[np.ndarray] = []
    wanted = int(round(field / 4900.0 * generator.uniform(0.9, 1.1)))
    for _ in range(400 * wanted):
        if len(centres) == wanted:
            break
        centre = crowds[generator.integers(2)] + reach * generator.uniform(-1, 1, 3)
        radius = generator.uniform(4.0, 5.2) * generator.uniform(0.88, 1.14, 3)
        if np.any(centre < 0.25 * radius) or np.any(centre > extent - 0.25 * radius):
            continue
        # a little closer than touching: neighbours flatten against each other
        if all(np.linalg.norm((centre - c) / (radius + r)) > 0.80 for c, r in zip(centres, radii, strict=True)):
            centres.append(centre)
            radii.append(radius)

    position = (np.indices(shape).reshape(3, -1).T + 0.5) * step
    wobble = 0.16 * (_texture(generator, shape, step, 3.0).ravel() - 0.5)
    nearest = np.ones(len(position), dtype=np.float32)
    label = np.zeros(len(position), dtype=np.uint16)
    for index, (centre, radius) in enumerate(zip(centres, radii, strict=True), start=1):
        turn = Rotation.random(rng=generator).as_matrix()
        distance = np.linalg.norm((position - centre) @ turn / radius, axis=1) + wobble
        closer = distance < nearest
        label[closer], nearest[closer] = index, distance[closer]
    return label.reshape(shape), nearest.reshape(shape)


def _stain(generator: np.random.Generator, label: np.ndarray, depth: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Fluorescence of the nuclei, about 0 to 1: brightness of its own, fading towards the envelope, dark nucleoli."""
    count = int(label.max())
    brightness = np.concatenate([[0.0], generator.uniform(0.45, 1.0, count)])
    chromatin = 0.65 + 0.7 * _texture(generator, label.shape, step, 0.9)
    light = brightness[label] * chromatin * np.clip(1.15 - 0.75 * depth**3, 0.0, 1.0)
    position = np.moveaxis(np.indices(label.shape), 0, -1) * step
    for index, box in enumerate(ndimage.find_objects(label), start=1):
        inside = label[box] == index
        for _ in range(generator.integers(1, 4)):
            place = generator.choice(position[box][inside & (depth[box] < 0.75)])
            nucleolus = np.sum((position[box] - place) ** 2, axis=-1) < generator.uniform(1.0, 1.9) ** 2
            light[box][nucleolus & inside] *= 0.3
    return light


def _write(path: Path, volume: np.ndarray, spacing: Sequence[float]) -> None:
    """NIfTI (stored x, y, z) or OME-TIFF (z, y, x), with the spacing in micrometres."""
    if path.name.endswith(".nii.gz"):
        # the orientation that the bundle's reader gives to TIFF, so that both formats lie alike in a viewer
        affine = affine_from_spacing(spacing)[:, [2, 1, 0, 3]]
        image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine)
        image.header.set_xyzt_units("micron")
        nibabel.save(image, path)
        return
    write_image(path, volume, spacing)
