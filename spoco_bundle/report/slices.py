"""Slices of an image for a page: which ones, and their pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from skimage.segmentation import find_boundaries

from spoco_bundle.report.mistakes import Mistake
from spoco_bundle.report.pictures import fullest_plane, gray, intensity_limits, label_colours

AXES = "zyx"
MAX_SIDE = 384  # pixels on the longer side of a frame; larger slices are reduced
OUTLINES = {"found": None, "truth": (255, 255, 255)}  # instances in their own colours, the truth in white


@dataclass
class ImagePanel:
    """What the page shows of one image.

    Attributes:
        name: heading.
        image: (C, z, y, x) or (C, y, x), any range; three channels are RGB.
        labels: instances found, (z, y, x) or (y, x), 0 = background.
        rows: table of objects, see ``objects_table``; at least ``id``, ``voxels``, ``volume`` and ``centroid_*``.
        spacing: voxel size per axis, None where unknown.
        truth: true instances of the shape of ``labels``, or None.
        embedding: axis -> (index, (rows, columns, 3) colours in [0, 1]) of planes whose embedding is shown.
        facts: numbers shown above the planes, name -> text.
        mistakes: where the instances differ from the truth.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray
    rows: Sequence[Mapping[str, Any]]
    spacing: Sequence[float] | None = None
    truth: np.ndarray | None = None
    embedding: Mapping[int, tuple[int, np.ndarray]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    mistakes: Sequence[Mistake] = ()


def slice_planes(panel: ImagePanel, centres: np.ndarray, budget: float) -> list[dict[str, Any]]:
    """Frames of every plane; their number follows from the size of the one shown first.

    Args:
        panel: the image with its objects.
        centres: (N, dims) voxels through which slices should go, the important ones first.
        budget: bytes of all frames.
    """
    dims = panel.labels.ndim
    limits = intensity_limits(panel.image)
    axes = range(dims) if dims == 3 else [None]
    planes = []
    for axis in axes:
        size = 1 if axis is None else panel.labels.shape[axis]
        middle = _start(panel, axis)
        cost = len(json.dumps(_frame(panel, limits, axis, middle)))
        count = max(1, min(size, int(budget / len(axes) / cost)))
        indices = [0] if axis is None else slices_through(centres[:, axis], size, count, middle)
        start = indices.index(middle)
        frames = [_frame(panel, limits, axis, index) for index in indices]
        names = [AXES[-dims + i] for i in range(dims) if i != axis]
        height, width = _extent(panel, axis)
        planes.append(
            {
                "axis": 0 if axis is None else axis,
                "title": f"{names[1]}{names[0]}" if dims == 3 else "image",
                "start": start,
                "frames": frames,
                "height": round(height, 3),
                "width": round(width, 3),
            }
        )
    return planes


def _start(panel: ImagePanel, axis: int | None) -> int:
    """The slice shown first: that of the embedding, else the one with most objects."""
    if axis is None:
        return 0
    if axis in panel.embedding:
        return panel.embedding[axis][0]
    return fullest_plane(panel.labels, axis)


def _extent(panel: ImagePanel, axis: int | None) -> tuple[float, float]:
    """Height and width of a plane in units of the spacing."""
    steps = [1.0] * panel.labels.ndim if panel.spacing is None else list(panel.spacing)
    sides = [n * step for i, (n, step) in enumerate(zip(panel.labels.shape, steps, strict=True)) if i != axis]
    return sides[0], sides[1]


def _frame(panel: ImagePanel, limits: tuple[float, float], axis: int | None, index: int) -> dict[str, Any]:
    def cut(volume: np.ndarray) -> np.ndarray:
        return volume if axis is None else volume.take(index, axis=axis)

    shape = cut(panel.labels).shape
    picture = gray(np.stack([cut(channel) for channel in panel.image]), limits)
    scale = min(1.0, MAX_SIDE / max(shape))
    size = (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))
    # the outlines of a slice that is small on the screen need pixels of their own, or they cover the objects
    finer = max(1, min(4, MAX_SIDE // max(size)))
    frame = {
        "index": index,
        "label": "" if axis is None else f"{AXES[axis]} = {index}",
        "image": _encoded(Image.fromarray(_bytes(picture)).resize(size, Image.Resampling.BOX), "JPEG", quality=80),
        "found": _outlines(cut(panel.labels), size, finer, OUTLINES["found"]),
    }
    if panel.truth is not None:
        frame["truth"] = _outlines(cut(panel.truth), size, finer, OUTLINES["truth"])
    key = 0 if axis is None else axis
    if key in panel.embedding and panel.embedding[key][0] == index:
        colours = Image.fromarray(_bytes(panel.embedding[key][1])).resize(size, Image.Resampling.BOX)
        frame["embedding"] = _encoded(colours, "JPEG", quality=85)
    return frame


def _outlines(labels: np.ndarray, size: tuple[int, int], finer: int, colour: tuple[int, int, int] | None) -> str:
    width, height = size[0] * finer, size[1] * finer
    rows = (np.arange(height) + 0.5) * labels.shape[0] // height
    columns = (np.arange(width) + 0.5) * labels.shape[1] // width
    enlarged = labels[np.ix_(rows.astype(int), columns.astype(int))]
    edge = find_boundaries(enlarged, mode="inner")
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[edge, :3] = _bytes(label_colours(enlarged))[edge] if colour is None else colour
    rgba[edge, 3] = 255
    return _encoded(Image.fromarray(rgba).quantize(64), "PNG", optimize=True)


def _bytes(colours: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(colours, dtype=np.float32) * 255).astype(np.uint8)


def _encoded(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def slices_through(centres: np.ndarray, size: int, count: int, first: int) -> list[int]:
    """Which slices along an axis are shown: through the middle of as many objects as there is room for.

    Args:
        centres: (N,) places of objects along the axis, in voxels, the important ones first.
        size: slices there are.
        count: slices there is room for, at least 1.
        first: the one that is shown first, always among them.

    Returns:
        Up to ``count`` indices, ascending: all of them where there is room; otherwise, of the first half of the room,
        the most important centres, and of the rest places of which each has as many objects around it as any other.
        Room that is left, where objects are few, is spread evenly.
    """
    if count >= size:
        return list(range(size))
    wanted = np.clip(np.round(centres).astype(int), 0, size - 1)
    chosen = {first}
    for place in wanted:
        if len(chosen) >= max(1, count // 2):
            break
        chosen.add(int(place))
    others = np.sort(wanted)
    if len(np.unique(others)) <= count - len(chosen):
        chosen |= set(others.tolist())
    elif len(others):
        # the middle of each of as many equally large groups of objects
        chosen |= {
            int(others[int((i + 0.5) * len(others) / (count - len(chosen)))]) for i in range(count - len(chosen))
        }
    room = count - len(chosen)
    chosen |= {round(float(i)) for i in np.linspace(0, size - 1, room)} if room > 1 else set()
    return sorted(chosen)
