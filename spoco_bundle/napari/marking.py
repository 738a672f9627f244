"""The part of the window for how objects are annotated: their kinds, clicks, and regions drawn completely."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Points, Shapes

from spoco_bundle.annotation.kinds import KINDS
from spoco_bundle.napari.annotations import Annotations
from spoco_bundle.napari.labels import BACKGROUND

POINTS, REGIONS = "points", "complete regions"
#: what is asked for, by kind
HELP = {
    "whole": "Paint a few <b>whole</b> objects, in all their planes, each with its <b>own number</b>.",
    "slices": "Outline objects in <b>one or a few planes</b> and fill them there, each with its <b>own number</b>.",
    "strokes": "Paint <b>strokes inside</b> objects, a number per object. Stay clear of the edge.",
    "points": "<b>Click</b> once inside each object (Click objects).",
}
ALWAYS = " <b>0 means unknown</b>, not background: leave everything else unpainted."


class Marking:
    """Adds to the window the kinds of annotated objects, and the layers ``points`` and ``regions``."""

    def _start_marking(self) -> None:
        self.kinds: dict[int, str] = {}
        self.default_kind = KINDS[0]

    def _annotated(self) -> Annotations:
        """What there is in the layers now."""
        return Annotations(
            self._drawn,
            None if self.instances is None else self.instances.data,
            dict(self.kinds),
            self.default_kind,
            None if self.points is None else self._clicks(),
            [] if self.regions is None else self._rectangles(),
        )

    def _show_marks(self, annotations: Annotations) -> None:
        """Shows what was read of an image."""
        self.kinds, self.default_kind = dict(annotations.kinds), annotations.default
        kinds = [kind for kind in KINDS if kind != "slices" or self.session.dims == 3]
        for box in (self.default_box, self.kind_box):
            box.blockSignals(True)
            box.clear()
            box.addItems(kinds)
            box.blockSignals(False)
        self.default_box.setCurrentText(self.default_kind)
        self._show_kind()
        self._show_help()
        if len(annotations.points):
            self._points_layer().data = annotations.points
        if len(annotations.rectangles):
            self._regions_layer().add_rectangles(list(annotations.rectangles))

    def _show_help(self) -> None:
        self.help_label.setText(HELP[self.default_kind] + ALWAYS)

    def _show_kind(self, event: Any = None) -> None:
        """Shows the kind of the object whose number the brush has."""
        number = self._annotation_layer().selected_label
        self.kind_label.setText(f"object {number} is")
        self.kind_box.setEnabled(number not in (0, BACKGROUND))
        self.kind_box.blockSignals(True)
        self.kind_box.setCurrentText(self.kinds.get(number, self.default_kind))
        self.kind_box.blockSignals(False)

    def _set_default(self, kind: str) -> None:
        """Sets the kind of all objects that none was chosen for."""
        self.default_kind = kind
        self._show_help()
        self._show_kind()
        self._touched()

    def _set_kind(self, kind: str) -> None:
        """Sets the kind of the object whose number the brush has."""
        self.kinds[self._annotation_layer().selected_label] = kind
        self._touched()

    def click_points(self) -> None:
        """Takes the tool that puts a point into the image for each click."""
        layer = self._points_layer()
        self.viewer.layers.selection.active = layer
        layer.mode = "add"

    def draw_regions(self) -> None:
        """Takes the tool that draws rectangles in which every object is drawn."""
        layer = self._regions_layer()
        self.viewer.layers.selection.active = layer
        layer.mode = "add_rectangle"

    def _points_layer(self) -> Points:
        if self.points is None:
            self.points = self.viewer.add_points(
                ndim=self.session.dims, name=POINTS, size=6, face_color="yellow", border_color="black", **self._grid()
            )
            self.points.events.data.connect(self._touched)
        return self.points

    def _regions_layer(self) -> Shapes:
        if self.regions is None:
            self.regions = self.viewer.add_shapes(
                ndim=self.session.dims, name=REGIONS, face_color="#00000000", edge_color="lime", **self._grid()
            )
            self.regions.events.data.connect(self._touched)
        return self.regions

    def _clicks(self) -> np.ndarray:
        """The points that lie in the image."""
        clicks = np.asarray(self.points.data)
        voxels = np.floor(clicks + 0.5)
        return clicks[((voxels >= 0) & (voxels < self.session.image.spatial_shape)).all(1)]

    def _rectangles(self) -> list[np.ndarray]:
        """The rectangles that share voxels with the image; other shapes say nothing."""
        drawn = zip(self.regions.data, self.regions.shape_type)
        rectangles = [np.floor(np.asarray(corners) + 0.5) for corners, kind in drawn if kind == "rectangle"]
        top = np.array(self.session.image.spatial_shape)
        return [corners for corners in rectangles if ((corners.max(0) >= 0) & (corners.min(0) < top)).all()]
