"""Segmentation of one image from Python: the pipeline of `spoco predict` with an array in place of a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spoco_bundle.app.config import config_folder, find_config, find_overlays, plain, read_configs, shipped_weights
from spoco_bundle.app.config_effect import check_effect
from spoco_bundle.app.model_config import MODEL_CONFIG, model_overlay
from spoco_bundle.core.errors import SpocoError, unwrapped
from spoco_bundle.formats import Image, image_dimensions, read_image
from spoco_bundle.formats.files import check_intensities
from spoco_bundle.formats.geometry import affine_from_spacing, checked_spacing, voxel_volume
from spoco_bundle.formats.objects_table import objects_table
from spoco_bundle.networks import load_weights

#: what is used of the config
USED = ("preprocessing", "network", "weights_file", "inferer", "device", "clustering", "restore")


@dataclass(frozen=True)
class Segmentation:
    """What was found in an image.

    Attributes:
        labels: (z, y, x) or (y, x) int32, each object with its own number from 1, 0 = background.
        objects: one row per object, in the order of numbers: ``id``, ``voxels``, ``volume`` (in 2D the area),
            ``centroid_z`` ..., ``unit``, the bounding box ``z_min``, ``z_max`` ..., ``confidence``; see
            ``formats.objects_table``.
        confidence: (objects,) float32 in [0, 1].
    """

    labels: np.ndarray
    objects: list[dict[str, Any]]
    confidence: np.ndarray


def segment(
    image: np.ndarray | str | Path,
    spacing: Sequence[float] | None = None,
    model: str | Path | None = None,
    *,
    diameter: float | None = None,
    axes: str | None = None,
    config: str = "",
    **overrides: Any,
) -> Segmentation:
    """Find every object in one image.

    Args:
        image: array (y, x) or (z, y, x), or with channels as `axes` says; or the path of an image file.
        spacing: voxel size along z, y, x (or y, x) in micrometres; for a file it replaces what the file states. None
            where it is not known, or the file states it.
        model: folder that `train` or `spoco train` wrote; by default the weights that come with the bundle.
        diameter: of the image's objects, in pixels of a plane. None goes by the physical sizes of image and model, or,
            where either has none, by the objects that a first look at the image finds.
        axes: letters of the array's axes, such as "YXC" or "CZYX", or of a file whose own are wrong.
        config: extra settings: names of shipped configs or JSON files with commas between.
        overrides: any id of ``configs/inference.json``.

    Returns:
        Labels, a table of the objects, and their confidence.

    Raises:
        SpocoError: for bad input.

    Example:
        >>> import numpy as np
        >>> y, x = np.mgrid[:64, :64]
        >>> image = 20 + 200 * ((y - 20) ** 2 + (x - 20) ** 2 < 60) + 200 * ((y - 45) ** 2 + (x - 40) ** 2 < 60)
        >>> segment(image.astype("uint8")).labels.max()
        np.int32(2)
    """
    chosen = {name: overrides.pop(name) for name in ("channel", "time") if overrides.get(name) is not None}
    given = _as_image(image, spacing, axes, overrides.get("spatial_dims"), chosen)
    dims = given.array.ndim - 1
    given_ids = {"diameter": diameter, **overrides}
    ids = json.dumps({name: plain(value) for name, value in given_ids.items()}, sort_keys=True, default=str)
    folder = Path(model) if model else shipped_weights(dims)
    if not (folder / "model.pt").is_file():
        raise SpocoError(f"model {folder}: holds no model.pt; name the output folder of `train`")
    overlays = tuple(find_overlays(config))
    stamps = tuple(_stamp(file) for file in (*sorted(folder.glob("*.pt")), *folder.glob(MODEL_CONFIG), *overlays))
    with unwrapped():
        return _segmented(given, _prepared(folder.resolve(), overlays, ids, stamps))


def _as_image(
    image: Any, spacing: Sequence[float] | None, axes: str | None, dims: int | None, chosen: dict[str, int]
) -> Image:
    """The image with its geometry, from an array or a file, of which a channel or a time point may be chosen."""
    if isinstance(image, (str, Path)):
        return read_image(image, "image", dims or image_dimensions(image, axes, **chosen), spacing, axes, **chosen)
    if chosen:
        raise SpocoError(f"{next(iter(chosen))}: is chosen in files only: hand over that part of the array")
    array = np.asarray(image)
    if axes is None and array.ndim == 3 and (array.shape[0] == 1 or array.shape[-1] in (1, 3, 4)):
        raise SpocoError(
            f"image has shape {array.shape}: give axes='YXC' if its last axis is channels or colours, 'CYX' if its "
            "first is channels, 'ZYX' if it is a volume"
        )
    letters = axes or "ZYX"[-array.ndim :]
    if array.ndim not in (2, 3, 4) or len(letters) != array.ndim or not set(letters) <= set("CZYX"):
        raise SpocoError(f"image has shape {array.shape}, axes {axes!r}: give (y, x) or (z, y, x), or name the axes")
    spatial = [letter for letter in "ZYX" if letter in letters]
    order = [letters.index(letter) for letter in (["C"] if "C" in letters else []) + spatial]
    array = array.transpose(order)
    array = array if "C" in letters else array[None]
    if not array.size:
        raise SpocoError(f"image has shape {array.shape}, which holds no voxel")
    check_intensities(array, "image")
    steps = None if spacing is None else checked_spacing(spacing, len(spatial))
    affine = affine_from_spacing(steps or (1.0,) * len(spatial))
    unit = "unknown" if steps is None else "micrometer"
    return Image(array, steps, unit, affine, "array", letters, "array")


def _stamp(file: Path) -> tuple[int, int]:
    """Changes when the file does."""
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=2)
def _prepared(model: Path, overlays: tuple[Path, ...], ids: str, stamps: tuple[tuple[int, int], ...]) -> Any:
    """The parsed config with its network, weights loaded; kept for the next image while the files stay the same."""
    places = {"bundle_root": str(config_folder().parent), "ckpt_dir": str(model)}
    given = json.loads(ids)
    parser = read_configs([find_config("inference"), *model_overlay(model), *overlays], {**places, **given})
    for name in ("agreement", "foreground_ending"):
        if parser.get(name):
            raise SpocoError(
                f"{name}: is for `spoco predict`; `segment` takes neither mask nor second network: leave it out"
            )
    check_effect(parser.get(), given, "", USED)
    load_weights(parser.get_parsed_content("network"), parser.get_parsed_content("weights_file")).eval()
    return parser


@torch.inference_mode()
def _segmented(image: Image, parser: Any) -> Segmentation:
    dims, known = image.array.ndim - 1, parser.get_parsed_content("spatial_dims")
    if dims != known:
        raise SpocoError(
            f"{image.path}: has {dims} spatial axes, the model is for {known}: give another image or model"
        )
    sample = parser.get_parsed_content("preprocessing")({"image": image})
    network, device = parser.get_parsed_content("network"), parser.get_parsed_content("device")
    inferer = parser.get_parsed_content("inferer")
    sample["pred"] = inferer(sample["image"].as_tensor()[None].to(device), network)[0]
    found = parser.get_parsed_content("restore")(parser.get_parsed_content("clustering")(sample))
    labels = np.asarray(found["pred"].cpu())[0].astype(np.int32, copy=False)
    confidence = np.asarray(found["pred_confidence"].cpu())
    rows = objects_table(labels, image.spacing, image.file_unit, confidence, voxel_volume(image.affine))
    return Segmentation(labels, rows, confidence)
