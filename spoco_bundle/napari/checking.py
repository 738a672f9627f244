"""The part of the window for predicted objects: their layer and table, which one to look at next."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from napari.layers import Labels
from napari.utils.notifications import show_error
from qtpy.QtCore import QModelIndex

from spoco_bundle.annotation.editing import least_certain
from spoco_bundle.napari.layers import chosen_layer, prediction_colours
from spoco_bundle.napari.session import Predicted


class Checking:
    """Adds to the window the layer of objects that nobody has checked, ``instances``, and their table."""

    def _put_instances(self, found: Predicted) -> None:
        """Shows other unchecked objects in place of those that there are, under numbers that no object has."""
        added = self._take_numbers(found.instances)
        np.add(found.instances, added, out=found.instances, where=found.instances > 0)
        self._show_instances(found.instances, [{**row, "id": row["id"] + added} for row in found.rows])
        self._touched()

    def _show_instances(self, labels: np.ndarray, rows: list[dict[str, Any]]) -> None:
        if self.instances is not None:
            self.viewer.layers.remove(self.instances)
        self.instances = self.viewer.add_labels(
            labels, name="instances", colormap=prediction_colours(), opacity=0.5, **self._grid()
        )
        self.instances.features = pd.DataFrame(
            [{"index": row["id"], "voxels": row["voxels"], "confidence": row["confidence"]} for row in rows],
            columns=["index", "voxels", "confidence"],
        )
        self.instances.events.selected_label.connect(self._select_row)
        self._watch(self.instances)
        annotations = self._annotation_layer()
        self.viewer.layers.move(self.viewer.layers.index(annotations), len(self.viewer.layers))
        self._history.clear()
        self._show_rows(rows)
        self.check_section.fold(False)

    def _show_rows(self, rows: list[dict[str, Any]]) -> None:
        self.view.table.show_rows(rows)
        self._show_chosen()
        confident = len(self._confident())
        self.accept_all_button.setText(f"Accept all above ({confident})" if rows else "Accept all above")

    def _show_object(self, current: QModelIndex, previous: QModelIndex) -> None:
        if self.instances is not None and current.isValid():
            self._look_at(self.view.row_at(current))

    def _look_at(self, row: dict[str, Any]) -> list[float]:
        """Shows the plane through the middle of an object; where that is, in the units of the viewer."""
        self.instances.selected_label = row["id"]
        axes = "zyx"[-self.session.dims :]
        middle = [(row[f"{axis}_min"] + row[f"{axis}_max"] - 1) / 2 for axis in axes]
        world = [place * step for place, step in zip(middle, self.instances.scale)]
        for axis, place in enumerate(world):
            if axis not in self.viewer.dims.displayed:
                self.viewer.dims.set_point(axis, place)
        return world

    def look_at_least_certain(self) -> None:
        """Goes to the object of least confidence, or from it to the next one."""
        confidence = {row["id"]: row["confidence"] for row in self.view.table.rows}
        known = {number: None if value == "" else value for number, value in confidence.items()}
        selected = self.view.selected()
        number = least_certain(known, selected[0] if len(selected) == 1 else None)
        if number is None:
            show_error("no unchecked object is left: predict again, or import the result of another tool")
            return
        self.view.select({number})
        world = self._look_at(next(row for row in self.view.table.rows if row["id"] == number))
        shown = [world[axis] for axis in self.viewer.dims.displayed]
        # napari 0.9 moved the camera
        camera = self.viewer.scene.camera if hasattr(self.viewer, "scene") else self.viewer.camera
        camera.center = (*[0.0] * (3 - len(shown)), *shown)

    def _show_chosen(self, *_: Any) -> None:
        """Outlines the objects that are selected in the table."""
        chosen = set(self.view.selected())
        rows = [row for row in self.view.table.rows if row["id"] in chosen]
        shown = self._chosen is not None and self._chosen in self.viewer.layers
        if self.instances is None or not rows:
            if shown:
                self.viewer.layers.remove(self._chosen)
            self._chosen = None
            return
        outlines = chosen_layer(self.instances, rows)
        if shown:  # napari collects garbage when a layer goes, which takes half a second
            self._chosen.data = outlines.data
            self._chosen.scale, self._chosen.translate = outlines.scale, outlines.translate
            return
        active = self.viewer.layers.selection.active
        self._chosen = self.viewer.add_layer(outlines)
        self.viewer.layers.selection.active = active

    def _select_row(self, event: Any = None) -> None:
        """Marks the object that was picked in the layer."""
        number = self.instances.selected_label
        if number not in self.view.selected() and any(row["id"] == number for row in self.view.table.rows):
            self.view.select({number})

    def _confident(self) -> list[int]:
        least = self.confidence_box.value()
        return [row["id"] for row in self.view.table.rows if row["confidence"] != "" and row["confidence"] >= least]

    def _choose_confident(self) -> None:
        """Selects, and so outlines, what ``accept_confident`` would take."""
        chosen = self._confident()
        self.accept_all_button.setText(f"Accept all above ({len(chosen)})")
        self.view.select(set(chosen))

    def import_file(self, path: str) -> None:
        """Shows the objects of a label image of any tool as unchecked ones."""
        checked = self._annotation_layer().data
        self._start(lambda: self.session.take_file(path, checked), self._show_found)

    def import_selected(self) -> None:
        """Shows the objects of the selected layer of labels as unchecked ones."""
        layer = self.viewer.layers.selection.active
        if not isinstance(layer, Labels) or layer in (self.annotations, self.instances, self._chosen):
            show_error("select a layer of labels that another tool has made")
            return
        checked = self._annotation_layer().data
        self._start(lambda: self.session.take_labels(layer.data, layer.name, checked), self._show_found)

    def _show_found(self, found: Predicted) -> None:
        self._put_instances(found)
        self._say(f"{len(found.rows)} unchecked objects beside the annotated ones")
