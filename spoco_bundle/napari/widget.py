"""The window: opening images, training and predicting; everything that takes time happens elsewhere.

Trainings and predictions run in processes (see ``jobs``), whose progress a worker thread reads; files are read and
written, and labels counted, in worker threads. What comes back is put into layers here, in the thread of the window.
"""

from __future__ import annotations

import atexit
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Layer, Points, Shapes
from napari.utils.notifications import show_error, show_info
from qtpy.QtWidgets import QApplication, QFileDialog, QInputDialog, QLineEdit

from spoco_bundle.annotation.editing import Edit
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import geometry
from spoco_bundle.napari.annotations import Annotations
from spoco_bundle.napari.checking import Checking
from spoco_bundle.napari.controls import Controls
from spoco_bundle.napari.deciding import Deciding
from spoco_bundle.napari.jobs import JobProgress
from spoco_bundle.napari.marking import Marking
from spoco_bundle.napari.painting import Painting
from spoco_bundle.napari.reader import OPENED, image_layers, layer_grid, open_image
from spoco_bundle.napari.running import Running
from spoco_bundle.napari.session import Predicted, Session, Trained

if TYPE_CHECKING:
    from napari.viewer import Viewer


#: layers of the image in work, besides the image itself
LAYERS = ("annotations", "instances", "embedding", "points", "regions", "seeds")


class SpocoWidget(Running, Painting, Marking, Checking, Deciding, Controls):
    """The dock widget.

    Args:
        napari_viewer: the viewer that it stands in.
    """

    def __init__(self, napari_viewer: Viewer):
        super().__init__()
        self.viewer = napari_viewer
        self.session: Session | None = None
        self.image_layer: Image | None = None
        self.annotations: Labels | None = None
        self.instances: Labels | None = None
        self.embedding: Image | None = None
        self.points: Points | None = None
        self.regions: Shapes | None = None
        self.seeds: Points | None = None
        self._sessions: list[Session] = []
        self._chosen: Labels | None = None
        self._removed: np.ndarray | None = None
        self._history: list[tuple[Edit, list[dict[str, Any]]]] = []
        self._size_unknown = False
        self._connect()
        self._start_running()
        self._start_keeping()
        self._start_marking()
        self.viewer.layers.events.removed.connect(self._forget_layer)
        # whichever comes first when the viewer is closed or Python ends
        close = partial(_close_all, self._sessions)
        self.destroyed.connect(close)
        QApplication.instance().aboutToQuit.connect(close)
        atexit.register(close)
        self._refresh()

    # the window

    def _connect(self) -> None:
        for button, pressed in (
            (self.open_button, partial(self._choose_file, "Open an image", self.open_path)),
            (self.open_zarr_button, partial(self._choose_folder, "Open an OME-Zarr image", self.open_path)),
            (self.use_button, self.use_selected),
            (self.new_button, self.new_object),
            (self.background_button, self.paint_background),
            (self.points_button, self.click_points),
            (self.regions_button, self.draw_regions),
            (self.model_button, partial(self._choose_folder, "A folder that `spoco train` wrote", self.use_model)),
            (self.train_button, self.train),
            (self.predict_button, self.predict),
            (self.cancel_button, self.cancel),
            (self.import_button, partial(self._choose_file, "Import a label image", self.import_file)),
            (self.import_layer_button, self.import_selected),
            (self.next_button, self.look_at_least_certain),
            (self.undo_button, self.undo),
            (self.accept_button, self.accept_selected),
            (self.delete_button, self.delete_selected),
            (self.redraw_button, self.redraw_selected),
            (self.merge_button, self.merge_selected),
            (self.split_button, self.split_selected),
            (self.accept_all_button, self.accept_confident),
            (self.save_button, partial(self._choose_folder, "Save into a folder", self.save_to)),
        ):
            # Qt hands on whether a button is checked, which none of them is
            button.clicked.connect(lambda _=False, pressed=pressed: pressed())
        self.spacing_edit.editingFinished.connect(lambda: self._set_spacing(self.spacing_edit.text()))
        self.view.selectionModel().currentRowChanged.connect(self._show_object)
        self.view.selectionModel().selectionChanged.connect(self._show_chosen)
        self.confidence_box.valueChanged.connect(lambda _: self._choose_confident())
        self.default_box.currentTextChanged.connect(self._set_default)
        self.kind_box.currentTextChanged.connect(self._set_kind)

    def _refresh(self) -> None:
        """Enables what can be done now."""
        opened, idle = self.session is not None, not self.running
        ready, known = opened and idle, opened and self.session.image.spacing is not None
        checking = ready and self.instances is not None
        for enabled, controls in (
            (idle, (self.open_button, self.open_zarr_button, self.use_button)),
            (ready, (self.train_button, self.predict_button, self.save_button, self.model_button)),
            (ready, (self.import_button, self.import_layer_button)),
            (opened, (self.new_button, self.background_button, self.points_button, self.regions_button)),
            (checking, (self.next_button, self.undo_button, self.accept_button, self.delete_button)),
            (checking, (self.redraw_button, self.merge_button, self.split_button, self.accept_all_button)),
            (opened, (self.default_box,)),
            (self.running, (self.cancel_button,)),
            (ready and not known, (self.spacing_edit,)),
        ):
            for control in controls:
                control.setEnabled(enabled)
        if opened:
            self.model_label.setText(f"Model: {_model_name(self.session)}")

    # opening

    def _choose_file(self, title: str, take: Callable[[str], None]) -> None:
        path, _ = QFileDialog.getOpenFileName(self, title)
        if path:
            take(path)

    def _choose_folder(self, title: str, take: Callable[[str], None]) -> None:
        path = QFileDialog.getExistingDirectory(self, title)
        if path:
            take(path)

    def open_path(self, path: str) -> None:
        """Opens an image, with what was annotated before, and starts anew with it."""
        self._keep_now()

        def read() -> Iterator[JobProgress]:
            yield JobProgress(f"reading {path}")
            image = open_image(path)
            return _begun(image), image_layers(image)  # noqa: B901

        self._start(read, self._add_image)

    def use_selected(self) -> None:
        """Starts anew with the image of the selected layer."""
        self._keep_now()
        layer = self.viewer.layers.selection.active
        opened = layer.metadata.get(OPENED) if isinstance(layer, Image) else None
        if opened is not None:

            def read() -> Iterator[JobProgress]:
                yield JobProgress("reading annotations")
                return _begun(opened), layer  # noqa: B901

            self._start(read, lambda found: self._begin(*found))
        elif isinstance(layer, Image) and layer.source.path:
            self.open_path(layer.source.path)
        else:
            show_error(
                "select an image layer that was opened from a file; a layer of another kind has to be saved first"
            )

    def _add_image(self, found: tuple[Begun, list[tuple]]) -> None:
        begun, layers = found
        added = [self.viewer.add_layer(Layer.create(*layer)) for layer in layers]
        self._begin(begun, added[0])

    def _begin(self, begun: Begun, layer: Image) -> None:
        self._keep_now()
        for own in filter(None, (getattr(self, name) for name in LAYERS)):
            self.viewer.layers.remove(own)
        if self.session is not None:
            self.session.close()
            self._sessions.remove(self.session)
        self.session, annotations, rows = begun
        self._size_unknown = False
        self._sessions.append(self.session)
        self.image_layer = layer
        self._highest, self._complained, self._removed = 0, False, annotations.checked
        image = self.session.image
        shape = " x ".join(map(str, image.spatial_shape))
        self.image_label.setText(f"{self.session.path.name}: {shape} voxels")
        steps = ", ".join(f"{step:g}" for step in image.spacing or ())
        self.spacing_edit.setText(f"{steps} {image.file_unit}" if steps else "")
        self._annotation_layer()
        self._show_marks(annotations)
        self._show_rows([])
        if annotations.unchecked is not None:
            self._show_instances(annotations.unchecked, rows)
        contents = annotations.contents()
        self._highest = max([0, *contents.entries])
        self.count_label.setText(contents.in_words())
        self.image_section.fold(True)
        # what was read only now need not be written
        self._pause.stop()
        self.session.at_close = None
        self._say("")
        self._refresh()

    def _set_spacing(self, text: str) -> bool:
        """Takes a voxel size into use; whether it was one, or none was given."""
        text = text.strip()
        if self.session is None or self.session.image.spacing is not None:
            return True
        try:
            spacing = tuple(float(part) for part in text.replace(",", " ").split()) or None
        except ValueError:
            spacing = ()
        dims = self.session.dims
        if spacing is not None and (len(spacing) != dims or not all(0 < step < math.inf for step in spacing)):
            show_error(f"voxel size {text!r}: give {dims} numbers above 0, such as {', '.join(['0.5'] * dims)}")
            return False
        self.session.spacing = spacing
        for layer in (self.image_layer, *(getattr(self, name) for name in LAYERS)):
            if layer is not None:
                self._put_on_grid(layer)
        self.viewer.reset_view()
        return True

    def _has_voxel_size(self) -> bool:
        """Asks for a voxel size where none is known; whether the work may begin."""
        if self.session.has_voxel_size or self._size_unknown:
            return True
        axes = ", ".join("zyx"[-self.session.dims :])
        text, agreed = QInputDialog.getText(
            self,
            "Voxel size",
            f"The file states no voxel size. Give {axes} in micrometres, with commas between.\n"
            "Leave it empty if nobody knows: lengths are then in voxels.",
        )
        if not agreed or not self._set_spacing(text):
            return False
        self._size_unknown = not text.strip()
        self.spacing_edit.setText(text)
        return True

    def _put_on_grid(self, layer: Layer) -> None:
        grid = self._grid() if isinstance(layer, (Points, Shapes)) else self._grid(layer.data.shape)
        layer.scale, layer.units = grid["scale"], grid["units"]

    def _grid(self, shape: Sequence[int] | None = None) -> dict[str, Any]:
        """Scale and units of a layer with the voxel size of the image, or one that makes a coarser grid as large."""
        image = self.session.image
        if image.spacing is None and self.session.spacing is not None:
            grid = layer_grid(image.spatial_shape, self.session.spacing, "micrometer")
        else:
            grid = layer_grid(image.spatial_shape, image.spacing, image.file_unit)
        steps = zip(grid["scale"], image.spatial_shape, shape or image.spatial_shape)
        return {**grid, "scale": tuple(step * whole / part for step, whole, part in steps)}

    def _forget_layer(self, event: Any) -> None:
        # equal, not the same: a plugin is given stand-ins for the viewer and what it returns
        gone = [name for name in LAYERS if getattr(self, name) == event.value]
        if gone:
            self._keep_now()
        for name in gone:
            setattr(self, name, None)
        if "annotations" in gone:
            self._removed = event.value.data
        if "instances" in gone:
            self._history.clear()
            self._show_rows([])
        self._refresh()

    # training and predicting

    def use_model(self, folder: str) -> None:
        """Takes another model into use."""
        try:
            self.session.use_model(folder)
        except SpocoError as error:
            show_error(str(error))
        self._refresh()

    def train(self) -> None:
        """Trains on what is annotated."""
        options = self._options(self.train_options)
        if options is not None and self._has_voxel_size():
            count, scratch = self.iterations_box.value(), self.scratch_box.isChecked()
            self._start(partial(self.session.train, self._annotated(), count, scratch, options), self._show_trained)

    def predict(self) -> None:
        """Finds all objects."""
        options = self._options(self.predict_options)
        if options is not None and self._has_voxel_size():
            self._start(
                partial(self.session.predict, self._annotation_layer().data, options=options), self._show_predicted
            )

    def cancel(self) -> None:
        """Ends what runs."""
        self._say("cancelling ...")
        if self.session is not None:
            self.session.cancel()

    def _options(self, edit: QLineEdit) -> list[str] | None:
        try:
            return shlex.split(edit.text())
        except ValueError as error:
            show_error(f"options {edit.text()!r}: {error}; close what is quoted")
            return None

    def _show_trained(self, trained: Trained) -> None:
        self.scratch_box.setChecked(False)
        if trained.before is None:
            said = f"trained; score {trained.best:.2f} on the objects held out"
        elif trained.better:
            said = f"trained; score on the objects held out {trained.before:.2f} before, {trained.best:.2f} now"
        else:
            said = f"kept the old weights: none was better ({trained.before:.2f})"
            said += f"; {trained.note}" if trained.note else ""
        self._say(said)
        show_info(said)

    def _show_predicted(self, found: Predicted) -> None:
        if self.embedding is not None:
            self.viewer.layers.remove(self.embedding)
        if found.embedding is not None:
            grid = self._grid(found.embedding.shape)
            self.embedding = self.viewer.add_image(found.embedding, name="embedding", rgb=True, visible=False, **grid)
        self._show_found(found)

    # saving

    def save_to(self, folder: str) -> None:
        """Writes instances, table, annotations and model into a folder."""
        annotations = self._annotated()
        confidence = {row["id"]: row["confidence"] for row in self.view.table.rows if row["confidence"] != ""}

        def write() -> Iterator[JobProgress]:
            yield JobProgress(f"saving into {folder} ...")
            return self.session.save(folder, annotations, confidence)  # noqa: B901

        self._start(write, lambda written: self._say(f"saved {', '.join(path.name for path in written)}"))


#: an image in work, what was annotated of it before, and the table of its unchecked objects
Begun = tuple[Session, Annotations, list[dict[str, Any]]]


def _begun(image: geometry.Image) -> Begun:
    session = Session(image)
    try:
        return session, *session.read()
    except SpocoError:
        session.close()
        raise


def _close_all(sessions: list[Session], *_: Any) -> None:
    while sessions:
        sessions.pop().close()


def _model_name(session: Session) -> str:
    if session.trained_here:
        return "trained here"
    return "the one that comes with the bundle" if session.model is None else session.model.name
