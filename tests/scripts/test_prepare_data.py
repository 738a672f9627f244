"""Miniature trees of the layouts in which public data sets are distributed, prepared, loaded and trained on."""

from __future__ import annotations

import gc
import importlib
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from spoco_bundle.app.config import find_config, read_configs
from spoco_bundle.dataset import build_datalist
from spoco_bundle.formats import read_image
from support import training

RANDOM = np.random.default_rng(0)
SHAPE = (40, 48)


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("prepare_data")


def noise(*shape, dtype=np.uint8):
    return RANDOM.integers(1, 200, shape).astype(dtype)


def squares(*ids, shape=SHAPE):
    """Labels with one 10 x 8 square per id, along a row."""
    labels = np.zeros(shape, dtype=np.int32)
    for place, number in enumerate(ids):
        labels[..., 5:15, 3 + 11 * place : 11 + 11 * place] = number
    return labels


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    if mode == "P":
        picture.putpalette([(7 * value) % 256 for value in range(768)])
    picture.save(path)


def labels_of(folder, spatial_dims=2):
    """{split: {name: labels}} as the bundle reads them."""
    return {
        split: {
            item["label"].rsplit("/", 1)[1].removesuffix("_label.tif"): read_image(
                item["label"], "label", spatial_dims
            ).array[0]
            for item in build_datalist(folder, split)
        }
        for split in ("train", "val")
    }


def refused(script, capsys, arguments, *words):
    """One line that names these words, exit code 2, and no output folder."""
    assert script.main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and all(str(word) in said[0] for word in words), said


@pytest.fixture
def cvppp(tmp_path):
    """Two folders of three plants; labels as palette pictures, images with alpha, as in the challenge."""
    for folder in ("A1", "A2"):
        for number in range(3):
            start = tmp_path / "training" / folder / f"plant{number:03}"
            save(start.with_name(f"{start.name}_rgb.png"), noise(*SHAPE, 4))
            ids = squares(3, 7, 9).astype(np.uint8)
            save(start.with_name(f"{start.name}_label.png"), ids, "P")
            save(start.with_name(f"{start.name}_fg.png"), (ids > 0).astype(np.uint8) * 255)
    return tmp_path / "training"


def test_cvppp_keeps_colours_ids_and_the_plant_mask(script, cvppp, tmp_path, capsys):
    out = tmp_path / "out"
    assert script.main(["cvppp", str(cvppp), str(out), "--folders", "A1", "A2", "--val-fraction", "0.34"]) == 0
    assert "4 train images" in (said := capsys.readouterr().out) and "12 train objects" in said
    found = labels_of(out)
    assert len(found["train"]) == 4 and len(found["val"]) == 2
    assert {name[:3] for name in found["val"]} == {"A1_", "A2_"}  # of each folder its share
    for split, labels in found.items():
        for name, ids in labels.items():
            np.testing.assert_array_equal(ids, squares(3, 7, 9))
            source = cvppp / name[:2] / f"{name[3:]}_rgb.png"
            image = read_image(out / split / f"{name}_raw.tif", spatial_dims=2).array
            np.testing.assert_array_equal(image, np.moveaxis(np.asarray(Image.open(source))[..., :3], -1, 0))
            mask = read_image(out / split / f"{name}_fg.tif", "label", 2).array[0]
            np.testing.assert_array_equal(mask, ids > 0)


def test_the_draw_depends_on_the_seed_alone(script):
    names = [f"plant{number}" for number in range(20)]
    first = script.held_out(names, 0.25, 0)
    assert len(first) == 5 and first == script.held_out(reversed(names), 0.25, 0)
    assert first != script.held_out(names, 0.25, 1)
    assert len(script.held_out(names, 0.001, 0)) == 1


def test_cvppp_without_the_mask(script, cvppp, tmp_path, capsys):
    (cvppp / "A1" / "plant001_fg.png").unlink()
    refused(script, capsys, ["cvppp", cvppp, tmp_path / "out"], "plant001_fg.png", "missing")
    assert script.main(["cvppp", str(cvppp), str(tmp_path / "out"), "--without-foreground"]) == 0
    assert not list((tmp_path / "out").rglob("*_fg.tif"))


@pytest.mark.parametrize(
    "name, damage, words",
    [
        ("label", lambda path: path.unlink(), ["plant001_label.png", "missing"]),
        ("label", lambda path: save(path, squares(1, shape=(40, 47)).astype(np.uint8)), ["plant001_label.png", "47"]),
        ("label", lambda path: save(path, noise(*SHAPE, 3)), ["plant001_label.png", "ids"]),
        ("rgb", lambda path: path.write_bytes(path.read_bytes()[:90]), ["plant001_rgb.png", "cannot be read"]),
        ("fg", lambda path: save(path, noise(9, 9)), ["plant001_rgb.png", "foreground", "(9, 9)"]),
    ],
)
def test_damaged_trees_are_refused_and_leave_nothing(script, cvppp, tmp_path, capsys, name, damage, words):
    damage(cvppp / "A1" / f"plant001_{name}.png")
    refused(script, capsys, ["cvppp", cvppp, tmp_path / "out"], *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["training"]


def test_wrong_folders_and_shares_are_refused(script, cvppp, tmp_path, capsys):
    out = tmp_path / "out"
    refused(script, capsys, ["cvppp", cvppp / "A1", out], "A1", "*_rgb.png", "name the folder")
    refused(script, capsys, ["cvppp", cvppp, out, "--val-fraction", "1"], out, "train")
    assert not out.exists()
    with pytest.raises(SystemExit) as ended:
        script.main(["cvppp", str(cvppp), str(out), "--val-fraction", "0"])
    assert ended.value.code == 2


def test_an_output_that_exists_is_left_as_it_is(script, cvppp, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    refused(script, capsys, ["cvppp", cvppp, out], out, "exists", "another folder")
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


@pytest.fixture
def cityscapes(tmp_path):
    """Two cities; cars are 26001.., a group of cars 26, a person 24000, the road 7."""
    root = tmp_path / "cs"
    for split, city, cars in (("train", "ulm", 3), ("train", "bonn", 4), ("train", "jena", 0), ("val", "lindau", 2)):
        name = f"{city}_000000_000019"
        save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", noise(*SHAPE, 3))
        ids = np.full(SHAPE, 7, dtype=np.int32)
        ids[25:30] = 26
        ids[32:36] = 24000
        placed = squares(*(26001 + number for number in range(cars)))
        ids[placed > 0] = placed[placed > 0]
        save(root / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png", ids.astype(np.uint16))
    return root


def test_cityscapes_takes_one_class_and_its_mask(script, cityscapes, tmp_path, capsys):
    out = tmp_path / "out"
    assert script.main(["cityscapes", str(cityscapes), str(out), "--class-name", "car"]) == 0
    assert "1 images left out, without an annotated object" in capsys.readouterr().out  # jena
    found = labels_of(out)
    assert set(found["train"]) == {"ulm_000000_000019", "bonn_000000_000019"}
    expected = squares(2, 3)
    expected[25:30] = 65535
    np.testing.assert_array_equal(found["val"]["lindau_000000_000019"], expected)
    mask = read_image(out / "val" / "lindau_000000_000019_fg.tif", "label", 2).array[0]
    np.testing.assert_array_equal(mask, expected > 0)
    image = read_image(out / "val" / "lindau_000000_000019_raw.tif", spatial_dims=2)
    assert image.array.shape == (3, *SHAPE)


def test_cityscapes_keeps_a_share_of_all_instances_of_train(script, cityscapes, tmp_path):
    def kept(folder, *options):
        arguments = ["cityscapes", str(cityscapes), str(tmp_path / folder), "--class-name", "car", *options]
        assert script.main(arguments) == 0
        found = labels_of(tmp_path / folder)
        assert np.unique(found["val"]["lindau_000000_000019"]).tolist() == [0, 2, 3, 65535]  # complete
        return {(n, int(i)) for n, ids in found["train"].items() for i in np.unique(ids) if i not in (0, 65535)}

    everything, half = kept("all"), kept("half", "--fraction", "0.5")
    assert len(everything) == 7 and len(half) == 4 and half < everything
    assert kept("again", "--fraction", "0.5") == half
    assert any(kept(f"seed{seed}", "--fraction", "0.5", "--seed", str(seed)) != half for seed in (1, 2, 3))


def test_cityscapes_without_its_labels(script, cityscapes, tmp_path, capsys):
    next(cityscapes.rglob("ulm*_instanceIds.png")).unlink()
    arguments = ["cityscapes", cityscapes, tmp_path / "out", "--class-name", "car"]
    refused(script, capsys, arguments, "ulm_000000_000019_gtFine_instanceIds.png", "missing")
    refused(script, capsys, ["cityscapes", tmp_path, *arguments[2:]], "leftImg8bit", "unpack")


@pytest.fixture
def dsb2018(tmp_path):
    """Four grey images stored as RGBA and one in colour, a mask per nucleus."""
    root = tmp_path / "stage1_train"
    for number in range(5):
        image = np.repeat(noise(*SHAPE, 1), 4, axis=-1)
        if number == 4:
            image[..., 1] //= 2
        save(root / f"id{number}" / "images" / f"id{number}.png", image)
        for place in range(3):
            save(
                root / f"id{number}" / "masks" / f"m{place}.png", (squares(1, 2, 3) == place + 1).astype(np.uint8) * 255
            )
    return root


def test_dsb2018_merges_masks_of_grey_images(script, dsb2018, tmp_path, capsys):
    out = tmp_path / "out"
    assert script.main(["dsb2018", str(tmp_path), str(out), "--val-fraction", "0.25"]) == 0
    said = capsys.readouterr().out
    assert (
        "3 train images" in said and "1 images left out, in colour" in said and "mask" not in said.partition("out: ")[2]
    )
    found = labels_of(out)
    assert len(found["train"]) == 3 and len(found["val"]) == 1
    for split, labels in found.items():
        for name, ids in labels.items():
            np.testing.assert_array_equal(ids, squares(1, 2, 3))
            image = read_image(out / split / f"{name}_raw.tif", spatial_dims=2).array
            np.testing.assert_array_equal(
                image[0], np.asarray(Image.open(dsb2018 / name / "images" / f"{name}.png"))[..., 0]
            )
    assert script.main(["dsb2018", str(dsb2018), str(tmp_path / "rgb"), "--colour"]) == 0
    assert len(list((tmp_path / "rgb").rglob("*_raw.tif"))) == 5


def test_dsb2018_repairs_masks(script, dsb2018, tmp_path, capsys):
    masks = dsb2018 / "id0" / "masks"
    save(masks / "empty.png", np.zeros(SHAPE, np.uint8))
    save(masks / "twice.png", np.asarray(Image.open(masks / "m0.png")))
    large = np.zeros(SHAPE, np.uint8)
    large[2:20, 12:24] = 255  # around m1 (columns 14 to 21), without m0 and m2
    save(masks / "large.png", large)
    assert script.main(["dsb2018", str(dsb2018), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "1 empty masks" in said and "1 masks covered by smaller ones" in said
    assert "160 pixels in more than one mask" in said
    found = labels_of(tmp_path / "out")
    ids = (found["train"] | found["val"])["id0"]
    expected = np.where(large, 4, 0)
    small = squares(1, 2, 3)
    expected[small > 0] = small[small > 0]
    pairs = np.unique(np.stack([ids.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == 5 and ids.max() == 4  # the same partition


def test_dsb2018_masks_that_do_not_fit(script, dsb2018, tmp_path, capsys):
    save(dsb2018 / "id1" / "masks" / "m1.png", noise(9, 9))
    refused(script, capsys, ["dsb2018", dsb2018, tmp_path / "out"], "m1.png", "(9, 9)", str(SHAPE))
    for mask in (dsb2018 / "id1" / "masks").iterdir():
        mask.unlink()
    refused(script, capsys, ["dsb2018", dsb2018, tmp_path / "out"], "id1/masks", "*.png")
    refused(script, capsys, ["dsb2018", tmp_path / "nowhere", tmp_path / "out"], "nowhere", "stage1_train.zip")


def test_omnipose_pictures_are_halved_where_both_halves_hold_enough(script, tmp_path, capsys):
    source, output = tmp_path / "test_files", tmp_path / "bacteria"
    one, many = squares(1, 2, 3, 4), np.tile(np.arange(1, 9), (4, 1)).repeat(3, 0).repeat(6, 1)
    many[6:] += 8 * (many[6:] > 0)
    for name, labels in (("few", one), ("many", many)):
        save(source / "masks" / f"{name}_cp_masks.tif", labels.astype(np.uint8))
        save(source / f"{name}.png", noise(*labels.shape)[..., None].repeat(3, -1))
    assert script.main(["omnipose", str(source), str(output)]) == 0
    assert "1 train images, 8 train objects, 1 val images, 8 val objects" in capsys.readouterr().out
    halves = labels_of(output)
    assert np.array_equal(halves["train"]["many"], many[:, :24])
    assert np.array_equal(halves["val"]["many"], many[:, 24:])
    assert read_image(output / "train" / "many_raw.tif", "image", 2).array.shape == (1, 12, 24), "grey has one channel"


def test_isbi2012_sections_hold_what_is_connected_between_membranes(script, tmp_path, capsys):
    source, output = tmp_path / "train", tmp_path / "neurites"
    inside = np.full((20, 30), 255, np.uint8)
    inside[:, 10] = inside[12, 11:] = 0
    inside[:3, 2] = inside[2, :2] = 0  # four pixels in a corner, too few
    for number in (2, 10, 11):
        save(source / "image" / f"{number}.png", noise(20, 30))
        save(source / "label" / f"{number}.png", inside)
    assert script.main(["isbi2012", str(source), str(output)]) == 0
    assert "2 train images, 6 train objects, 1 val images, 3 val objects" in capsys.readouterr().out
    halves = labels_of(output)
    assert set(halves["train"]) == {"section2", "section10"}
    assert sorted(np.unique(halves["val"]["section11"], return_counts=True)[1][1:]) == [7 * 19, 191, 12 * 19]


def test_coelho2009_nuclei_are_taken_by_kind_of_cell_without_specks(script, tmp_path, capsys):
    source, output = tmp_path / "coelho", tmp_path / "nuclei"
    ids = np.zeros((60, 60), np.uint8)
    ids[5:25, 5:25], ids[30:50, 30:50], ids[55, 55:58] = 3, 7, 9
    for kind in ("gnf", "ic100"):
        for number in range(3):
            save(source / "data" / "preprocessed-data" / kind / f"dna-{number}.png", ids)
            grey = noise(60, 60)[..., None].repeat(3, -1)
            save(source / "data" / "images" / "dna-images" / kind / f"dna-{number}.png", grey)
    assert script.main(["coelho2009", str(source), str(output), "--cells", "U2OS"]) == 0
    assert "2 train images, 4 train objects, 1 val images, 2 val objects" in capsys.readouterr().out
    halves = labels_of(output)
    names = {name for half in halves.values() for name in half}
    assert names == {f"gnf-dna-{number}" for number in range(3)}
    labels = next(iter(halves["val"].values()))
    assert np.array_equal(labels > 0, (ids > 0) & (ids < 9)) and len(np.unique(labels)) == 3
    file = next((output / "val").glob("*_raw.tif"))
    assert read_image(file, "image", 2).array.shape == (1, 60, 60), "grey has one channel"


@pytest.fixture
def bbbc050(tmp_path):
    import tifffile

    root = tmp_path / "BBBC050"
    for part, embryos in (("train", ("Emb01", "Emb09")), ("test", ("Emb01",))):
        for embryo in embryos:
            for folder, volume in (
                (root / "Images" / part / "Images", noise(6, *SHAPE, dtype=np.uint16)),
                (
                    root / "GroundTruth" / part / "GroundTruth_QCANet",
                    squares(1, 4, shape=(6, *SHAPE)).astype(np.uint16),
                ),
            ):
                folder.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(folder / f"{embryo}_t001.tif", volume, photometric="minisblack")
    return root


def test_bbbc050_is_split_by_embryo_and_gets_its_spacing(script, bbbc050, tmp_path):
    out = tmp_path / "out"
    assert script.main(["bbbc050", str(bbbc050), str(out)]) == 0
    found = labels_of(out, 3)
    assert list(found["train"]) == ["Emb01_t001"] and list(found["val"]) == ["Emb09_t001"]
    np.testing.assert_array_equal(found["val"]["Emb09_t001"], squares(1, 4, shape=(6, *SHAPE)))
    for split, depth, embryo in (("train", 1.75, "Emb01"), ("val", 1.75, "Emb09"), ("test", 2.0, "Emb01")):
        for end, kind in (("raw", "image"), ("label", "label")):
            volume = read_image(out / split / f"{embryo}_t001_{end}.tif", kind)
            assert volume.spacing == pytest.approx((depth, 0.8, 0.8)) and volume.file_unit == "micrometer"
    source = read_image(bbbc050 / "Images" / "test" / "Images" / "Emb01_t001.tif").array
    np.testing.assert_array_equal(read_image(out / "test" / "Emb01_t001_raw.tif").array, source)


def test_bbbc050_without_labels_or_an_embryo_for_val(script, bbbc050, tmp_path, capsys):
    out = tmp_path / "out"
    refused(script, capsys, ["bbbc050", bbbc050, out, "--val-embryos", "Emb05"], out, "val")
    (bbbc050 / "GroundTruth" / "train" / "GroundTruth_QCANet" / "Emb09_t001.tif").unlink()
    refused(script, capsys, ["bbbc050", bbbc050, out], "GroundTruth_QCANet/Emb09_t001.tif")
    refused(script, capsys, ["bbbc050", tmp_path, out], "Images", "*.tif", "unpack")
    assert not out.exists()


SPACING = (0.235, 0.15, 0.15)


@pytest.fixture
def volumes(tmp_path):
    """Three files with raw and label, as PlantSeg has them; the last labels in a file of their own."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install 'spoco-bundle[hdf5]'")
    folder = tmp_path / "volumes"
    folder.mkdir()
    for name in ("a", "b", "c"):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["raw"] = noise(10, *SHAPE)
            file["raw"].attrs["element_size_um"] = SPACING
            file["gt/label"] = squares(5, 6, 70000, shape=(10, *SHAPE)).astype(np.uint64)
    return folder


def pair(folder, name="a", image="raw", label="gt/label"):
    return [f"{folder / name}.h5:{image}", f"{folder / name}.h5:{label}"]


def test_hdf5_patterns_become_pairs_with_their_spacing(script, volumes, tmp_path):
    h5py = pytest.importorskip("h5py")
    out = tmp_path / "out"
    train, val = pair(volumes, "[ab]"), pair(volumes, "c")
    assert script.main(["hdf5", str(out), "--train", *train, "--val", *val]) == 0
    found = labels_of(out, 3)
    assert list(found["train"]) == ["a", "b"] and list(found["val"]) == ["c"]
    np.testing.assert_array_equal(found["train"]["b"], squares(5, 6, 70000, shape=(10, *SHAPE)))
    image = read_image(out / "val" / "c_raw.tif")
    assert image.spacing == pytest.approx(SPACING) and image.array.dtype == np.uint8
    with h5py.File(volumes / "c.h5") as file:
        np.testing.assert_array_equal(image.array[0], file["raw"][:])


def test_hdf5_volumes_are_split_along_z(script, volumes, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(volumes / "a.h5", "a") as file:
        del file["raw"].attrs["element_size_um"]
        file["channels"] = file["raw"][:][None]
    out = tmp_path / "out"
    arguments = ["--split", *pair(volumes, image="channels"), "--val-fraction", "0.3", "--spacing", "2", "1", "1"]
    assert script.main(["hdf5", str(out), *arguments]) == 0
    parts = [read_image(out / split / "a_raw.tif") for split in ("train", "val")]
    assert [part.array.shape[1] for part in parts] == [7, 3]
    assert all(part.spacing == (2, 1, 1) for part in parts)
    with h5py.File(volumes / "a.h5") as file:
        np.testing.assert_array_equal(np.concatenate([part.array[0] for part in parts]), file["raw"][:])
    assert script.main(["hdf5", str(tmp_path / "unknown"), "--split", *pair(volumes)]) == 0
    assert read_image(tmp_path / "unknown" / "val" / "a_raw.tif").spacing is None


@pytest.fixture
def no_garbage_collection():
    """What is left open stays open."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
def test_hdf5_datasets_that_are_not_there_or_do_not_fit(script, volumes, tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    with h5py.File(volumes / "a.h5", "a") as file:
        file["flat"] = noise(9, 9)
        file["short"] = squares(1, shape=(9, *SHAPE))
        file["negative"] = -squares(1, shape=(10, *SHAPE))
    start = ["hdf5", tmp_path / "out", "--split"]
    refused(script, capsys, [*start, *pair(volumes, image="row")], "a.h5", "'row'", "raw (10, 40, 48)", "gt/label")
    refused(script, capsys, [*start, *pair(volumes, label="gt")], "'gt'", "gt/label (10, 40, 48)")
    refused(script, capsys, [*start, *pair(volumes, image="flat")], "a.h5:flat", "(9, 9)")
    refused(script, capsys, [*start, *pair(volumes, label="short")], "a.h5:short", "(9, 40, 48)")
    refused(script, capsys, [*start, *pair(volumes, label="negative")], "a.h5:negative", "negative")
    refused(script, capsys, [*start, *pair(volumes), "--val-fraction", "0.01"], "10 planes", "--val-fraction 0.01")
    refused(script, capsys, [*start, *pair(volumes), "--spacing", "0", "1", "1"], "spacing", "positive")
    refused(script, capsys, [*start, str(volumes / "a.h5"), "x"], "path.h5:dataset")
    refused(script, capsys, [*start, *pair(volumes, "nothing")], "nothing.h5", "no such file")
    refused(script, capsys, [*start, pair(volumes, "*")[0], pair(volumes)[1]], "3 files", "names 1")
    refused(script, capsys, [*start, *pair(volumes), "--val", *pair(volumes)], "another image is named a")
    refused(script, capsys, start[:2], "--train")
    (volumes / "a.h5").write_bytes(b"no HDF5")
    refused(script, capsys, [*start, *pair(volumes)], "a.h5", "cannot be read as HDF5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["volumes"]


def test_without_h5py_the_message_says_how_to_get_it(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "a.h5").touch()
    refused(script, capsys, ["hdf5", tmp_path / "out", "--split", *pair(tmp_path)], "h5py", "spoco-bundle[hdf5]")


@pytest.mark.parametrize("overlay", ["paper_cvppp", "paper_cityscapes", "paper_ovules", "paper_mitochondria"])
def test_crops_of_the_papers_protocols_fit_their_networks(overlay):
    parser = read_configs([find_config(name) for name in ("train", "paper", overlay)], {})
    config = parser.get()
    assert config["max_epochs"] * config["iterations_per_epoch"] == 80_000
    stride = parser.get_parsed_content("network_def").total_stride
    assert all(size % step == 0 for size, step in zip(config["crop_size"], stride, strict=True))


FLAT = {"strides": [2], "kernel_sizes": [3, 3], "crop_size": [24, 24], "window_size": [64, 64]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "tree, overlay, arguments, overrides",
    [
        ("cvppp", "paper_cvppp", [], FLAT),
        ("cityscapes", "paper_cityscapes", ["--class-name", "car"], FLAT),
        ("volumes", "paper_ovules", None, {}),
        ("volumes", "paper_mitochondria", None, {}),
    ],
)
def test_the_papers_protocols_train_on_what_was_prepared(
    tree, overlay, arguments, overrides, script, request, tmp_path, bundle_root
):
    source, out = request.getfixturevalue(tree), tmp_path / "out"
    given = ["hdf5", out, "--split", *pair(source)] if arguments is None else [tree, source, out, *arguments]
    assert script.main([str(argument) for argument in given]) == 0
    configs = [bundle_root / "configs" / f"{name}.json" for name in ("paper", overlay)]
    small = {"embedding_channels": 16, "iterations_per_epoch": 2, "max_epochs": 1, **overrides}
    workflow = training(bundle_root, out, tmp_path / "model", *configs, **small)
    network, trainer = workflow.trainer.network, workflow.trainer
    before = [parameter.detach().clone() for parameter in network.parameters()]
    assert type(trainer.optimizer) is torch.optim.Adam and trainer.decoder.coordinate_channels == 0
    assert trainer.optimizer.defaults["lr"] == 2e-4 and trainer.optimizer.defaults["weight_decay"] == 1e-5
    assert network.out_channels == 16 and network.in_channels == (1 if arguments is None else 3)
    workflow.run()
    assert trainer.state.iteration == 2 and np.isfinite(trainer.state.output[0]["loss"].item())
    assert any(not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)  # the end of the cosine
    assert (tmp_path / "model" / "model.pt").is_file()  # validated, on the given foreground in 2D
