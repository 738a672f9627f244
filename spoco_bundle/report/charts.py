"""Charts of a page, as SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

#: bars of a histogram, and points of a curve at most
BARS, POINTS = 20, 400


def histogram(sizes: Sequence[float]) -> str:
    """Bars over a logarithmic axis of sizes, as SVG."""
    sizes = [size for size in sizes if size > 0]
    if not sizes:
        return '<svg viewBox="0 0 320 40" role="img" aria-label="no objects"><text x="8" y="24">no objects</text></svg>'
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    if high - low < 0.1:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(np.log10(sizes), bins=BARS, range=(low, high))
    width, height, bar = 320, 150, 300 / BARS
    bars = "".join(
        f'<rect class="bar" x="{10 + i * bar:.1f}" y="{120 - 105 * n / counts.max():.1f}" width="{bar - 1:.1f}" '
        f'height="{105 * n / counts.max():.1f}"><title>{n} of {10 ** edges[i]:.3g} to {10 ** edges[i + 1]:.3g}</title>'
        "</rect>"
        for i, n in enumerate(counts)
    )
    marks = "".join(
        f'<text x="{10 + 300 * t:.0f}" y="138" text-anchor="{anchor}">{_short(10 ** (low + t * (high - low)))}</text>'  # noqa: B907
        for t, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="histogram of {len(sizes)} object sizes">'
        f'<line class="axis" x1="10" x2="310" y1="120" y2="120"/>{bars}{marks}'
        f'<text x="310" y="12" text-anchor="end">most in one bar: {counts.max()}</text></svg>'
    )


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def curve(points: Sequence[tuple[float, float]]) -> str:
    """A line of values over steps, as SVG."""
    steps, values = np.asarray(points, dtype=float).T
    if len(steps) > POINTS:
        parts = np.array_split(np.arange(len(steps)), POINTS)
        steps, values = (np.array([row[part].mean() for part in parts]) for row in (steps, values))
    low, high = float(values.min()), float(values.max())
    x = 45 + 265 * (steps - steps[0]) / max(steps[-1] - steps[0], 1e-12)
    y = 125 - 110 * (values - low) / max(high - low, 1e-12)
    corners = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    line = f'<polyline points="{corners}"/>'  # noqa: B907
    return (
        f'<svg viewBox="0 0 320 150" role="img" aria-label="from {values[0]:.3g} to {values[-1]:.3g}">'
        f'<line class="axis" x1="45" x2="310" y1="125" y2="125"/><line class="axis" x1="45" x2="45" y1="15" y2="125"/>'
        f'{line}<text x="40" y="20" text-anchor="end">{high:.3g}</text>'
        f'<text x="40" y="125" text-anchor="end">{low:.3g}</text><text x="45" y="142">{steps[0]:.0f}</text>'
        f'<text x="310" y="142" text-anchor="end">{steps[-1]:.0f}</text></svg>'
    )
