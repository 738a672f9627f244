"""One self-contained HTML page for a run: slices with outlines, objects, sizes, training curves, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from spoco_bundle.formats.objects_table import table_lengths
from spoco_bundle.report.charts import curve, histogram
from spoco_bundle.report.slices import AXES, ImagePanel, slice_planes

FACT_COLUMNS = ("voxels", "volume", "confidence")


def render_page(
    title: str,
    panels: Sequence[ImagePanel],
    curves: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    settings: str = "",
    summary: str = "",
    max_megabytes: float = 4.5,
    max_rows: int = 2000,
) -> str:
    """The page as HTML text; it loads nothing from anywhere.

    Slices go through the middle of objects, those with mistakes first, as many as fit ``max_megabytes`` together with
    all else.

    Args:
        title: heading of the page.
        panels: one per image.
        curves: name -> (step, value) pairs of the training.
        settings: text of the configuration used.
        summary: line under the heading.
        max_megabytes: upper bound of the size of the page, in 10^6 bytes.
        max_rows: objects listed per image, the largest ones; and mistakes.
    """
    tables = [_table(panel, max_rows) | _mistakes(panel, max_rows) for panel in panels]
    fixed = sum(len(json.dumps([table["rows"], table["mistakes"]])) for table in tables) + len(settings) + 60_000
    budget = (max_megabytes * 1e6 - fixed) / max(1, len(panels))
    data, shown = [], []
    for panel, table in zip(panels, tables, strict=True):
        centres = [place["centre"] for place in (*table["mistakes"], *table["rows"])]
        planes = slice_planes(panel, np.reshape(centres, (-1, panel.labels.ndim)), budget)
        layers = [("found", "instances found")]
        layers += [("truth", "truth (white)")] if panel.truth is not None else []
        layers += [("embedding", "embedding (PCA colours, at one slice of each plane)")] if panel.embedding else []
        shown.append(
            {
                "name": panel.name,
                "facts": list(panel.facts.items()),
                "layers": layers,
                "has_truth": panel.truth is not None,
                "planes": planes,
                "histogram": Markup(histogram([float(row["volume"]) for row in panel.rows])),
                "size_unit": _size_unit(panel),
                **table,
            }
        )
        data.append(
            {
                "planes": [{key: plane[key] for key in ("axis", "start", "frames")} for plane in planes],
                "shape": panel.labels.shape,
                "rows": table["rows"],
                "mistakes": table["mistakes"],
            }
        )
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
        curves=[{"name": name, "svg": Markup(curve(points))} for name, points in (curves or {}).items() if points],
        settings=settings,
        # "</" would end the script element that holds the data
        data=Markup(json.dumps(data).replace("</", "<\\/")),
    )


def _table_unit(panel: ImagePanel) -> str:
    return panel.rows[0].get("unit", "voxel") if panel.rows else "voxel"


def _unit(panel: ImagePanel) -> str:
    """Unit of lengths, "" where they are in voxels."""
    unit = _table_unit(panel)
    return {"micrometer": "µm", "millimeter": "mm", "nanometer": "nm", "voxel": ""}.get(unit, unit)


def _size_unit(panel: ImagePanel) -> str:
    power = "²" if panel.labels.ndim == 2 else "³"
    return f"{_unit(panel)}{power}" if _unit(panel) else "voxels"


def _table(panel: ImagePanel, max_rows: int) -> dict[str, Any]:
    axes = AXES[-panel.labels.ndim :]
    places = [f"centroid_{axis}" for axis in axes]
    present = [name for name in FACT_COLUMNS if any(row.get(name) not in (None, "") for row in panel.rows)]
    columns = ["id", *present, *places]
    units = {"volume": _size_unit(panel)} | dict.fromkeys(places, _unit(panel) or "voxels")
    unit = _table_unit(panel)
    steps = table_lengths(panel.labels.ndim, None if unit == "voxel" else panel.spacing, unit)[0]
    largest = sorted(panel.rows, key=lambda row: -float(row["voxels"]))[:max_rows]
    rows = []
    for row in sorted(largest, key=lambda row: int(row["id"])):
        cells = [_number(row.get(name)) for name in columns]
        centre = [round(float(row[place]) / step) for place, step in zip(places, steps, strict=True)]
        box = [[int(row[f"{axis}_{end}"]) for end in ("min", "max")] for axis in axes] if "x_min" in row else None
        rows.append({"cells": cells, "centre": centre, "box": box or [[place, place + 1] for place in centre]})
    heads = [f"{column} ({units[column]})" if column in units else column for column in columns]
    return {"columns": heads, "rows": rows, "hidden_rows": len(panel.rows) - len(rows)}


def _mistakes(panel: ImagePanel, most: int) -> dict[str, Any]:
    listed = [
        {"text": mistake.text, "centre": [round(place) for place in mistake.centre], "box": mistake.box}
        for mistake in panel.mistakes[:most]
    ]
    return {"mistakes": listed, "hidden_mistakes": len(panel.mistakes) - len(listed)}


def _number(value: Any) -> float | int | None:
    if value in (None, ""):
        return None
    number = float(value)
    return int(number) if number.is_integer() else float(f"{number:.4g}")
