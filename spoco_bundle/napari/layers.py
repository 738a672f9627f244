"""The layers of annotated, predicted and chosen objects, and how they are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fastremap
import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import CyclicLabelColormap, DirectLabelColormap

CHOSEN = "chosen object"
# annotations are warm, predictions cool, so that nobody takes one for the other
_WARM = [[1.0, 0.85, 0.1, 1], [1.0, 0.55, 0.0, 1], [1.0, 0.3, 0.3, 1], [0.95, 0.45, 0.75, 1], [0.8, 0.65, 0.2, 1]]
_COOL = [[0.2, 0.6, 1.0, 1], [0.1, 0.8, 0.75, 1], [0.45, 0.45, 1.0, 1], [0.35, 0.85, 0.45, 1], [0.65, 0.5, 0.95, 1]]


def annotation_colours() -> CyclicLabelColormap:
    """Yellow to pink."""
    return _colours(_WARM)


def prediction_colours() -> CyclicLabelColormap:
    """Blue to green and violet."""
    return _colours(_COOL)


def _colours(shades: list[list[float]]) -> CyclicLabelColormap:
    # the colour at place 0 is that of the background
    return CyclicLabelColormap(colors=np.array([[0, 0, 0, 0], *shades], dtype=np.float32), background_value=0)


def chosen_layer(instances: Labels, rows: Sequence[dict[str, Any]]) -> Labels:
    """Outlines of some objects, in white, in a layer as large as they are.

    Args:
        instances: the layer that they are in.
        rows: their rows of the table of objects, at least one.
    """
    axes = "zyx"[-instances.data.ndim :]
    starts = [min(row[f"{axis}_min"] for row in rows) for axis in axes]
    stops = [max(row[f"{axis}_max"] for row in rows) for axis in axes]
    part = instances.data[tuple(slice(*ends) for ends in zip(starts, stops))]
    inside = fastremap.mask_except(part, [row["id"] for row in rows])
    # a margin, without which an outline at the border of the part would not be drawn
    padded = np.pad((inside > 0).astype(np.uint8), 1)
    white = DirectLabelColormap(color_dict={1: "white", 0: "transparent", None: "transparent"})
    layer = Labels(
        padded,
        name=CHOSEN,
        scale=instances.scale,
        units=instances.units,
        translate=[(start - 1) * step for start, step in zip(starts, instances.scale)],
        colormap=white,
        opacity=1.0,
    )
    layer.contour = 2
    layer.editable = False
    return layer
