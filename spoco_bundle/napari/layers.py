"""The layers of annotated, predicted and chosen objects, and how they are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fastremap
import numpy as np
from matplotlib.colors import hsv_to_rgb
from napari.layers import Labels
from napari.utils.colormaps import CyclicLabelColormap, DirectLabelColormap

CHOSEN = "chosen object"
# annotations are warm, predictions cool, so that nobody takes one for the other; hues as shares of the circle
_WARM, _COOL = (-0.1, 0.17), (0.3, 0.8)
SHADES = 13


def annotation_colours() -> CyclicLabelColormap:
    """Pink to yellow."""
    return _colours(_WARM)


def prediction_colours() -> CyclicLabelColormap:
    """Green to violet."""
    return _colours(_COOL)


def _colours(hues: tuple[float, float]) -> CyclicLabelColormap:
    # neighbouring numbers get hues far apart, and the brighter and darker ones take turns
    places = np.arange(SHADES) * 5 % SHADES / (SHADES - 1)
    hue = (hues[0] + places * (hues[1] - hues[0])) % 1
    colours = hsv_to_rgb(np.stack([hue, np.full(SHADES, 0.75), 0.75 + 0.25 * (np.arange(SHADES) % 2)], axis=1))
    shades = np.column_stack([colours, np.ones(SHADES)])
    # the colour at place 0 is that of the background
    return CyclicLabelColormap(colors=np.vstack([np.zeros(4), shades]).astype(np.float32), background_value=0)


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
    layer.contour = 1
    layer.editable = False
    return layer
