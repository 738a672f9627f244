"""A real MONAI Label server, in an environment of its own, driven over its REST API.

The environment is built from the project's constraints file, some 4 GB in a few minutes; SPOCO_LABEL_ENVIRONMENT names
a folder to build it in once and keep.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from scipy.spatial.transform import Rotation

from spoco_bundle.app.config import run_configs
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.synthetic import make_synthetic_sample
from spoco_bundle.formats import read_image
from spoco_bundle.label.client import LabelClient
from spoco_bundle.label.server import build_environment, find_config, prepare_app, server_command
from support import TINY

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(900)]

SHIM = Path(__file__).with_name("cpu_torchvision")
SPACING = (1.75, 0.8, 0.8)


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The Python of the server's environment."""
    folder = Path(os.environ.get("SPOCO_LABEL_ENVIRONMENT") or tmp_path_factory.mktemp("label") / "environment")
    try:
        return build_environment(folder)
    except SpocoError as error:
        pytest.skip(f"the MONAI Label environment cannot be built here: {error}")


def variables(environment):
    """Environment variables of a server on a machine without a GPU."""
    path = os.pathsep.join([str(SHIM), environment.get("PYTHONPATH", "")])
    return {**environment, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@contextmanager
def running(command, environment, log):
    with open(log, "a") as stream:
        process = subprocess.Popen(
            command, env=variables(environment), stdout=stream, stderr=stream, start_new_session=True
        )
        client = LabelClient(f"http://127.0.0.1:{command[command.index('--port') + 1]}")
        try:
            client.wait_until_up()
            yield client
            assert process.poll() is None, f"the server ended by itself: {log.read_text()[-3000:]}"
        finally:
            end(process)


def end(process):
    """Ends a server that was started in a session of its own, with all that it started."""
    try:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        # a training that a failed test left behind would go on beside all tests after it
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def serve(python, folder):
    return running(*server_command(python, folder / "app", folder / "studies", free_port()), folder / "server.log")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def image_in(content, suffix, folder):
    file = folder / f"answer{suffix}"
    file.write_bytes(content)
    return file


# -- predictions ------------------------------------------------------------------------------------------------------


def many_nuclei():
    """338 nuclei like those that the shipped weights know, (z, y, x) uint16, and their centres (338, 3)."""
    pitch, counts = np.array([14, 24, 24]), np.array([2, 13, 13])
    z, y, x = (np.arange(size) - size // 2 for size in pitch)
    square = (z[:, None, None] / 4.2) ** 2 + (y[:, None] / 8) ** 2 + (x / 8) ** 2
    noise = np.random.default_rng(0).normal(100, 30, pitch * counts)
    centers = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1).reshape(-1, 3) * pitch + pitch // 2
    return np.clip(np.tile(1000 * np.exp(-(square**3)), counts) + noise, 0, None).astype(np.uint16), centers


def affines():
    oblique = np.eye(4)
    turn = Rotation.from_euler("xyz", [20, -13, 7], degrees=True).as_matrix()
    oblique[:3, :3], oblique[:3, 3] = turn @ np.diag(SPACING[::-1]), (3, -4, 9)
    lps = np.diag([-0.8, -0.8, 1.75, 1])
    lps[:3, 3] = 250, 240, -3
    return {"ras": np.diag([*SPACING[::-1], 1]), "lps": lps, "oblique": oblique}


@pytest.fixture(scope="module")
def nuclei(python, tmp_path_factory):
    """A server with the shipped weights on one volume in four files and on a plane."""
    folder = tmp_path_factory.mktemp("nuclei")
    (folder / "studies").mkdir()
    volume, centers = many_nuclei()
    for name, affine in affines().items():
        nibabel.save(nibabel.Nifti1Image(volume.T, affine), folder / "studies" / f"{name}.nii.gz")
    tifffile.imwrite(folder / "studies" / "pages.tiff", volume, photometric="minisblack")
    (folder / "studies" / "damaged.nii.gz").write_bytes((folder / "studies" / "ras.nii.gz").read_bytes()[:5000])
    prepare_app(folder / "app", spacing=list(SPACING))
    with serve(python, folder) as client:
        yield client, centers


def test_the_server_lists_and_describes_the_bundle(nuclei):
    info = nuclei[0].info()
    assert info["models"]["spoco"]["type"] == "segmentation" and info["models"]["spoco"]["dimension"] == 3
    assert info["trainers"]["spoco"]["config"]["max_epochs"] == 8
    assert "disagreement" in info["strategies"]
    assert info["datastore"]["total"] == 5


@pytest.mark.parametrize("asked", [{"result_dtype": "uint8"}, {}])
@pytest.mark.parametrize("name", ["ras", "lps", "oblique", "pages"])
def test_ids_and_geometry_of_a_prediction_are_whole(nuclei, name, asked, tmp_path):
    client, centers = nuclei
    suffix = ".nrrd" if asked else ".nii.gz"
    file = image_in(client.infer(name, suffix, **asked), suffix, tmp_path)
    labels = read_image(file, "label")
    ids = labels.array[0][tuple(centers.T)]
    assert sorted(ids) == list(range(1, 339)), "every nucleus has an id of its own"
    if suffix == ".nii.gz":
        image = nibabel.load(file)
        assert image.get_data_dtype() == np.uint16
        # ITK reads no spacing from such pages, and a viewer lays the labels over what it reads
        wanted = affines().get(name, np.diag([-1, -1, 1, 1]))
        np.testing.assert_allclose(image.affine, wanted, atol=1e-4)


def test_every_object_has_a_name(nuclei):
    names = nuclei[0].infer_params("ras")["label_names"]
    assert names["object 338"] == 338 and len(names) == 338


def test_unreadable_and_unknown_images_are_answered(nuclei):
    client = nuclei[0]
    with pytest.raises(SpocoError, match="422 .*damaged.*cannot be read"):
        client.infer("damaged")
    with pytest.raises(SpocoError, match="404 .*not among the studies"):
        client.infer("missing")
    assert client.info()["datastore"]["total"] == 5


def test_a_plane_comes_back_as_a_plane(python, tmp_path):
    (tmp_path / "studies").mkdir()
    plane = np.random.default_rng(0).integers(0, 255, (40, 56), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "studies" / "plane.tif", plane)
    nibabel.save(nibabel.Nifti1Image(plane.T[..., None], np.diag([2, 2, 5, 1])), tmp_path / "studies" / "slice.nii.gz")
    bundle = prepare_app(tmp_path / "app", random_weights=True, config=[find_config("2d")])
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    torch.save(weights | {"coordinate_scale": torch.tensor(4.0)}, bundle / "models" / "model.pt")
    with serve(python, tmp_path) as client:
        assert client.info()["models"]["spoco"]["dimension"] == 2
        page = tifffile.imread(io.BytesIO(client.infer("plane", ".tif", result_dtype="uint8")))
        assert page.shape == plane.shape and page.dtype == np.uint16
        piece = nibabel.load(image_in(client.infer("slice"), ".nii.gz", tmp_path))
        assert piece.shape == (56, 40, 1)
        np.testing.assert_allclose(piece.affine, np.diag([2, 2, 5, 1]), atol=1e-6)


def test_the_stock_app_serves_the_bundle_as_it_lies(python, bundle_root, tmp_path):
    (tmp_path / "studies").mkdir()
    volume, centers = many_nuclei()
    nibabel.save(nibabel.Nifti1Image(volume.T, affines()["lps"]), tmp_path / "studies" / "lps.nii.gz")
    download = ["-m", "monailabel.main", "apps", "--download", "--name", "monaibundle", "--output", str(tmp_path)]
    subprocess.run([python, *download], env=variables(dict(os.environ)), check=True, capture_output=True)
    (tmp_path / "monaibundle").rename(tmp_path / "app")
    (tmp_path / "app" / "model").mkdir()
    (tmp_path / "app" / "model" / "spoco").symlink_to(bundle_root)
    with serve(python, tmp_path) as client:
        assert client.info()["models"]["spoco"]["labels"] == {"object": 1}
        file = image_in(client.infer("lps", result_dtype="uint8"), ".nii.gz", tmp_path)
        assert sorted(read_image(file, "label").array[0][tuple(centers.T)]) == list(range(1, 339))
        np.testing.assert_allclose(nibabel.load(file).affine, affines()["lps"], atol=1e-4)


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """A small volume with nuclei and all of them annotated."""
    folder = tmp_path_factory.mktemp("truth")
    make_synthetic_sample(folder, seed=0, train_volumes=1, train_shape=(10, 72, 72), val_shape=(10, 40, 48))
    image = next((folder / "train").glob("*_raw.*"))
    label = read_image(str(image).replace("_raw.", "_label."), "label").array[0]
    return image, label


@pytest.fixture
def annotation(python, truth, tmp_path):
    """A server with random weights on one volume, the truth of the volume, and the folder."""
    (tmp_path / "studies").mkdir()
    image, label = truth
    shutil.copy(image, tmp_path / "studies" / "cells.nii.gz")
    settings = {"crop_size": [8, 32, 32], "iterations_per_epoch": 25, "max_epochs": 4, "val_interval": 2}
    prepare_app(tmp_path / "app", random_weights=True, **settings)
    with serve(python, tmp_path) as client:
        yield client, label, tmp_path


def submit(client, folder, labels, **params):
    like = nibabel.load(folder / "studies" / "cells.nii.gz")
    file = folder / "label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels.T.astype(np.uint16), like.affine), file)
    return client.save_label("cells", file, **params)


def weights_of(folder, name="model.pt"):
    return torch.load(folder / "app" / "model" / "spoco" / "models" / name, weights_only=True)


def trained(client, **params):
    client.train(**params)
    task = client.wait_for_training(300)
    return task["status"], "\n".join(task["details"])


def test_the_whole_loop(annotation):
    client, truth, folder = annotation
    assert client.next_sample()["id"] == "cells"
    with pytest.raises(SpocoError, match="422 .*coordinate_scale"):
        client.infer("cells")
    status, lines = trained(client)
    assert status == "ERROR" and "annotate a few objects" in lines

    few = np.where(np.isin(truth, np.unique(truth)[1:6]), truth * 1000 + 7, 0)
    submit(client, folder, few)
    start = weights_of(folder)
    status, lines = trained(client)
    assert status == "DONE" and "epoch 4 of 4" in lines and "in use from now on" in lines, lines
    first = weights_of(folder)
    assert not all(torch.equal(first[key], start[key]) for key in start)
    assert set(weights_of(folder, "model_student.pt")) == set(first)

    names = client.infer_params("cells")["label_names"]
    confirmed = [number for name, number in names.items() if name.startswith("confirmed")]
    shown = read_image(image_in(client.infer("cells"), ".nii.gz", folder), "label").array[0]
    assert len(confirmed) == 5
    np.testing.assert_array_equal(np.isin(shown, confirmed), few > 0)

    # a prediction comes from the weights of the last training
    alone = read_image(image_in(client.infer("cells", show_confirmed=False), ".nii.gz", folder), "label").array[0]
    bundle = folder / "app" / "model" / "spoco"
    overrides = {"dataset_dir": str(folder / "studies"), "image_ending": "", "output_dir": str(folder / "here")}
    run_configs([bundle / "configs" / "inference.json"], {**overrides, "bundle_root": str(bundle)}, "infer")
    here = read_image(folder / "here" / "cells_instances.nii.gz", "label").array[0]
    assert here.any()
    np.testing.assert_array_equal(alone, here)

    proposal = client.next_sample(count=2)
    assert proposal["id"] == "cells" and len(proposal["positions"]) == 2
    for place in proposal["positions"]:
        assert few[tuple(place["position"][::-1])] == 0
        assert place["weight"] <= proposal["weight"]
    world = nibabel.load(folder / "studies" / "cells.nii.gz").affine @ [*proposal["position"], 1]
    # the file is in micrometres, 3D Slicer shows millimetres
    np.testing.assert_allclose(proposal["position_ras"], world[:3] / 1000, atol=1e-6)


def test_unchecked_predictions_change_nothing(annotation):
    client, truth, folder = annotation
    ids = np.unique(truth)[1:]
    submit(client, folder, np.where(np.isin(truth, ids[:5]), truth, 0))
    assert trained(client)[0] == "DONE"
    app = folder / "app" / "model" / "spoco" / "models"
    shutil.copytree(app, folder / "start")
    prediction = read_image(image_in(client.infer("cells"), ".nii.gz", folder), "label").array[0]
    unchecked = (prediction > 0) & ~np.isin(truth, ids[:6])
    assert unchecked.any(), "there is something unchecked to come back"

    drawn = np.where(np.isin(truth, ids[:6]), truth, 0)
    results = []
    for labels in (np.where(drawn == 0, prediction * unchecked + 300 * (prediction * unchecked > 0), drawn), drawn):
        shutil.copytree(folder / "start", app, dirs_exist_ok=True)
        submit(client, folder, labels)
        kept = read_image(image_in(client.get_label("cells"), ".nii.gz", folder), "label").array[0]
        np.testing.assert_array_equal(kept, drawn)
        assert trained(client, max_epochs=2)[0] == "DONE"
        results.append(torch.load(folder / "app/model/spoco/outputs/last.pt", weights_only=True)["network"])
    for key in results[0]:
        torch.testing.assert_close(results[0][key], results[1][key], rtol=0, atol=0, msg=key)


def test_what_goes_wrong_is_answered_and_the_server_lives_on(annotation):
    client, truth, folder = annotation
    ids = np.unique(truth)[1:]
    one = np.where(truth == ids[0], 5, 0)
    for labels, words in ((one[:, :-1], "shape"), (one * 0, "nothing to learn"), (one.transpose(0, 2, 1)[:, :40], "")):
        with pytest.raises(SpocoError, match=f"422 .*{words}"):
            submit(client, folder, labels)
    damaged = folder / "damaged.nii.gz"
    damaged.write_bytes(b"\x1f\x8b no label")
    with pytest.raises(SpocoError, match="422 .*cannot be read"):
        client.save_label("cells", damaged)
    with pytest.raises(SpocoError, match="404 .*not among"):
        client.save_label("missing", damaged)
    assert client.info()["datastore"]["completed"] == 0

    submit(client, folder, one)
    kept = client.get_label("cells")
    with pytest.raises(SpocoError, match="422 .*shape"):
        submit(client, folder, one[:, :-1])
    assert client.get_label("cells") == kept, "a refused label replaces nothing"
    status, lines = trained(client, max_epochs=1)
    assert status == "DONE", lines

    # two clients: the second is told that a training runs, and predictions go on meanwhile
    before = weights_of(folder)
    client.train(max_epochs=500)
    while "minutes gone" not in "".join(client.training().get("details", [])):
        time.sleep(1)
    with pytest.raises(SpocoError, match="429 .*Already Running"):
        client.train()
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: client.infer("cells", ".nrrd"), range(2)))
    # the two may differ: each comes from the weights that were best when it was asked for
    for answer in answers:
        shown = read_image(image_in(answer, ".nrrd", folder), "label").array[0]
        assert shown.shape == truth.shape and len(np.unique(shown[one > 0])) == 1, "the confirmed object lies over it"
    client.stop_training()
    assert client.wait_for_training(60)["status"] == "STOPPED"
    assert set(weights_of(folder)) == set(before)

    status, lines = trained(client, max_epochs=1, pretrained=False)
    assert status == "DONE", lines


def test_generated_configs_train_on_two_processes(python, truth, tmp_path):
    (tmp_path / "studies" / "labels" / "final").mkdir(parents=True)
    image, _ = truth
    shutil.copy(image, tmp_path / "studies" / "cells.nii.gz")
    shutil.copy(str(image).replace("_raw.", "_label."), tmp_path / "studies" / "labels" / "final" / "cells.nii.gz")
    bundle = prepare_app(tmp_path / "app", random_weights=True, **{**TINY, "max_epochs": 1})
    # over REST the stock server counts CUDA devices; the app itself is told which to use
    code = (
        "import sys; from spoco_bundle.label.app import SpocoApp\n"
        "app = SpocoApp(*sys.argv[1:], {'models': 'spoco', 'zoo_source': 'ngc'})\n"
        "app.train({'model': 'spoco', 'force_multi_gpu': True, 'gpus': '0,1', 'device': 'cpu'})"
    )
    environment = server_command(python, tmp_path, tmp_path, 0)[1]
    result = subprocess.run(
        [python, "-c", code, str(tmp_path / "app"), str(tmp_path / "studies")],
        env=variables({**environment, "MONAI_LABEL_DATASTORE_AUTO_RELOAD": "false"}),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert (bundle / "configs" / "monailabel_train.json").is_file()
    checkpoint = torch.load(bundle / "outputs" / "last.pt", weights_only=True)
    assert checkpoint["engine"]["iteration"] == TINY["iterations_per_epoch"]


def test_the_command_builds_prepares_starts_and_tells_how_to_connect(python, tmp_path):
    (tmp_path / "studies").mkdir()
    tifffile.imwrite(tmp_path / "studies" / "a.tif", many_nuclei()[0][:8, :64, :64])
    port = free_port()
    command = [sys.executable, "-m", "spoco_bundle.cli", "label", "--studies", "studies", "--environment"]
    command += [str(python.parent.parent), "--spacing", "[1.75,0.8,0.8]", "--port", str(port)]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            command, env=variables(dict(os.environ)), cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    try:
        client = LabelClient(f"http://127.0.0.1:{port}")
        client.wait_until_up()
        assert client.infer_params("a")["label_names"]
    finally:
        end(process)
    assert "3D Slicer" in (tmp_path / "log").read_text()
