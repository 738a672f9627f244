"""What is in the window and where; what it does is said in ``widget``."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from spoco_bundle.napari.labels import BACKGROUND
from spoco_bundle.napari.objects_view import ObjectsView
from spoco_bundle.napari.session import ITERATIONS


class Controls(QWidget):
    """Four sections that fold, and below them, always in sight, how far a work is."""

    def __init__(self) -> None:
        super().__init__()
        self.image_label = wrapped("No image yet.")
        self.open_button = button("Open file…", "NIfTI, TIFF, NRRD, PNG, ...")
        self.open_zarr_button = button("Open Zarr…", "An OME-Zarr image is a folder")
        self.use_button = button("Use selected layer", "The image layer selected on the left")
        self.spacing_edit = QLineEdit(placeholderText="z, y, x in micrometres, such as 2, 0.5, 0.5")
        self.spacing_edit.setToolTip("Can be set where the file does not state it")

        self.help_label = wrapped("")
        self.default_box = QComboBox()
        self.default_box.setToolTip("How objects are annotated, unless another way is chosen for one below")
        self.new_button = button("New object", "Take the next free number and the brush")
        self.background_button = button("No object here", f"Paint with {BACKGROUND}: voxels that belong to no object")
        self.points_button = button("Click objects", "One click into each object, which then counts as one more")
        self.regions_button = button(
            "Complete region", "Draw rectangles in which every object is drawn; the rest there is background"
        )
        self.kind_label = QLabel("object 65535 is")
        self.kind_box = QComboBox(enabled=False)
        self.kind_box.setToolTip("Of the object with the number of the brush")
        self.count_label = wrapped("")

        self.model_label = wrapped("")
        self.model_button = button("Other model…", "A folder that `spoco train` wrote")
        self.scratch_box = QCheckBox("start from scratch")
        self.scratch_box.setToolTip("Random weights: for images unlike those that the model knows")
        self.iterations_box = QSpinBox(minimum=10, maximum=100_000, singleStep=50, value=ITERATIONS)
        self.train_options = QLineEdit(placeholderText="--crop_size [16,48,48] --batch_size 1")
        self.train_options.setToolTip("Further options of `spoco train`")
        self.predict_options = QLineEdit(placeholderText="--objectness_threshold 0.5")
        self.predict_options.setToolTip("Further options of `spoco predict`")
        self.train_button = button("Train", "Learn from the painted objects")
        self.predict_button = button("Predict", "Find all objects with the model in use")
        self.cancel_button = button("Cancel", "End what runs; the model stays as it was")
        self.bar = QProgressBar(maximum=1000)
        self.status_label = wrapped("")

        self.import_button = button("Import file…", "A label image of any tool, as objects to check")
        self.import_layer_button = button("Import layer", "The selected layer of labels, as objects to check")
        self.view = ObjectsView()
        self.next_button = button("Least certain", "Go to the object of least confidence, then to the next")
        self.undo_button = button("Undo", "Take back the last of accept, delete, merge, split and redraw")
        self.accept_button = button("Accept selected", "Move the selected objects into the annotations")
        self.delete_button = button("Delete", "Take the selected objects away")
        self.redraw_button = button("Redraw", "Take the selected object away, and the brush to draw it anew")
        self.merge_button = button("Merge", "Make one object of the selected ones")
        self.split_button = button("Split", "Divide the selected object: its pieces, or where you click")
        self.confidence_box = QDoubleSpinBox(minimum=0, maximum=1, singleStep=0.05, value=0.8)
        self.confidence_box.setToolTip("Selects the objects of at least this confidence, to look at")
        self.accept_all_button = button("Accept all above", "Move every object of at least this confidence")
        self.save_button = button("Save…", "Instances, table, annotations and model")

        self.image_section = Section("1  Image", self.image_label, row(self.open_button, self.open_zarr_button))
        self.image_section.add(self.use_button)
        self.image_section.add(form(("voxel size", self.spacing_edit)))
        self.paint_section = Section("2  Annotate", form(("objects are", self.default_box)), self.help_label)
        self.paint_section.add(row(self.new_button, self.background_button))
        self.paint_section.add(row(self.points_button, self.regions_button))
        self.paint_section.add(row(self.kind_label, self.kind_box))
        self.paint_section.add(self.count_label)
        fields = form(
            ("iterations", self.iterations_box),
            ("training options", self.train_options),
            ("prediction options", self.predict_options),
        )
        self.model_section = Section("3  Train and predict", self.model_label, row(self.model_button, self.scratch_box))
        self.model_section.add(fields)
        self.model_section.add(row(self.train_button, self.predict_button))
        self.check_section = Section("4  Accept, correct, save", row(self.import_button, self.import_layer_button))
        self.check_section.add(self.view)
        self.check_section.add(row(self.next_button, self.undo_button))
        self.check_section.add(row(self.accept_button, self.delete_button, self.redraw_button))
        self.check_section.add(row(self.merge_button, self.split_button))
        self.check_section.add(row(self.accept_all_button, self.confidence_box))
        self.check_section.add(self.save_button)
        self.check_section.fold(True)

        inside = QWidget()
        inside.setLayout(QVBoxLayout())
        for section in (self.image_section, self.paint_section, self.model_section, self.check_section):
            inside.layout().addWidget(section)
        inside.layout().addStretch(1)
        scroll = QScrollArea(widgetResizable=True)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(inside)
        self.setLayout(QVBoxLayout())
        self.layout().setContentsMargins(0, 0, 0, 0)
        self.layout().addWidget(scroll, 1)
        below = QVBoxLayout()
        below.setContentsMargins(8, 0, 8, 4)
        for part in (row(self.bar, self.cancel_button), self.status_label):
            below.addWidget(part)
        self.layout().addLayout(below)
        self.setMinimumWidth(inside.minimumSizeHint().width() + 20)


class Section(QWidget):
    """Parts under a heading that folds them away.

    Args:
        title: the heading.
        parts: what stands under it.
    """

    def __init__(self, title: str, *parts: QWidget):
        super().__init__()
        self.head = QToolButton(text=title, checkable=True, checked=True, autoRaise=True)
        self.head.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.head.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.head.setStyleSheet("font-weight: bold; text-align: left")
        self.head.toggled.connect(lambda open_: self.fold(not open_))
        self.content = QWidget()
        self.content.setLayout(QVBoxLayout())
        self.content.layout().setContentsMargins(12, 0, 0, 6)
        self.setLayout(QVBoxLayout())
        self.layout().setContentsMargins(0, 0, 0, 0)
        self.layout().setSpacing(2)
        for part in (self.head, self.content):
            self.layout().addWidget(part)
        for part in parts:
            self.add(part)
        self.fold(False)

    def add(self, part: QWidget) -> None:
        """Puts a part below the others."""
        self.content.layout().addWidget(part)

    def fold(self, folded: bool) -> None:
        """Hides the parts, or shows them."""
        self.head.setChecked(not folded)
        self.head.setArrowType(Qt.ArrowType.RightArrow if folded else Qt.ArrowType.DownArrow)
        self.content.setVisible(not folded)


def wrapped(text: str) -> QLabel:
    """A text that takes as many lines as it needs."""
    return QLabel(text, wordWrap=True)


def button(text: str, tip: str) -> QPushButton:
    """A button with a hint."""
    return QPushButton(text, toolTip=tip)


def row(*parts: QWidget) -> QWidget:
    """Parts beside each other."""
    whole = QWidget()
    whole.setLayout(QHBoxLayout())
    whole.layout().setContentsMargins(0, 0, 0, 0)
    for part in parts:
        whole.layout().addWidget(part)
    return whole


def form(*rows: tuple[str, QWidget]) -> QWidget:
    """Named fields below each other."""
    whole = QWidget()
    whole.setLayout(QFormLayout())
    whole.layout().setContentsMargins(0, 0, 0, 0)
    for name, part in rows:
        whole.layout().addRow(name, part)
    return whole
