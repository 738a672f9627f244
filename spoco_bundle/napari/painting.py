"""The part of the window for drawn objects: their layer, the next number, and that nothing of it gets lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
from napari.layers import Labels
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from qtpy.QtCore import QTimer

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.napari.annotations import Annotations, Contents
from spoco_bundle.napari.labels import BACKGROUND, ids_of
from spoco_bundle.napari.layers import annotation_colours
from spoco_bundle.napari.session import Session

#: milliseconds after a change before it is written, and at least between two writings
PAUSE = 300


class Painting:
    """Adds to the window what it does with the layer of annotations, ``annotations``.

    Whatever changes in the layers is written beside the image a moment later, in a thread.
    """

    def _start_keeping(self) -> None:
        self._highest, self._keeping, self._complained = 0, False, False
        self._pause = QTimer(self, singleShot=True, interval=PAUSE)
        self._pause.timeout.connect(self._keep)

    @property
    def _drawn(self) -> np.ndarray:
        """(*spatial) ids of the layer of annotations, or of the one that was removed."""
        return self._removed if self.annotations is None else self.annotations.data

    def _annotation_layer(self) -> Labels:
        """The layer of annotations; one that was removed comes back as it was."""
        if self.annotations is None:
            self.annotations = self.viewer.add_labels(
                self._drawn, name="annotations", colormap=annotation_colours(), **self._grid()
            )
            self.annotations.selected_label = 1
            self.annotations.brush_size = 5
            self.annotations.n_edit_dimensions = 2
            self.annotations.events.selected_label.connect(self._show_kind)
            self._watch(self.annotations)
        return self.annotations

    def _watch(self, layer: Labels) -> None:
        """Has what changes in a layer of objects written."""
        for event in (layer.events.paint, layer.events.labels_update, layer.events.data):
            event.connect(self._touched)

    def _touched(self, event: Any = None) -> None:
        if self.session is not None and not self._pause.isActive():
            session = self.session
            session.at_close = lambda: session.keep(self._annotated().contents())
            self._pause.start()

    def _keep(self) -> None:
        """Writes and counts what there is, in a thread, as a large volume takes its time."""
        if self._keeping:
            self._pause.start()
            return
        self._keeping, self.session.at_close = True, None
        worker = create_worker(_kept, self.session, self._annotated())
        worker.returned.connect(self._show_kept)
        worker.finished.connect(self._end_keeping)
        worker.start()

    def _end_keeping(self) -> None:
        self._keeping = False

    def _keep_now(self) -> None:
        """Writes what has changed and is not written yet, before a layer or the image goes."""
        if self._pause.isActive():
            self._pause.stop()
            self.session.at_close = None
            self._show_kept(_kept(self.session, self._annotated()))

    def _show_kept(self, found: Kept) -> None:
        session, contents, seconds, error = found
        if session is not self.session:
            return
        # so that writing takes half of the time at most
        self._pause.setInterval(PAUSE + round(1000 * seconds))
        self._highest = max(self._highest, *contents.entries, 0)
        self.count_label.setText(contents.in_words())
        if error is not None and not self._complained:
            show_error(f"{error}; what you annotate is not kept until you press Save")
        self._complained = error is not None

    def new_object(self) -> None:
        """Takes the brush and a number that no object has."""
        number = self._annotation_layer().selected_label
        if number not in (self._highest, BACKGROUND) and (self._drawn == number).any():
            # painted a moment ago, not counted yet
            self._highest = max(self._highest, number)
        self._paint(next(self._free_numbers()))

    def paint_background(self) -> None:
        """Takes the brush and the number of voxels that belong to no object."""
        self._paint(BACKGROUND)

    def _paint(self, number: int) -> None:
        layer = self._annotation_layer()
        self.viewer.layers.selection.active = layer
        layer.selected_label = number
        layer.mode = "paint"

    def _free_numbers(self) -> Iterator[int]:
        """Numbers that no object has or had."""
        return (number for number in count(self._highest + 1) if number != BACKGROUND)

    def _reserve_number(self) -> None:
        """Has no other object get the number of the brush, with which somebody is about to paint."""
        self._highest = max({self._highest} | {self._annotation_layer().selected_label} - {BACKGROUND})

    def _take_numbers(self, labels: np.ndarray) -> int:
        """Finds new numbers for objects 1 to n: how much is to be added to theirs."""
        self._reserve_number()
        highest = max({self._highest} | ids_of(self._drawn))
        number = int(labels.max(initial=0))
        added = BACKGROUND if highest < BACKGROUND <= highest + number else highest
        self._highest = added + number
        return added


#: of which image what was written, in how many seconds, and why it was not if it was not
Kept = tuple[Session, Contents, float, SpocoError | None]


def _kept(session: Session, annotations: Annotations) -> Kept:
    begun, contents, error = time.monotonic(), annotations.contents(), None
    try:
        session.keep(contents)
    except SpocoError as refused:
        error = refused
    return session, contents, time.monotonic() - begun, error
