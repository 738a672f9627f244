"""The part of the window for decisions about predicted objects: accept, delete, merge, split, redraw, and take back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import fastremap
import numpy as np
from napari.utils.notifications import show_error

from spoco_bundle.annotation.editing import Edit, accept, delete, merge, split
from spoco_bundle.napari.jobs import JobProgress
from spoco_bundle.napari.labels import rows_of

SEEDS = "seeds"
NOBODY = "select an object in the table, or pick one in the layer instances"


class Deciding:
    """Adds to the window what it does with unchecked objects; each decision is written at once and can be undone."""

    def accept_selected(self) -> None:
        """Moves the selected objects into the annotations."""
        self.accept(self.view.selected())

    def accept_confident(self) -> None:
        """Moves every object of at least the chosen confidence into the annotations."""
        least = self.confidence_box.value()
        self.accept(self._confident(), f"no object has a confidence of {least:g} or more: choose a lower one")

    def accept(self, objects: Sequence[int], otherwise: str = NOBODY) -> None:
        """Moves objects into the annotations under their numbers.

        Args:
            objects: ids of the layer of instances.
            otherwise: what to say where there are none.
        """
        # a predicted object is drawn in all its voxels, however the others are annotated
        self.kinds |= dict.fromkeys(objects, "whole")
        said = f"{len(objects)} accepted; correct them with the brush in the layer annotations"
        self._decide(objects, otherwise, accept, said)

    def delete_selected(self) -> None:
        """Takes the selected objects away."""
        objects = self.view.selected()
        self._decide(objects, NOBODY, delete, f"{len(objects)} deleted; nothing is learnt from that")

    def redraw_selected(self) -> None:
        """Takes the selected objects away, and the brush to draw one in their place."""
        objects = self.view.selected()
        self._decide(objects, NOBODY, delete, "draw the object anew, in the layer annotations")
        if objects:
            self.new_object()

    def merge_selected(self) -> None:
        """Makes one object of those that are selected."""
        objects = self.view.selected()
        chosen = objects if len(objects) > 1 else []
        self._decide(
            chosen, "select two objects or more in the table, with Ctrl", merge, "merged; accept it if it is right now"
        )

    def split_selected(self) -> None:
        """Divides the selected object among the seeds in it, or into its pieces where there are no seeds."""
        objects = self.view.selected()
        seeds = None if self.seeds is None or not len(self.seeds.data) else np.floor(np.asarray(self.seeds.data) + 0.5)
        self._reserve_number()
        spacing, free = self.session.image.spacing or self.session.spacing, self._free_numbers()

        def divide(checked: np.ndarray, unchecked: np.ndarray, chosen: Sequence[int]) -> Edit | None:
            return split(checked, unchecked, chosen[0], free, seeds, spacing)

        chosen = objects if len(objects) == 1 else []
        self._decide(chosen, "select one object to split", divide, "split; accept the parts that are right now")

    def undo(self) -> None:
        """Takes the last decision back; what was painted since stays."""
        if not self._history:
            show_error("there is no decision to take back; Ctrl-Z takes back what was painted")
            return
        edit, rows = self._history.pop()
        self._put(edit.back())
        self._show_rows(rows)
        self._say("taken back")

    def _decide(
        self,
        objects: Sequence[int],
        otherwise: str,
        find: Callable[[np.ndarray, np.ndarray, Sequence[int]], Edit | None],
        said: str,
    ) -> None:
        if not objects:
            show_error(otherwise)
            return
        checked, unchecked = self._annotation_layer().data, self.instances.data

        def steps() -> Iterator[JobProgress]:
            yield JobProgress("finding the voxels ...")
            return find(checked, unchecked, objects), objects, said  # noqa: B901

        self._start(steps, self._carry_out)

    def _carry_out(self, found: tuple[Edit | None, Sequence[int], str]) -> None:
        edit, objects, said = found
        if self.instances is None:
            return  # removed meanwhile
        if edit is None:
            self._ask_for_seeds()
            return
        rows = self.view.table.rows
        self._history.append((edit, rows))
        self._put(edit)
        left = [row for row in rows if row["id"] not in set(objects)]
        new = set(edit.unchecked[1].tolist()) - {0}
        if new:
            self._highest = max(self._highest, *new)
            part = fastremap.mask_except(self.instances.data[edit.region], sorted(new))
            left += rows_of(part, {}, [along.start for along in edit.region])
        self._show_rows(left)
        self.view.select(new)
        if self.seeds is not None and len(new) > 1:
            self.viewer.layers.remove(self.seeds)
        self._say(said)

    def _put(self, edit: Edit) -> None:
        # through the history of the layers, so that napari knows of it too
        for layer, change in ((self._annotation_layer(), edit.checked), (self.instances, edit.unchecked)):
            places, ids = edit.still_open(layer.data, change)
            if ids.size:
                layer.data_setitem(places, ids)
        self._touched()

    def _ask_for_seeds(self) -> None:
        if self.seeds is None:
            self.seeds = self.viewer.add_points(
                ndim=self.session.dims, name=SEEDS, size=4, face_color="red", **self._grid()
            )
        self.viewer.layers.selection.active = self.seeds
        self.seeds.mode = "add"
        self._say("the object is in one piece: click once into each of its parts, then press Split again")
