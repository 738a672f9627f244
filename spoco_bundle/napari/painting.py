"""The part of the window for annotations: their layer, the next number, how many there are."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels
from napari.qt.threading import create_worker
from qtpy.QtCore import QTimer

from spoco_bundle.napari.labels import BACKGROUND, count_and_highest
from spoco_bundle.napari.layers import annotation_colours

#: milliseconds without a stroke before the annotated objects are counted
PAUSE = 300


class Painting:
    """Adds to the window what it does with the layer of annotations, ``annotations``."""

    def _start_counting(self) -> None:
        self._highest, self._counting = 0, False
        self._pause = QTimer(self, singleShot=True, interval=PAUSE)
        self._pause.timeout.connect(self._count)

    def _annotation_layer(self) -> Labels:
        """The layer of annotations, a new one if it was removed."""
        if self.annotations is None:
            empty = np.zeros(self.session.image.shape, dtype=np.int32)
            self.annotations = self.viewer.add_labels(
                empty, name="annotations", colormap=annotation_colours(), **self._grid()
            )
            self.annotations.selected_label = 1
            self.annotations.brush_size = 5
            self.annotations.n_edit_dimensions = 2
            for event in (self.annotations.events.paint, self.annotations.events.labels_update):
                event.connect(self._touched)
            self.annotations.events.data.connect(self._touched)
            self._show_count((0, 0))
        return self.annotations

    def _touched(self, event: Any = None) -> None:
        self._pause.start()

    def _count(self) -> None:
        """Counts the annotated objects in a thread, as a large volume takes its time."""
        if self._counting:
            self._pause.start()
            return
        data = None if self.annotations is None else self.annotations.data
        self._counting = True
        worker = create_worker(count_and_highest, data)
        worker.returned.connect(self._show_count)
        worker.start()

    def _show_count(self, found: tuple[int, int]) -> None:
        self._counting = False
        count, self._highest = found
        self.count_label.setText(f"<b>{count}</b> object{'s' * (count != 1)} annotated")

    def new_object(self) -> None:
        """Takes the brush and a number that no object has."""
        layer = self._annotation_layer()
        if (self._pause.isActive() or self._counting) and layer.selected_label != BACKGROUND:
            # painted a moment ago, not counted yet
            self._highest = max(self._highest, layer.selected_label)
        self._paint(self._highest + 1 + (self._highest + 1 == BACKGROUND))

    def paint_background(self) -> None:
        """Takes the brush and the number of voxels that belong to no object."""
        self._paint(BACKGROUND)

    def _paint(self, number: int) -> None:
        layer = self._annotation_layer()
        self.viewer.layers.selection.active = layer
        layer.selected_label = number
        layer.mode = "paint"
