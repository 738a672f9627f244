"""One self-contained HTML page for a run: slices with outlines, objects, sizes, training curves, settings."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from PIL import Image
from skimage.segmentation import find_boundaries

from spoco_bundle.report.pictures import fullest_plane, gray, intensity_limits, label_colours

__all__ = ["ImagePanel", "render_page"]

AXES = "zyx"
FACT_COLUMNS = ("voxels", "volume", "confidence")
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
    """

    name: str
    image: np.ndarray
    labels: np.ndarray
    rows: Sequence[Mapping[str, Any]]
    spacing: Sequence[float] | None = None
    truth: np.ndarray | None = None
    embedding: Mapping[int, tuple[int, np.ndarray]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def render_page(
    title: str,
    panels: Sequence[ImagePanel],
    curves: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    settings: str = "",
    summary: str = "",
    max_side: int = 384,
    max_megabytes: float = 4.5,
    max_rows: int = 2000,
) -> str:
    """The page as HTML text; it loads nothing from anywhere.

    Slices are spread evenly over each axis, as many of them as fit ``max_megabytes`` together with all else.

    Args:
        title: heading of the page.
        panels: one per image.
        curves: name -> (step, value) pairs of the training.
        settings: text of the configuration used.
        summary: line under the heading.
        max_side: pixels on the longer side of a slice; larger slices are reduced.
        max_megabytes: upper bound of the size of the page, in 10^6 bytes.
        max_rows: objects listed per image, the largest ones.
    """
    tables = [_table(panel, max_rows) for panel in panels]
    fixed = sum(len(json.dumps(table["rows"])) for table in tables) + len(settings) + 60_000
    budget = (max_megabytes * 1e6 - fixed) / max(1, len(panels))
    data, shown = [], []
    for panel, table in zip(panels, tables, strict=True):
        planes = _planes(panel, max_side, budget)
        layers = [("found", "instances found")]
        layers += [("truth", "truth (white)")] if panel.truth is not None else []
        layers += [("embedding", "embedding (PCA colours, at the slice shown first)")] if panel.embedding else []
        shown.append(
            {
                "name": panel.name,
                "facts": list(panel.facts.items()),
                "layers": layers,
                "planes": planes,
                "histogram": Markup(_histogram([float(row["volume"]) for row in panel.rows])),
                "size_unit": _size_unit(panel),
                **table,
            }
        )
        data.append({"planes": [{k: p[k] for k in ("axis", "start", "frames")} for p in planes], "rows": table["rows"]})
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=title,
        summary=summary,
        panels=shown,
        curves=[{"name": name, "svg": Markup(_curve(points))} for name, points in (curves or {}).items() if points],
        settings=settings,
        # "</" would end the script element that holds the data
        data=Markup(json.dumps(data).replace("</", "<\\/")),
    )


def _size_unit(panel: ImagePanel) -> str:
    unit = panel.rows[0].get("unit", "voxel") if panel.rows else "voxel"
    return f"{unit}{'²' if panel.labels.ndim == 2 else '³'}" if unit != "voxel" else "voxels"


def _table(panel: ImagePanel, max_rows: int) -> dict[str, Any]:
    places = [f"centroid_{axis}" for axis in AXES[-panel.labels.ndim :]]
    present = [name for name in FACT_COLUMNS if any(row.get(name) not in (None, "") for row in panel.rows)]
    columns = ["id", *present, *places]
    steps = np.ones(panel.labels.ndim) if panel.spacing is None else np.asarray(panel.spacing, dtype=float)
    largest = sorted(panel.rows, key=lambda row: -float(row["voxels"]))[:max_rows]
    rows = []
    for row in sorted(largest, key=lambda row: int(row["id"])):
        cells = [_number(row.get(name)) for name in columns]
        centre = [round(float(row[place]) / step) for place, step in zip(places, steps, strict=True)]
        rows.append({"cells": cells, "centre": centre})
    return {"columns": columns, "rows": rows, "hidden_rows": len(panel.rows) - len(rows)}


def _number(value: Any) -> float | int | None:
    if value in (None, ""):
        return None
    number = float(value)
    return int(number) if number.is_integer() else float(f"{number:.4g}")


def _planes(panel: ImagePanel, max_side: int, budget: float) -> list[dict[str, Any]]:
    """Frames of every plane; the number of slices follows from the size of the middle one."""
    dims = panel.labels.ndim
    limits = intensity_limits(panel.image)
    axes = range(dims) if dims == 3 else [None]
    planes = []
    for axis in axes:
        size = 1 if axis is None else panel.labels.shape[axis]
        middle = _start(panel, axis)
        cost = len(json.dumps(_frame(panel, limits, axis, middle, max_side)))
        count = max(1, min(size, int(budget / len(axes) / cost)))
        indices = sorted({round(float(i)) for i in np.linspace(0, size - 1, count)} if count > 1 else {middle})
        start = int(np.argmin([abs(i - middle) for i in indices]))
        indices[start] = middle  # the slice whose embedding is shown
        frames = [_frame(panel, limits, axis, index, max_side) for index in indices]
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


def _frame(
    panel: ImagePanel, limits: tuple[float, float], axis: int | None, index: int, max_side: int
) -> dict[str, Any]:
    def cut(volume: np.ndarray) -> np.ndarray:
        return volume if axis is None else volume.take(index, axis=axis)

    shape = cut(panel.labels).shape
    picture = gray(np.stack([cut(channel) for channel in panel.image]), limits)
    scale = min(1.0, max_side / max(shape))
    size = (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))
    # the outlines of a slice that is small on the screen need pixels of their own, or they cover the objects
    finer = max(1, min(4, max_side // max(size)))
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


def _histogram(sizes: Sequence[float], bins: int = 20) -> str:
    """Bars over a logarithmic axis of sizes, as SVG."""
    sizes = [size for size in sizes if size > 0]
    if not sizes:
        return '<svg viewBox="0 0 320 40" role="img" aria-label="no objects"><text x="8" y="24">no objects</text></svg>'
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    if high - low < 0.1:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(np.log10(sizes), bins=bins, range=(low, high))
    width, height, bar = 320, 150, 300 / bins
    bars = "".join(
        f'<rect class="bar" x="{10 + i * bar:.1f}" y="{120 - 105 * n / counts.max():.1f}" width="{bar - 1:.1f}" '
        f'height="{105 * n / counts.max():.1f}"><title>{n} of {10 ** edges[i]:.3g} to {10 ** edges[i + 1]:.3g}</title>'
        "</rect>"
        for i, n in enumerate(counts)
    )
    marks = "".join(
        f'<text x="{10 + 300 * t:.0f}" y="138" text-anchor="{anchor}">{_short(10 ** (low + t * (high - low)))}</text>'
        for t, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="histogram of {len(sizes)} object sizes">'
        f'<line class="axis" x1="10" x2="310" y1="120" y2="120"/>{bars}{marks}'
        f'<text x="310" y="12" text-anchor="end">most in one bar: {counts.max()}</text></svg>'
    )


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _curve(points: Sequence[tuple[float, float]], most: int = 400) -> str:
    """A line of values over steps, as SVG."""
    steps, values = np.asarray(points, dtype=float).T
    if len(steps) > most:
        parts = np.array_split(np.arange(len(steps)), most)
        steps, values = (np.array([row[part].mean() for part in parts]) for row in (steps, values))
    low, high = float(values.min()), float(values.max())
    x = 45 + 265 * (steps - steps[0]) / max(steps[-1] - steps[0], 1e-12)
    y = 125 - 110 * (values - low) / max(high - low, 1e-12)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return (
        f'<svg viewBox="0 0 320 150" role="img" aria-label="from {values[0]:.3g} to {values[-1]:.3g}">'
        f'<line class="axis" x1="45" x2="310" y1="125" y2="125"/><line class="axis" x1="45" x2="45" y1="15" y2="125"/>'
        f'<polyline points="{line}"/><text x="40" y="20" text-anchor="end">{high:.3g}</text>'
        f'<text x="40" y="125" text-anchor="end">{low:.3g}</text><text x="45" y="142">{steps[0]:.0f}</text>'
        f'<text x="310" y="142" text-anchor="end">{steps[-1]:.0f}</text></svg>'
    )
