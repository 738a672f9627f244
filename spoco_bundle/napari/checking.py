"""The part of the window for predicted objects: looking at them, and accepting those that are right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from napari.utils.notifications import show_error
from qtpy.QtCore import QModelIndex

from spoco_bundle.napari.jobs import JobProgress
from spoco_bundle.napari.labels import places_to_accept
from spoco_bundle.napari.layers import chosen_layer


class Checking:
    """Adds to the window what it does with the layer of predicted objects, ``instances``, and their table."""

    def _show_rows(self, rows: list[dict[str, Any]]) -> None:
        self.view.table.show_rows(rows)
        self._show_chosen()
        confident = len(self._confident())
        self.accept_all_button.setText(f"Accept all above ({confident})" if rows else "Accept all above")

    def _show_object(self, current: QModelIndex, previous: QModelIndex) -> None:
        if self.instances is None or not current.isValid():
            return
        row = self.view.row_at(current)
        self.instances.selected_label = row["id"]
        axes = "zyx"[-self.session.dims :]
        middle = [(row[f"{axis}_min"] + row[f"{axis}_max"] - 1) / 2 for axis in axes]
        # of a volume shown in planes the one through its middle
        for axis, place in enumerate(middle):
            if axis not in self.viewer.dims.displayed:
                self.viewer.dims.set_point(axis, place * self.instances.scale[axis])

    def _show_chosen(self, *_: Any) -> None:
        """Outlines the objects that are selected in the table."""
        if self._chosen is not None and self._chosen in self.viewer.layers:
            self.viewer.layers.remove(self._chosen)
        self._chosen = None
        chosen = set(self.view.selected())
        rows = [row for row in self.view.table.rows if row["id"] in chosen]
        if self.instances is None or not rows:
            return
        active = self.viewer.layers.selection.active
        self._chosen = self.viewer.add_layer(chosen_layer(self.instances, rows))
        self.viewer.layers.selection.active = active

    def _select_row(self, event: Any = None) -> None:
        """Marks the object that was picked in the layer."""
        number = self.instances.selected_label
        if number not in self.view.selected() and any(row["id"] == number for row in self.view.table.rows):
            self.view.select({number})

    def selected_objects(self) -> list[int]:
        """Ids of the objects selected in the table, or of the one picked in the layer."""
        return self.view.selected()

    def accept_selected(self) -> None:
        """Moves the selected objects into the annotations."""
        self.accept(self.selected_objects(), "select an object in the table, or pick one in the layer instances")

    def _confident(self) -> list[int]:
        least = self.confidence_box.value()
        return [row["id"] for row in self.view.table.rows if row["confidence"] != "" and row["confidence"] >= least]

    def _choose_confident(self) -> None:
        """Selects, and so outlines, what ``accept_confident`` would take."""
        chosen = self._confident()
        self.accept_all_button.setText(f"Accept all above ({len(chosen)})")
        self.view.select(set(chosen))

    def accept_confident(self) -> None:
        """Moves every object of at least the chosen confidence into the annotations."""
        least = self.confidence_box.value()
        self.accept(self._confident(), f"no object has a confidence of {least:g} or more: choose a lower one")

    def accept(self, objects: Sequence[int], otherwise: str = "name an object") -> None:
        """Moves objects into the annotations, where each gets a number of its own.

        Args:
            objects: ids of the layer of instances.
            otherwise: what to say where there are none.
        """
        if not objects:
            show_error(otherwise)
            return
        predicted, annotated = self.instances.data, self._annotation_layer().data

        def find() -> Iterator[JobProgress]:
            yield JobProgress("accepting ...")
            return places_to_accept(predicted, annotated, objects)  # noqa: B901

        self._start(find, self._move)

    def _move(self, found: tuple[tuple[np.ndarray, ...], np.ndarray, list[int]]) -> None:
        places, numbers, objects = found
        if places[0].size:
            # through the history of the layers, so that both steps can be undone there
            self._annotation_layer().data_setitem(places, numbers)
            self.instances.data_setitem(places, 0)
        self._show_rows([row for row in self.view.table.rows if row["id"] not in set(objects)])
        self._say(f"{len(objects)} accepted; correct them with the brush in the layer annotations")
