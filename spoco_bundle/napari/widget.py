"""The window: buttons, layers and the objects table; everything that takes time happens elsewhere.

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

import fastremap
import numpy as np
import pandas as pd
from napari.layers import Image, Labels, Layer
from napari.qt.threading import create_worker
from napari.utils.notifications import notification_manager, show_error, show_info
from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSortFilterProxyModel, Qt, QTimer
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QCheckBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSpinBox,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from spoco_bundle.core.errors import SpocoError, user_error
from spoco_bundle.napari.jobs import CancelledError, Progress
from spoco_bundle.napari.reader import OPENED, OpenedImage, image_layers, layer_grid, open_image
from spoco_bundle.napari.session import BACKGROUND, ITERATIONS, Predicted, Session, Trained, count_objects

if TYPE_CHECKING:
    from napari.viewer import Viewer

HELP = (
    "Paint a few <b>whole</b> objects, each with its <b>own number</b>. <b>0 means unknown</b>, not background: leave "
    "everything else unpainted."
)
COLUMNS = ("id", "voxels", "confidence")
#: milliseconds without a stroke before the annotated objects are counted
PAUSE = 300


class SpocoWidget(QWidget):
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
        self.running = False
        self._done: Callable[[Any], None] = self._say
        self._highest = 0
        self._counting = False
        self._sessions: list[Session] = []
        self._build()
        self._pause = QTimer(self, singleShot=True, interval=PAUSE)
        self._pause.timeout.connect(self._count)
        self.viewer.layers.events.removed.connect(self._forget_layer)
        # whichever comes first when the viewer is closed or Python ends
        close = partial(_close_all, self._sessions)
        self.destroyed.connect(close)
        QApplication.instance().aboutToQuit.connect(close)
        atexit.register(close)
        self._refresh()

    # the window

    def _build(self) -> None:
        self.image_label = _text("No image yet.")
        self.open_button = _button("Open file…", "NIfTI, TIFF, NRRD, PNG, ...", self._choose_file)
        self.open_zarr_button = _button("Open Zarr…", "An OME-Zarr image is a folder", self._choose_zarr)
        self.use_button = _button("Use selected layer", "The image layer selected on the left", self.use_selected)
        self.spacing_edit = QLineEdit(placeholderText="z, y, x in micrometers, such as 2, 0.5, 0.5")
        self.spacing_edit.setToolTip("Can be set where the file does not state it")
        self.spacing_edit.editingFinished.connect(self._set_spacing)

        self.count_label = _text("")
        self.new_button = _button("New object", "Take the next free number and the brush", self.new_object)
        self.background_button = _button(
            "No object here", f"Paint with {BACKGROUND}: voxels that belong to no object", self.paint_background
        )

        self.model_label = _text("")
        self.model_button = _button("Other model…", "A folder that `spoco train` wrote", self._choose_model)
        self.scratch_box = QCheckBox("start from scratch")
        self.scratch_box.setToolTip("Random weights: for images unlike those that the model knows")
        self.iterations_box = QSpinBox(minimum=10, maximum=100_000, singleStep=50, value=ITERATIONS)
        self.train_options = QLineEdit(placeholderText="--crop_size [16,48,48] --batch_size 1")
        self.train_options.setToolTip("Further options of `spoco train`")
        self.predict_options = QLineEdit(placeholderText="--objectness_threshold 0.5")
        self.predict_options.setToolTip("Further options of `spoco predict`")
        self.train_button = _button("Train", "Learn from the painted objects", self.train)
        self.predict_button = _button("Predict", "Find all objects with the model in use", self.predict)
        self.cancel_button = _button("Cancel", "End what runs; the model stays as it was", self.cancel)
        self.bar = QProgressBar(maximum=1000)
        self.status_label = _text("")

        self.table = ObjectsTable()
        self.sorted = QSortFilterProxyModel(self)
        self.sorted.setSourceModel(self.table)
        self.sorted.setSortRole(Qt.ItemDataRole.UserRole)
        self.view = QTableView(minimumHeight=150)
        self.view.setModel(self.sorted)
        self.view.setSortingEnabled(True)
        self.view.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self.view.verticalHeader().hide()
        self.view.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.view.selectionModel().currentRowChanged.connect(self._show_object)
        self.accept_button = _button(
            "Accept selected", "Move the selected objects into the annotations", self.accept_selected
        )
        self.confidence_box = QDoubleSpinBox(minimum=0, maximum=1, singleStep=0.05, value=0.8)
        self.accept_all_button = _button(
            "Accept all above", "Move every object of at least this confidence", self.accept_confident
        )
        self.save_button = _button("Save…", "Instances, table, annotations and model", self._choose_target)

        image = _group("1  Image", self.image_label, _row(self.open_button, self.open_zarr_button), self.use_button)
        image.layout().addLayout(_form(("voxel size", self.spacing_edit)))
        paint = _group("2  Annotate", _text(HELP), _row(self.new_button, self.background_button), self.count_label)
        model = _group("3  Train and predict", self.model_label, _row(self.model_button, self.scratch_box))
        model.layout().addLayout(
            _form(
                ("iterations", self.iterations_box),
                ("training options", self.train_options),
                ("prediction options", self.predict_options),
            )
        )
        for part in (_row(self.train_button, self.predict_button, self.cancel_button), self.bar, self.status_label):
            model.layout().addWidget(part)
        check = _group("4  Accept, correct, save", self.view, self.accept_button)
        check.layout().addWidget(_row(self.accept_all_button, self.confidence_box))
        check.layout().addWidget(self.save_button)
        inside = QWidget()
        inside.setLayout(QVBoxLayout())
        for part in (image, paint, model, check):
            inside.layout().addWidget(part)
        scroll = QScrollArea(widgetResizable=True)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(inside)
        self.setLayout(QVBoxLayout())
        self.layout().setContentsMargins(0, 0, 0, 0)
        self.layout().addWidget(scroll)
        self.setMinimumWidth(inside.minimumSizeHint().width() + 20)

    def _refresh(self) -> None:
        """Enables what can be done now."""
        ready = self.session is not None and not self.running
        for button in (self.open_button, self.open_zarr_button, self.use_button):
            button.setEnabled(not self.running)
        for button in (self.train_button, self.predict_button, self.save_button, self.model_button):
            button.setEnabled(ready)
        for button in (self.new_button, self.background_button):
            button.setEnabled(self.session is not None)
        for button in (self.accept_button, self.accept_all_button):
            button.setEnabled(ready and self.instances is not None)
        self.cancel_button.setEnabled(self.running)
        known = self.session is not None and self.session.image.spacing is not None
        self.spacing_edit.setEnabled(ready and not known)
        if self.session is not None:
            self.model_label.setText(f"Model: {_model_name(self.session)}")

    # opening

    def _choose_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open an image")
        if path:
            self.open_path(path)

    def _choose_zarr(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Open an OME-Zarr image")
        if path:
            self.open_path(path)

    def open_path(self, path: str) -> None:
        """Opens an image and starts anew with it."""

        def read() -> Iterator[Progress]:
            yield Progress(f"reading {path}")
            image = open_image(path)
            return image, image_layers(image)

        self._start(read, self._add_image)

    def use_selected(self) -> None:
        """Starts anew with the image of the selected layer."""
        layer = self.viewer.layers.selection.active
        opened = layer.metadata.get(OPENED) if isinstance(layer, Image) else None
        if opened is not None:
            self._begin(opened, layer)
        elif isinstance(layer, Image) and layer.source.path:
            self.open_path(layer.source.path)
        else:
            show_error(
                "select an image layer that was opened from a file; a layer of another kind has to be saved first"
            )

    def _add_image(self, found: tuple[OpenedImage, list[tuple]]) -> None:
        image, layers = found
        added = [self.viewer.add_layer(Layer.create(*layer)) for layer in layers]
        self._begin(image, added[0])

    def _begin(self, image: OpenedImage, layer: Image) -> None:
        if self.session is not None:
            self.session.close()
            self._sessions.remove(self.session)
        self.session = Session(image)
        self._sessions.append(self.session)
        self.image_layer, self.instances, self.embedding = layer, None, None
        self.table.show_rows([])
        shape = " x ".join(map(str, image.shape))
        self.image_label.setText(f"{image.path.name}: {shape} voxels")
        stated = "" if image.spacing is None else ", ".join(f"{step:g}" for step in image.spacing) + f" {image.unit}"
        self.spacing_edit.setText(stated)
        self.annotations = None
        self._annotation_layer()
        self._say("")
        self._refresh()

    def _set_spacing(self) -> None:
        text = self.spacing_edit.text().strip()
        if self.session is None or self.session.image.spacing is not None:
            return
        try:
            spacing = tuple(float(part) for part in text.replace(",", " ").split()) or None
        except ValueError:
            spacing = ()
        dims = self.session.dims
        if spacing is not None and (len(spacing) != dims or not all(0 < step < math.inf for step in spacing)):
            show_error(f"voxel size {text!r}: give {dims} numbers above 0, such as {', '.join(['0.5'] * dims)}")
            return
        self.session.spacing = spacing
        for layer in (self.image_layer, self.annotations, self.instances, self.embedding):
            if layer is not None:
                self._put_on_grid(layer)
        self.viewer.reset_view()

    def _put_on_grid(self, layer: Layer) -> None:
        grid = self._grid(layer.data.shape)
        layer.scale, layer.units = grid["scale"], grid["units"]

    def _grid(self, shape: Sequence[int] | None = None) -> dict[str, Any]:
        """Scale and units of a layer with the voxel size of the image, or one that makes a coarser grid as large."""
        image = self.session.image
        if image.spacing is None and self.session.spacing is not None:
            grid = layer_grid(image.shape, self.session.spacing, "micrometer")
        else:
            grid = layer_grid(image.shape, image.spacing, image.unit)
        steps = zip(grid["scale"], image.shape, shape or image.shape)
        return {**grid, "scale": tuple(step * whole / part for step, whole, part in steps)}

    def _forget_layer(self, event: Any) -> None:
        # equal, not the same: a plugin is given stand-ins for the viewer and what it returns
        for name in ("annotations", "instances", "embedding"):
            if getattr(self, name) == event.value:
                setattr(self, name, None)
        if self.instances is None:
            self.table.show_rows([])
        self._pause.start()
        self._refresh()

    # annotating

    def _annotation_layer(self) -> Labels:
        """The layer of annotations, a new one if it was removed."""
        if self.annotations is None:
            empty = np.zeros(self.session.image.shape, dtype=np.int32)
            self.annotations = self.viewer.add_labels(empty, name="annotations", **self._grid())
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
        worker = create_worker(_count_and_highest, data)
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

    # training and predicting

    def _choose_model(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A folder that `spoco train` wrote")
        if folder:
            self.use_model(folder)

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
        if options is not None:
            data, count, scratch = (
                self._annotation_layer().data,
                self.iterations_box.value(),
                self.scratch_box.isChecked(),
            )
            self._start(partial(self.session.train, data, count, scratch, options), self._show_trained)

    def predict(self) -> None:
        """Finds all objects."""
        options = self._options(self.predict_options)
        if options is not None:
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

    def _start(self, steps: Callable[[], Iterator[Progress]], done: Callable[[Any], None]) -> None:
        """Runs steps in a thread that shows their progress; ``done`` gets their result in the thread of the window."""
        if self.running:
            return
        if self.session is not None:
            self.session.begin()
        self.running, self._done = True, done
        self._show_progress(Progress("starting ..."))
        self._refresh()
        worker = create_worker(_guarded, steps)
        worker.yielded.connect(self._show_progress)
        # methods of this widget, which Qt therefore calls in its thread
        worker.returned.connect(self._end)
        worker.start()

    def _show_progress(self, progress: Progress) -> None:
        busy = progress.fraction is None or progress.fraction >= 1
        self.bar.setMaximum(0 if busy else 1000)
        self.bar.setValue(0 if busy else round(1000 * progress.fraction))
        left = "" if progress.seconds_left is None or busy else f", about {_duration(progress.seconds_left)} left"
        self._say(progress.text + left)

    def _end(self, outcome: tuple[Any, Exception | None]) -> None:
        result, error = outcome
        self.running = False
        self.bar.setMaximum(1000)
        self.bar.setValue(0)
        self._say("")
        self._refresh()
        if isinstance(error, CancelledError):
            self._say("cancelled; the model is what it was")
        elif isinstance(error, SpocoError):
            self._say("stopped; the message says why")
            show_error(" ".join(str(error).split()))
        elif error is not None:
            self._say("failed; the message says more")
            notification_manager.receive_error(type(error), error, error.__traceback__)
        else:
            self._done(result)
            self._refresh()

    def _say(self, text: str) -> None:
        self.status_label.setText(text if len(text) < 120 else f"{text[:117]}...")

    def _show_trained(self, trained: Trained) -> None:
        self.scratch_box.setChecked(False)
        if trained.before is None:
            said = f"trained; score {trained.best:.2f} on the objects held out"
        elif trained.better:
            said = f"trained; score on the objects held out {trained.before:.2f} before, {trained.best:.2f} now"
        else:
            said = f"trained, but no better than before ({trained.before:.2f}); the weights stay as they were"
        self._say(said)
        show_info(said)

    def _show_predicted(self, found: Predicted) -> None:
        for layer in (self.instances, self.embedding):
            if layer is not None:
                self.viewer.layers.remove(layer)
        if found.embedding is not None:
            grid = self._grid(found.embedding.shape)
            self.embedding = self.viewer.add_image(found.embedding, name="embedding", rgb=True, visible=False, **grid)
        self.instances = self.viewer.add_labels(found.instances, name="instances", **self._grid())
        self.instances.features = pd.DataFrame(
            [{"index": row["id"], "voxels": row["voxels"], "confidence": row["confidence"]} for row in found.rows],
            columns=["index", "voxels", "confidence"],
        )
        self.instances.events.selected_label.connect(self._select_row)
        annotations = self._annotation_layer()
        self.viewer.layers.move(self.viewer.layers.index(annotations), len(self.viewer.layers))
        self.table.show_rows(found.rows)
        self._say(f"{len(found.rows)} objects beside the annotated ones")

    # accepting

    def _show_object(self, current: QModelIndex, previous: QModelIndex) -> None:
        if self.instances is None or not current.isValid():
            return
        row = self.table.rows[self.sorted.mapToSource(current).row()]
        self.instances.selected_label = row["id"]
        axes = "zyx"[-self.session.dims :]
        middle = [(row[f"{axis}_min"] + row[f"{axis}_max"] - 1) / 2 for axis in axes]
        # of a volume shown in planes the one through its middle
        for axis, place in enumerate(middle):
            if axis not in self.viewer.dims.displayed:
                self.viewer.dims.set_point(axis, place * self.instances.scale[axis])

    def _select_row(self, event: Any = None) -> None:
        """Marks the object that was picked in the layer."""
        number = self.instances.selected_label
        for place, row in enumerate(self.table.rows):
            if row["id"] == number:
                index = self.sorted.mapFromSource(self.table.index(place, 0))
                if not self.view.selectionModel().isRowSelected(index.row(), QModelIndex()):
                    self.view.selectRow(index.row())

    def selected_objects(self) -> list[int]:
        """Ids of the objects selected in the table, or of the one picked in the layer."""
        chosen = self.view.selectionModel().selectedRows()
        return [self.table.rows[self.sorted.mapToSource(index).row()]["id"] for index in chosen]

    def accept_selected(self) -> None:
        """Moves the selected objects into the annotations."""
        self.accept(self.selected_objects(), "select an object in the table, or pick one in the layer instances")

    def accept_confident(self) -> None:
        """Moves every object of at least the chosen confidence into the annotations."""
        least = self.confidence_box.value()
        chosen = [row["id"] for row in self.table.rows if row["confidence"] != "" and row["confidence"] >= least]
        self.accept(chosen, f"no object has a confidence of {least:g} or more: choose a lower one")

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

        def find() -> Iterator[Progress]:
            yield Progress("accepting ...")
            return _places(predicted, annotated, objects)

        self._start(find, self._move)

    def _move(self, found: tuple[tuple[np.ndarray, ...], np.ndarray, list[int]]) -> None:
        places, numbers, objects = found
        if places[0].size:
            # through the history of the layers, so that both steps can be undone there
            self._annotation_layer().data_setitem(places, numbers)
            self.instances.data_setitem(places, 0)
        self.table.show_rows([row for row in self.table.rows if row["id"] not in set(objects)])
        self._say(f"{len(objects)} accepted; correct them with the brush in the layer annotations")

    # saving

    def _choose_target(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Save into a folder")
        if folder:
            self.save_to(folder)

    def save_to(self, folder: str) -> None:
        """Writes instances, table, annotations and model into a folder."""
        instances = None if self.instances is None else self.instances.data
        annotations = self._annotation_layer().data

        def write() -> Iterator[Progress]:
            yield Progress(f"saving into {folder} ...")
            return self.session.save(folder, instances, annotations)

        self._start(write, lambda written: self._say(f"saved {', '.join(path.name for path in written)}"))


class ObjectsTable(QAbstractTableModel):
    """The rows of ``objects_table`` for a view."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []

    def show_rows(self, rows: list[dict[str, Any]]) -> None:
        """Shows other rows."""
        self.beginResetModel()
        self.rows = rows
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: D102, N802 -- Qt's
        return len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: D102, N802 -- Qt's
        return len(COLUMNS)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: D102 -- Qt's
        value = self.rows[index.row()][COLUMNS[index.column()]]
        if role == Qt.ItemDataRole.UserRole:
            return -1.0 if value == "" else value
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{value:.2f}" if isinstance(value, float) else str(value)
        return None

    def headerData(  # noqa: D102, N802 -- Qt's
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return COLUMNS[section]
        return None


def _guarded(steps: Callable[[], Iterator[Progress]]) -> Iterator[Progress]:
    """Hands on the result of steps, or what they raised, which the window is to tell."""
    try:
        return (yield from steps()), None
    except Exception as error:
        return None, user_error(error) or error


def _count_and_highest(labels: np.ndarray | None) -> tuple[int, int]:
    if labels is None:
        return 0, 0
    numbers = fastremap.unique(labels)
    return count_objects(numbers), int(numbers[numbers != BACKGROUND].max(initial=0))


def _places(
    predicted: np.ndarray, annotated: np.ndarray, objects: Sequence[int]
) -> tuple[tuple[np.ndarray, ...], np.ndarray, list[int]]:
    """Voxels of predicted objects where nothing is annotated, and the numbers that they get there."""
    _, highest = _count_and_highest(annotated)
    places = np.nonzero(np.isin(predicted, objects) & (annotated == 0))
    free = (number for number in range(highest + 1, highest + len(objects) + 2) if number != BACKGROUND)
    numbers = dict(zip(objects, free))
    return places, fastremap.remap(predicted[places], numbers).astype(annotated.dtype), list(objects)


def _close_all(sessions: list[Session], *_: Any) -> None:
    while sessions:
        sessions.pop().close()


def _model_name(session: Session) -> str:
    if session.trained_here:
        return "trained here"
    return "the one that comes with the bundle" if session.model is None else session.model.name


def _duration(seconds: float) -> str:
    return f"{max(5, math.ceil(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _text(text: str) -> QLabel:
    return QLabel(text, wordWrap=True)


def _button(text: str, tip: str, pressed: Callable[[], None]) -> QPushButton:
    button = QPushButton(text, toolTip=tip)
    # Qt hands on whether a button is checked, which none of them is
    button.clicked.connect(lambda _=False: pressed())
    return button


def _row(*parts: QWidget) -> QWidget:
    row = QWidget()
    row.setLayout(QHBoxLayout())
    row.layout().setContentsMargins(0, 0, 0, 0)
    for part in parts:
        row.layout().addWidget(part)
    return row


def _form(*rows: tuple[str, QWidget]) -> QFormLayout:
    form = QFormLayout()
    for name, part in rows:
        form.addRow(name, part)
    return form


def _group(title: str, *parts: QWidget) -> QGroupBox:
    group = QGroupBox(title)
    group.setLayout(QVBoxLayout())
    for part in parts:
        group.layout().addWidget(part)
    return group
