"""A learning curve as a picture: score over the number of annotated objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.metrics.forecast import Forecast


def learning_curve_picture(file: Path, trainings: Sequence[Mapping[str, Any]], forecast: Forecast) -> Path:
    """Draws the trainings, the curve through them, and the forecast with its interval.

    Args:
        file: PNG to write.
        trainings: dicts with ``objects``, ``score`` and ``metric``.
        forecast: what follows from them.

    Returns:
        The file.
    """
    objects = [row["objects"] for row in trainings]
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    counts = np.geomspace(min(objects), forecast.objects, 100)
    curve = 1 - (1 - forecast.now) * (counts / forecast.present) ** -forecast.exponent
    axes.plot(counts, curve, color="0.6", label="error = a / objects$^b$")
    axes.plot(objects, [row["score"] for row in trainings], "o", color="tab:blue", label="a training")
    reach = [[forecast.score - forecast.low], [forecast.high - forecast.score]]
    label = f"expected, {forecast.level:.0%} interval"
    axes.errorbar([forecast.objects], [forecast.score], reach, fmt="s", color="tab:orange", capsize=4, label=label)
    ticks = sorted({*objects, forecast.objects})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("objects trained on")
    axes.set_ylabel(str(trainings[0]["metric"]))
    axes.legend(frameon=False, fontsize="small")
    FigureCanvasAgg(figure)
    with atomic_write(file) as path, path.open("wb") as stream:
        figure.savefig(stream, format="png", dpi=150)
    return file
