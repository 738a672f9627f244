"""A volume with its truth, and a viewer on a screen that nobody sees."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from spoco_bundle.dataset.synthetic import make_synthetic_sample
from spoco_bundle.formats import read_image


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """The commands that are started compute in one thread."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def crowd(tmp_path_factory) -> Path:
    """A NIfTI volume of crowded nuclei, with its label beside it."""
    folder = tmp_path_factory.mktemp("crowd")
    make_synthetic_sample(folder, seed=0, train_volumes=1, train_shape=(16, 64, 64), val_shape=(10, 40, 48))
    return next(folder.glob("train/*_raw*"))


@pytest.fixture
def volume(crowd, tmp_path_factory) -> Path:
    """The volume alone in a folder, into which its annotations go."""
    return Path(shutil.copy(crowd, tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="session")
def truth(crowd) -> np.ndarray:
    """Its objects."""
    return read_image(crowd.with_name(crowd.name.replace("_raw", "_label")), "label").array[0]


@pytest.fixture
def zarr_image() -> Callable:
    """Writes an OME-Zarr image of one level with a voxel size, in micrometers unless another unit is given, or none."""

    def write(path: Path, voxels: np.ndarray, spacing: tuple[float, ...], unit: str | None = "micrometer") -> Path:
        group = zarr.open_group(str(path), mode="w", zarr_format=2)
        group.create_array("0", data=voxels, chunks=tuple(min(32, size) for size in voxels.shape))
        named = {} if unit is None else {"unit": unit}
        axes = [{"name": letter, "type": "space", **named} for letter in "zyx"[-voxels.ndim :]]
        scale = {"type": "scale", "scale": [float(step) for step in spacing]}
        datasets = [{"path": "0", "coordinateTransformations": [scale]}]
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
        return path

    return write


@pytest.fixture(scope="session")
def screen(tmp_path_factory):
    """A display: the one that is there, or Xvfb. Skips without napari, Qt and either."""
    pytest.importorskip("napari.viewer", reason="the extra napari is not installed")
    patch = pytest.MonkeyPatch()
    server = None
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        if shutil.which("Xvfb") is None:
            pytest.skip("napari needs a display, or Xvfb")
        server = subprocess.Popen(
            ["Xvfb", "-displayfd", "1", "-screen", "0", "1600x1000x24"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        patch.setenv("DISPLAY", f":{server.stdout.readline().strip()}")
    patch.setenv("NAPARI_CONFIG", str(tmp_path_factory.mktemp("settings") / "settings.yaml"))
    # Qt aborts the process where a library of the system is missing, so it is another process that tries first
    trial = "from qtpy.QtWidgets import QApplication; QApplication([])"
    if subprocess.run([sys.executable, "-c", trial], capture_output=True, timeout=100).returncode:
        pytest.skip(
            "Qt cannot open a window here: libxcb-icccm4, libxcb-keysyms1, libxcb-cursor0 or others are missing"
        )
    # napari collects garbage whenever a layer goes, and would look through all that is imported every time
    importlib.import_module("spoco_bundle.napari.widget")
    gc.freeze()
    yield
    gc.unfreeze()
    if server is not None:
        # Qt ends the process when its screen goes, and it stays connected to the end of the tests
        import atexit

        atexit.register(server.terminate)


@pytest.fixture
def process_events() -> Callable:
    """Lets Qt do what is waiting, deletions of closed windows included."""

    def process() -> None:
        from qtpy.QtCore import QCoreApplication, QEvent
        from qtpy.QtWidgets import QApplication

        gc.collect()
        QApplication.processEvents()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        QApplication.processEvents()

    return process


@pytest.fixture
def viewer(screen, process_events):
    """A napari viewer."""
    import napari

    viewer = napari.Viewer(show=True)
    yield viewer
    if hasattr(viewer.window, "_qt_window"):
        viewer.close()
    process_events()


@pytest.fixture
def wait() -> Callable:
    """Waits, with a living window, until something holds."""

    def until(holds: Callable[[], bool], seconds: float = 200) -> None:
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "waited in vain"
            QApplication.processEvents()
            time.sleep(0.01)

    return until


@pytest.fixture
def widget(viewer):
    """The plugin's dock widget, found through the manifest."""
    _, widget = viewer.window.add_plugin_dock_widget("spoco-bundle", "Segment from a few annotated objects")
    return widget


@pytest.fixture
def opened(widget, volume, wait):
    """The widget with a volume."""
    widget.open_path(str(volume))
    wait(lambda: not widget.running)
    return widget


@pytest.fixture
def errors(screen):
    """Messages of the error notifications that were shown."""
    from napari.utils.notifications import NotificationSeverity, notification_manager

    notification_manager.records.clear()
    return lambda: [n.message for n in notification_manager.records if n.severity == NotificationSeverity.ERROR]


@pytest.fixture
def paint(wait) -> Callable:
    """Paints objects of a truth, each under a number of its own, with the button for the next number."""

    def objects(widget, truth: np.ndarray, count: int) -> None:
        for number in np.unique(truth)[1 : count + 1]:
            widget.new_button.click()
            assert widget.annotations.mode == "paint"
            widget.annotations.data_setitem(np.nonzero(truth == number), widget.annotations.selected_label)
        wait(lambda: f"<b>{count}</b> object" in widget.count_label.text())

    return objects
