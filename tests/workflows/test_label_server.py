"""A real MONAI Label server, in an environment of its own, driven over its REST API.

The environment is built from the project's constraints file, some 4 GB in a few minutes; SPOCO_LABEL_ENVIRONMENT names
a folder to build it in once and keep.
"""

from __future__ import annotations

import http.client
import io
import json
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
from scipy import ndimage
from scipy.spatial.transform import Rotation

from spoco_bundle.annotation.kept import told_apart
from spoco_bundle.annotation.ledger import Entry, read_ledger
from spoco_bundle.app.config import run_configs
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.synthetic import make_synthetic_sample
from spoco_bundle.formats import read_image
from spoco_bundle.label import environment as label_environment
from spoco_bundle.label.app_folder import prepare_app
from spoco_bundle.label.client import LabelClient
from spoco_bundle.label.server import Door, server_command
from spoco_bundle.metrics import instance_scores
from spoco_bundle.napari.annotations import label_file, read_annotations
from support import TINY

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(900)]

SHIM = Path(__file__).with_name("cpu_torchvision")
SPACING = (1.75, 0.8, 0.8)


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The Python of the server's environment."""
    folder = Path(os.environ.get("SPOCO_LABEL_ENVIRONMENT") or tmp_path_factory.mktemp("label") / "environment")
    with pytest.MonkeyPatch.context() as patch:
        # whatever torch is at hand, beside which the shim lets any torchvision be imported
        patch.setattr(label_environment, "torch_with_torchvision", lambda python: ["torch"])
        try:
            return label_environment.build_environment(folder)
        except SpocoError as error:
            pytest.skip(f"the MONAI Label environment cannot be built here: {error}")


def variables(environment):
    """Environment variables of a server on a machine without a GPU."""
    path = os.pathsep.join([str(SHIM), environment.get("PYTHONPATH", "")])
    return {**environment, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@contextmanager
def running(command, environment, log, token=""):
    with open(log, "a") as stream:
        process = subprocess.Popen(
            command, env=variables(environment), stdout=stream, stderr=stream, start_new_session=True
        )
        client = LabelClient(f"http://127.0.0.1:{command[command.index('--port') + 1]}", token=token)
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


def serve(python, folder, **door):
    command = server_command(python, folder / "app", folder / "studies", Door(free_port(), **door))
    return running(*command, folder / "server.log", door.get("token", ""))


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


# -- strangers --------------------------------------------------------------------------------------------------------


def ask(client, method, path, file=None, **headers):
    """Sends a request as somebody would who does not use the client; the status and the answer's text."""
    connection = http.client.HTTPConnection(client.url.removeprefix("http://"), timeout=120)
    body = None
    if file is not None:
        name, content = file
        body = b'--B\r\nContent-Disposition: form-data; name="file"; filename="' + name.encode() + b'"\r\n\r\n'
        body = body + content + b"\r\n" + body.replace(b'"file"', b'"label"') + content + b"\r\n--B--\r\n"
        headers["Content-Type"] = "multipart/form-data; boundary=B"
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, content


def image_bytes(shape=(8, 40, 40)):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8), photometric="minisblack")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def studio(python, tmp_path_factory):
    """A server with random weights on one image, links out of its folder and a secret beside it; and the folder."""
    folder = tmp_path_factory.mktemp("studio")
    (folder / "studies" / "labels" / "final").mkdir(parents=True)
    (folder / "outside").mkdir()
    (folder / "secret.tif").write_bytes(image_bytes())
    (folder / "studies" / "cells.tif").write_bytes(image_bytes())
    (folder / "studies" / "linked.tif").symlink_to(folder / "secret.tif")
    (folder / "studies" / "labels" / "linked").symlink_to(folder / "outside")
    (folder / "studies" / "labels" / "final" / "cells.tif").symlink_to(folder / "secret.tif")
    prepare_app(folder / "app", random_weights=True, **TINY)
    with serve(python, folder) as client:
        yield client, folder


def contents(folder):
    """All files of a folder with their bytes, but for logs and what the server writes about its images."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if path.suffix not in (".log", ".json", ".lock")}


@pytest.mark.parametrize("name", ["../../probe", "{}/probe", "..%2F..%2Fprobe", "%2e%2e/probe", "{}%2Fprobe"])
@pytest.mark.parametrize(
    "request_line",
    [
        "PUT /datastore/?image={}",
        "PUT /datastore/image?image={}",
        "PUT /datastore/label?image=cells&tag={}",
        "PUT /datastore/label?image={}&tag=final",
        "DELETE /datastore/image?id={}",
        "DELETE /datastore/label?id=cells&tag={}",
        "GET /datastore/image?image={}",
        "POST /infer/spoco?image={}",
    ],
)
def test_nothing_outside_the_studies_is_touched(studio, name, request_line):
    client, folder = studio
    before = contents(folder)
    method, path = request_line.format(name.format(folder)).split(" ", 1)
    status, answer = ask(client, method, path, ("probe.tif", image_bytes()) if method in ("PUT", "POST") else None)
    assert status == 422 and "name" in answer
    assert contents(folder) == before


def test_links_lead_nowhere(studio):
    client, folder = studio
    before = contents(folder)
    assert client.info()["datastore"]["completed"] == 0
    assert "linked" not in ask(client, "GET", "/datastore/?output=train")[1]
    file = ("probe.tif", image_bytes())
    for method, path, status in (
        ("GET", "/datastore/image?image=linked", 404),
        ("DELETE", "/datastore/image?id=linked", 404),
        ("POST", "/infer/spoco?image=linked", 404),
        ("GET", "/datastore/label?label=cells&tag=final", 404),
        ("DELETE", "/datastore/label?id=cells&tag=final", 404),
        ("DELETE", "/datastore/image?id=cells", 422),
        ("PUT", "/datastore/label?image=cells&tag=linked", 422),
        ("PUT", "/datastore/label?image=cells&tag=final", 422),
        ("PUT", "/datastore/?image=linked", 422),
    ):
        found, answer = ask(client, method, path, file if method == "PUT" else None)
        assert found == status, f"{method} {path}: {answer}"
    assert contents(folder) == before


def test_only_images_are_added_and_none_is_replaced(studio):
    client, folder = studio
    before = contents(folder)
    for file, words in (
        (("evil.py", b"import os"), "none; send one of"),
        (("evil.tif", b"import os"), "nothing was added"),
        (("evil.nii.gz", b"\x1f\x8b no image"), "nothing was added"),
        (("flat.png", image_bytes((20, 20))), "nothing was added"),
    ):
        status, answer = ask(client, "PUT", "/datastore/?image=added", file)
        assert status == 422 and words in answer and "/tmp" not in answer, answer
    assert ask(client, "PUT", "/datastore/?image=cells", ("x.tif", image_bytes()))[0] == 422, "it is there already"
    assert contents(folder) == before
    assert ask(client, "PUT", "/datastore/", ("a.ome.tif", image_bytes()))[0] == 200
    added = set(contents(folder)) - set(before)
    assert len(added) == 1 and added.pop().parent.name == "studies"


def test_predictions_are_made_of_studies_alone_and_weights_are_not_replaced(studio):
    client, folder = studio
    secret = str(folder / "secret.tif")
    for params in ({"image": secret}, {"image": secret, "session": {}}):
        with pytest.raises(SpocoError, match="404 .*not among the studies"):
            client._call("POST", "/infer/spoco?image=cells", fields={"params": json.dumps(params)})
    status, answer = ask(client, "POST", "/infer/spoco", ("secret.tif", image_bytes()))
    assert status == 404 and "not among the studies" in answer
    with pytest.raises(SpocoError, match="422 .*result_extension"):
        client.infer("cells", "/../../x.tif")
    weights = folder / "app" / "model" / "spoco" / "models" / "model.pt"
    before = weights.read_bytes()
    for method in ("PUT", "DELETE"):
        assert ask(client, method, "/model/spoco", ("model.pt", b"weights") if method == "PUT" else None)[0] == 403
    assert ask(client, "PUT", "/session/", ("a.tif", image_bytes()))[0] == 403
    assert weights.read_bytes() == before


def test_web_pages_and_borrowed_names_are_not_answered(studio):
    client, _ = studio
    assert ask(client, "GET", "/info/", Origin="http://evil.example")[0] == 403
    assert ask(client, "GET", "/info/", Host="evil.example")[0] == 421
    connection = http.client.HTTPConnection(client.url.removeprefix("http://"))
    connection.request("GET", "/info/", headers={"Origin": client.url})
    assert connection.getresponse().status == 200


def test_parameters_are_checked_before_a_training_starts(studio):
    client, _ = studio
    for params, words in (
        ({"device": "cuda:77"}, "422 .*choose one of cpu"),
        ({"max_epochs": "many"}, "422 .*give a whole number"),
        ({"max_epochs": "$__import__('os').getcwd()"}, "422 .*give a whole number"),
    ):
        with pytest.raises(SpocoError, match=words):
            client.train(**params)
    with pytest.raises(SpocoError, match="422 .*choose one of cpu"):
        client.infer("cells", ".tif", device="cuda:77")
    with pytest.raises(SpocoError, match="404"):
        client.training()


def test_a_token_is_asked_for(python, tmp_path):
    (tmp_path / "studies").mkdir()
    prepare_app(tmp_path / "app", random_weights=True, **TINY)
    with serve(python, tmp_path, token="s3cret") as client:
        assert client.info()["models"]
        with pytest.raises(SpocoError, match="401 .*Bearer"):
            LabelClient(client.url).info()


def test_a_plane_comes_back_as_a_plane(python, tmp_path):
    (tmp_path / "studies").mkdir()
    plane = np.random.default_rng(0).integers(0, 255, (40, 56), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "studies" / "plane.tif", plane)
    nibabel.save(nibabel.Nifti1Image(plane.T[..., None], np.diag([2, 2, 5, 1])), tmp_path / "studies" / "slice.nii.gz")
    bundle = prepare_app(tmp_path / "app", random_weights=True, spatial_dims=2)
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
        checked, unchecked = told_apart(kept, read_ledger(folder / "studies/labels/final/cells_annotation.csv"))
        np.testing.assert_array_equal(checked, drawn)
        np.testing.assert_array_equal(unchecked > 0, (labels > 0) & (drawn == 0))
        assert trained(client, max_epochs=2)[0] == "DONE"
        results.append(torch.load(folder / "app/model/spoco/outputs/last.pt", weights_only=True)["network"])
    for key in results[0]:
        torch.testing.assert_close(results[0][key], results[1][key], rtol=0, atol=0, msg=key)


def test_objects_in_slices_train_and_napari_shows_the_same_state(python, truth, tmp_path):
    (tmp_path / "studies").mkdir()
    file, labels = truth
    image = Path(shutil.copy(file, tmp_path / "studies" / "cells.nii.gz"))
    settings = {"crop_size": [8, 32, 32], "batch_size": 2, "iterations_per_epoch": 2, "max_epochs": 1}
    prepare_app(tmp_path / "app", random_weights=True, **settings)
    ids = np.unique(labels)[1:7]
    outlines = np.where(np.isin(labels, ids), labels, 0)
    for number in ids:  # each in the slice that shows most of it
        sizes = (labels == number).sum((1, 2))
        outlines[(outlines == number) & (np.arange(len(sizes)) != sizes.argmax())[:, None, None]] = 0
    with serve(python, tmp_path) as client:
        names = [{"name": f"slices {number}", "idx": int(number)} for number in ids[:-1]]
        corners, around = outlines.copy(), int(labels.max()) + 1
        corners[0, [0, 2], [0, 3]] = around
        names.append({"name": "complete", "idx": around})
        submit(client, tmp_path, corners, label_info=names, annotation={"default": "strokes"})
        ledger = read_ledger(tmp_path / "studies" / "labels" / "final" / "cells_annotation.csv")
        assert ledger == {**dict.fromkeys(ids[:-1], Entry("slices")), ids[-1]: Entry("strokes")}
        status, lines = trained(client)
        assert status == "DONE", lines
        assert "in slices" in (tmp_path / "server.log").read_text(), "the training reads the ledger"

        names = client.infer_params("cells")["label_names"]
        assert sum(name.startswith("slices") for name in names) == len(ids) - 1
        shown = read_image(image_in(client.infer("cells"), ".nii.gz", tmp_path), "label").array[0]
        submit(client, tmp_path, shown, label_info=[{"name": name, "idx": number} for name, number in names.items()])
        read = read_annotations(label_file(image), labels.shape)
        client._call("DELETE", "/datastore/label?id=cells&tag=final")
        assert not list(label_file(image).parent.iterdir()), "the files beside the label belong to it"
    predicted = [number for name, number in names.items() if name.startswith("object")]
    np.testing.assert_array_equal(read.checked > 0, outlines > 0)
    np.testing.assert_array_equal(read.rectangles, [[[0, 0, 0], [0, 0, 3], [0, 2, 3], [0, 2, 0]]])
    kinds = sorted(read.kinds.get(number, read.default) for number in np.unique(read.checked)[1:])
    assert kinds == ["slices"] * (len(ids) - 1) + ["strokes"]
    unchecked = np.zeros_like(shown) if read.unchecked is None else read.unchecked
    np.testing.assert_array_equal(unchecked > 0, np.isin(shown, predicted))


def test_a_round_that_is_not_better_changes_nothing_and_says_so(python, truth, tmp_path):
    (tmp_path / "studies").mkdir()
    image, labels = truth
    shutil.copy(image, tmp_path / "studies" / "cells.nii.gz")
    settings = {"crop_size": [8, 32, 32], "iterations_per_epoch": 2, "max_epochs": 1, "learning_rate": 1e-9}
    models = prepare_app(tmp_path / "app", random_weights=True, **settings) / "models"
    with serve(python, tmp_path) as client:
        submit(client, tmp_path, labels)
        assert trained(client)[0] == "DONE"
        student = torch.load(models / "model_student.pt", weights_only=True)
        lengths = {name: student[name] for name in ("coordinate_scale", "training_spacing")}
        changed = {name: value * 1.01 for name, value in student.items() if value.is_floating_point()}
        torch.save(student | changed | lengths, models / "model_student.pt")
        before = {file.name: file.read_bytes() for file in models.iterdir()}
        status, lines = trained(client)
        assert status == "DONE" and "kept the old weights: none was better" in lines, lines
        assert "in use from now on" not in lines
    assert {file.name: file.read_bytes() for file in models.iterdir()} == before
    assert "kept the old weights" in (tmp_path / "server.log").read_text()


def test_training_and_prediction_follow_objects_of_another_size(python, tmp_path):
    """Six times as large in pixels as those of the weights: learnt, and found, at the size that these know."""
    (tmp_path / "studies").mkdir()
    y, x = np.mgrid[:480, :480]
    labels = np.where((y % 160 - 80) ** 2 + (x % 160 - 80) ** 2 < 40**2, 1 + y // 160 * 3 + x // 160, 0)
    image = 100 + 900 * ndimage.gaussian_filter((labels > 0).astype(float), 4)
    image += np.random.default_rng(0).normal(0, 20, image.shape)
    tifffile.imwrite(tmp_path / "studies" / "cells.tif", image.astype(np.uint16))
    tifffile.imwrite(tmp_path / "label.tif", np.where(labels <= 4, labels, 0).astype(np.uint16))
    settings = {"crop_size": [48, 48], "iterations_per_epoch": 2, "max_epochs": 1, "learning_rate": 1e-9}
    models = prepare_app(tmp_path / "app", spatial_dims=2, **settings) / "models"
    with serve(python, tmp_path) as client:
        client.save_label("cells", tmp_path / "label.tif")
        status, lines = trained(client)
        assert status == "DONE", lines
        learnt = json.loads((models / "model.json").read_text())
        shown = read_image(image_in(client.infer("cells", ".nrrd"), ".nrrd", tmp_path), "label", 2).array[0]
    assert learnt["object_diameter"] == pytest.approx(80, rel=0.1)
    assert learnt["target_spacing"] == pytest.approx([80 / 13.1] * 2, rel=0.1)
    assert instance_scores(labels, shown)["ap_50"] == 1


def test_an_unreadable_image_is_passed_over_and_named(python, tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "cells.tif").write_bytes(image_bytes())
    (tmp_path / "studies" / "damaged.tif").write_bytes(b"II no image")
    models = prepare_app(tmp_path / "app", random_weights=True, spacing=[1, 1, 1], **TINY) / "models"
    weights = torch.load(models / "model.pt", weights_only=True) | {"coordinate_scale": torch.tensor(4.0)}
    for name in ("model.pt", "model_student.pt"):
        torch.save(weights, models / name)
    with serve(python, tmp_path) as client:
        proposal = client.next_sample()
        assert proposal["id"] == "cells" and "damaged.tif" in proposal["skipped"]["damaged"]
        (tmp_path / "studies" / "cells.tif").write_bytes(b"II no image")
        with pytest.raises(SpocoError, match="422 .*none of 2 images can be looked at"):
            client.next_sample()


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
    while " gone" not in "".join(client.training().get("details", [])):
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
    environment = server_command(python, tmp_path, tmp_path, Door(1))[1]
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
