"""Pictures of the napari plugin at work on one volume of which the truth is known, as a person would use it.

Some objects of the truth are painted into the layer of annotations, each in one slice, the network is trained on them,
the volume is predicted, and the most confident objects are accepted. Writes ``napari_annotate.png``,
``napari_train.png``, ``napari_embedding.png`` and ``napari_accept.png``. Needs the extra ``napari`` and a display;
without one, Xvfb:

    xvfb-run -a -s "-screen 0 1600x1000x24" python scripts/napari_pictures.py emb_raw.tif emb_label.tif \
        --spacing 1.75 0.8 0.8 --output docs/pictures
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from one_line import one_line_errors
from PIL import Image
from qtpy.QtWidgets import QApplication

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.formats import read_image
from spoco_bundle.report.pictures import fullest_plane

SIZE = (1380, 940)  # of the window, in pixels
COLOURS = 128  # of a picture, which keeps its file small


@one_line_errors()
def main() -> None:
    """Plays one round and takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("label", type=Path, help="its truth, of which some objects are painted")
    parser.add_argument("--spacing", type=float, nargs="+", default=None, help="where the file states none")
    parser.add_argument("--objects", type=int, default=10, help="painted, each in one slice")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--options", default="--crop_size [16,48,48]", help="further ones for the training")
    parser.add_argument("--confidence", type=float, default=0.8, help="objects above it are accepted")
    parser.add_argument("--output", type=Path, default=Path("pictures"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    truth = read_image(arguments.label, "label").array[0]
    viewer = napari.Viewer(show=False)
    _, widget = viewer.window.add_plugin_dock_widget("spoco-bundle", "Segment from a few annotated objects")
    viewer.window.show()
    viewer.window.resize(*SIZE)

    # the plugin keeps annotations beside the image, and brings back those that are there
    folder = tempfile.TemporaryDirectory()
    widget.open_path(shutil.copy(arguments.image, folder.name))
    wait(lambda: not widget.running)
    if arguments.spacing is not None:
        widget.spacing_edit.setText(", ".join(map(str, arguments.spacing)))
        widget.spacing_edit.editingFinished.emit()
    plane = fullest_plane(truth, 0)
    viewer.dims.set_current_step(0, plane)
    here = [int(number) for number in np.unique(truth[plane]) if number]
    others = [int(number) for number in np.unique(truth) if number and number not in here]
    widget.default_box.setCurrentText("slices")
    for number in (here + others)[: arguments.objects]:
        found = truth == number
        found[np.arange(len(found)) != (plane if number in here else found.sum((1, 2)).argmax())] = False
        widget.new_button.click()
        widget.annotations.data_setitem(np.nonzero(found), widget.annotations.selected_label)
    wait(lambda: f"<b>{arguments.objects}</b>" in widget.count_label.text())
    picture(viewer, arguments.output / "napari_annotate.png")

    widget.iterations_box.setValue(arguments.iterations)
    widget.train_options.setText(arguments.options)
    widget.train_button.click()
    wait(lambda: widget.bar.value() > 300 or not widget.running)
    picture(viewer, arguments.output / "napari_train.png")
    wait(lambda: not widget.running)
    print(widget.status_label.text())

    widget.predict_button.click()
    wait(lambda: not widget.running)
    if widget.embedding is None:
        raise SpocoError(f"the prediction failed: {widget.status_label.text()}")
    viewer.dims.set_current_step(0, plane)
    for layer in viewer.layers:
        layer.visible = layer.name in ("embedding", "annotations")
    picture(viewer, arguments.output / "napari_embedding.png")

    for layer in viewer.layers:
        layer.visible = layer.name != "embedding"
    widget.confidence_box.setValue(arguments.confidence)
    widget.accept_all_button.click()
    wait(lambda: not widget.running)
    widget.view.selectRow(0)
    viewer.dims.set_current_step(0, plane)
    wait_seconds(1)
    picture(viewer, arguments.output / "napari_accept.png")
    viewer.close()
    folder.cleanup()


def wait(holds: Callable[[], bool], seconds: float = 3600) -> None:
    """Lets the window live until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise SpocoError(f"nothing happened within {seconds:g} s")
        QApplication.processEvents()
        time.sleep(0.01)


def wait_seconds(seconds: float) -> None:
    """Lets the window live for a while."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() > end)


def picture(viewer: napari.Viewer, path: Path) -> None:
    """Writes what the window shows."""
    wait_seconds(0.5)
    shown = Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)[..., :3])
    shown.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
