"""The table of bad input: what is wrong, the command that meets it, and what its last line has to name."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import tifffile
import torch
from PIL import Image

SHAPE = (8, 24, 28)


class Workshop:
    """Makes the files of one case in a folder of its own."""

    def __init__(self, folder: Path, sample: Path, trained: Path):
        self.folder, self.sample, self.trained = folder, sample, trained

    def volume(self, shape: Sequence[int] = SHAPE) -> np.ndarray:
        """A good image: noise with bright boxes, uint16."""
        image = np.random.default_rng(0).integers(0, 200, shape)
        image[tuple(slice(1, max(2, size // 2)) for size in shape)] += 1000
        return image.astype(np.uint16)

    def labels(self, shape: Sequence[int] = SHAPE) -> np.ndarray:
        """Two objects."""
        labels = np.zeros(shape, dtype=np.uint16)
        labels[1:5, 2:9, 2:9] = 1
        labels[1:5, 12:20, 12:20] = 2
        return labels

    def tif(self, name: str, array: np.ndarray, **options: Any) -> Path:
        """A TIFF file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"photometric": "minisblack", "compression": "zlib", **options}
        tifffile.imwrite(path, array, **options)
        return path

    def nifti(self, name: str, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
        """A NIfTI file of an array z, y, x."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        affine = np.diag([0.5, 0.5, 1.0, 1.0]) if affine is None else affine
        nibabel.save(nibabel.Nifti1Image(array.transpose(), affine), path)
        return path

    def write(self, name: str, content: bytes | str) -> Path:
        """A file of any bytes."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def cut(self, path: Path, part: float = 0.6) -> Path:
        """A file cut short."""
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * part)])
        return path

    def data(self, image: Any = None, label: Any = None, split: str = "train", suffix: str = ".tif") -> Path:
        """A training folder whose first pair of a split is the one given; the others are good."""
        for part in ("train", "val"):
            for name in "ab":
                own = part == split and name == "a"
                raw = self.volume() if image is None or not own else image
                ids = self.labels() if label is None or not own else label
                write = self.tif if suffix == ".tif" else self.nifti
                write(f"data/{part}/{name}_raw{suffix}", raw)
                write(f"data/{part}/{name}_label{suffix}", ids)
        return self.folder / "data"

    def model(self, **files: bytes) -> Path:
        """A copy of the trained model with some files replaced (``model_pt`` stands for ``model.pt``)."""
        folder = self.folder / "model"
        shutil.copytree(self.trained, folder)
        for name, content in files.items():
            (folder / ".".join(name.rsplit("_", 1))).write_bytes(content)
        return folder

    def pickle(self) -> bytes:
        """A pickle that makes a folder named ``ran`` when it is loaded in full."""
        return pickle.dumps({"weight": Runs(self.folder / "ran")})

    def torch_pickle(self) -> bytes:
        """The same inside torch's own container."""
        path = self.folder / "evil.pt"
        torch.save({"weight": Runs(self.folder / "ran")}, path)
        return path.read_bytes()

    def flat(self) -> Path:
        """An overlay for 2D images."""
        return self.config({"spatial_dims": 2, "strides": [2], "kernel_sizes": [3, 3], "crop_size": [16, 16]})

    def config(self, content: Any) -> Path:
        """An overlay config."""
        return self.write("own.json", content if isinstance(content, (str, bytes)) else json.dumps(content))


class Runs:
    """What a malicious checkpoint holds."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@dataclass
class Case:
    """One kind of bad input.

    Args:
        name: what is wrong.
        make: makes the files and returns the command line; ``predict X`` stands for the trained model and an output
            folder ``out``, ``train X`` for tiny settings and the folder ``new``, where these are not given.
        words: what the last line has to say.
        as_user: whether permissions matter, which root is above.
        bundle: what ``monai.bundle run`` says last: "same", the very same line; "own", another line of this kind;
            "monai", an error of MONAI's, which reads the configs before it imports anything of the bundle; "accepts",
            nothing, since MONAI adds what is an id of another shipped config.
    """

    name: str
    make: Callable[[Workshop], list]
    words: tuple[str, ...]
    as_user: bool = False
    bundle: str = "same"


def predict(source: Any, *more: Any) -> list:
    return ["predict", source, *more]


def train(source: Any, *more: Any) -> list:
    return ["train", source, *more]


def good(w: Workshop) -> Path:
    return w.tif("good.tif", w.volume())


def with_voxel(w: Workshop, value: float) -> np.ndarray:
    image = w.volume().astype(np.float32)
    image[2, 3, 4] = value
    return image


def linked(w: Workshop, name: str, target: str) -> Path:
    path = w.folder / name
    path.symlink_to(target)
    return path


def locked(path: Path, mode: int = 0) -> Path:
    path.chmod(mode)
    return path


def moved(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


def ids(w: Workshop, dtype: Any, change: Callable[[np.ndarray], Any]) -> np.ndarray:
    labels = w.labels().astype(dtype)
    result = change(labels)
    return labels if result is None else result


def setting(value: Any, place: tuple = np.s_[1:3, 2:4, 2:4]) -> Callable[[np.ndarray], None]:
    def change(labels: np.ndarray) -> None:
        labels[place] = value

    return change


def beside(w: Workshop, name: str, content: str) -> Path:
    """A training folder with a side file of its first training image."""
    w.write(f"data/train/{name}", content)
    return w.data()


def one_slice(labels: np.ndarray) -> None:
    labels[:2], labels[3:] = 0, 0


def datalist(w: Workshop, content: Any) -> Path:
    return w.write("list.json", content if isinstance(content, str) else json.dumps(content))


def zarr(w: Workshop, zarray: str) -> Path:
    w.write("vol.zarr/.zarray", zarray)
    w.write("vol.zarr/0.0.0", b"\x00" * 7)
    return w.folder / "vol.zarr"


def group(w: Workshop, content: str, name: str = ".zgroup") -> Path:
    return w.write(f"vol.zarr/{name}", content).parent


def shifted(w: Workshop) -> Path:
    folder = w.data(suffix=".nii.gz")
    affine = np.diag([0.5, 0.5, 1.0, 1.0])
    affine[:3, 3] = 40
    w.nifti("data/train/a_label.nii.gz", w.labels(), affine)
    return folder


PLAIN = '"compressor": null, "fill_value": 0, "filters": null'
ZARRAY = '{"zarr_format": 2, "shape": [8, 24, 28], "chunks": [8, 24, 28], "dtype": "<u2", "order": "C", %s}'
READING = [
    Case("truncated nii", lambda w: predict(w.cut(w.nifti("a.nii", w.volume()))), ("a.nii", "damaged")),
    Case("truncated nii.gz", lambda w: predict(w.cut(w.nifti("a.nii.gz", w.volume()))), ("a.nii.gz", "damaged")),
    Case(
        "nii.gz without its last bytes", lambda w: predict(w.cut(w.nifti("a.nii.gz", w.volume()), 0.99)), ("a.nii.gz",)
    ),
    Case("nii cut inside its header", lambda w: predict(w.cut(w.nifti("a.nii", w.volume()), 0.005)), ("a.nii",)),
    Case("zero-byte nii.gz", lambda w: predict(w.write("a.nii.gz", "")), ("a.nii.gz", "empty")),
    Case("text as nii.gz", lambda w: predict(w.write("a.nii.gz", "no image" * 99)), ("a.nii.gz", "NIfTI")),
    Case("TIFF as nii.gz", lambda w: predict(moved(good(w), "a.nii.gz")), ("a.nii.gz", "NIfTI")),
    Case("NIfTI as tif", lambda w: predict(moved(w.nifti("a.nii", w.volume()), "a.tif")), ("a.tif", "TIFF")),
    Case("NIfTI as png", lambda w: predict(moved(w.nifti("a.nii", w.volume()), "a.png")), ("a.png", "cannot be read")),
    Case("truncated tif", lambda w: predict(w.cut(good(w))), ("good.tif", "damaged")),
    Case("tif cut inside its header", lambda w: predict(w.cut(good(w), 0.01)), ("good.tif",)),
    Case("zero-byte tif", lambda w: predict(w.write("a.tif", "")), ("a.tif", "empty")),
    Case("tif of a header only", lambda w: predict(w.write("a.tif", b"II*\0\0\0\0\0")), ("a.tif", "TIFF")),
    Case("text as tif", lambda w: predict(w.write("a.tif", "no image" * 99)), ("a.tif", "TIFF")),
    Case("web page as nrrd", lambda w: predict(w.write("a.nrrd", "<html></html>")), ("a.nrrd", "cannot be read")),
    Case("truncated png", lambda w: train(truncated_png(w), "--config", w.flat()), ("a_raw.png", "cannot be read")),
    Case("unknown format", lambda w: predict(w.write("a.xyz", "abc")), ("a.xyz", "cannot be read")),
    Case("empty zarr folder", lambda w: predict(made(w.folder / "vol.zarr")), ("vol.zarr",)),
    Case("zero-byte zarr metadata", lambda w: predict(zarr(w, "")), ("vol.zarr",)),
    Case("truncated zarr metadata", lambda w: predict(zarr(w, ZARRAY[:40])), ("vol.zarr",)),
    Case("truncated zarr chunk", lambda w: predict(zarr(w, ZARRAY % PLAIN)), ("vol.zarr",)),
    Case(
        "zarr filled with what no number of 16 bits is",
        lambda w: predict(zarr(w, ZARRAY % PLAIN.replace("0", "9" * 30))),
        ("vol.zarr",),
    ),
    Case("zarr of text", lambda w: predict(zarr(w, ZARRAY.replace("<u2", "<U4") % PLAIN)), ("vol.zarr",)),
    Case("zarr group without images", lambda w: predict(group(w, '{"zarr_format": 2}')), ("vol.zarr",)),
    Case("damaged zarr 3 metadata", lambda w: predict(group(w, '{"zarr_for', "zarr.json")), ("vol.zarr",)),
    Case("file named zarr", lambda w: predict(w.write("vol.zarr", "abc")), ("vol.zarr",)),
    Case("truncated datalist", lambda w: predict(datalist(w, '{"testing": [')), ("list.json", "datalist")),
    Case("zero-byte datalist", lambda w: predict(datalist(w, "")), ("list.json", "datalist")),
    Case("datalist that is a list", lambda w: predict(datalist(w, [1, 2])), ("list.json", "testing")),
    Case("datalist of numbers", lambda w: predict(datalist(w, {"testing": [1]})), ("list.json", "names no image")),
    Case("datalist that is a number", lambda w: predict(datalist(w, {"testing": 3})), ("list.json",)),
    Case("datalist of a missing file", lambda w: predict(datalist(w, {"testing": ["x.tif"]})), ("list.json", "x.tif")),
    Case("tif as datalist", lambda w: predict(moved(good(w), "list.json")), ("list.json", "datalist")),
    Case("NaN", lambda w: predict(w.tif("a.tif", with_voxel(w, np.nan))), ("a.tif", "1 of 5376 voxels", "NaN")),
    Case("infinity", lambda w: predict(w.nifti("a.nii", with_voxel(w, np.inf))), ("a.nii", "infinite")),
    Case("constant", lambda w: predict(w.tif("a.tif", np.full(SHAPE, 7, np.uint8))), ("a.tif", "every voxel is 7")),
    Case("all zero", lambda w: predict(w.tif("a.tif", np.zeros(SHAPE, np.uint8))), ("a.tif", "every voxel is 0")),
    Case("complex numbers", lambda w: predict(w.nifti("a.nii", w.volume() * (1 + 1j))), ("a.nii", "complex")),
    Case("one slice in 3D", lambda w: predict(w.nifti("a.nii", w.volume((1, 24, 28)))), ("a.nii", "one slice", "2D")),
    Case("2D image in 3D", lambda w: predict(w.tif("a.tif", w.volume((24, 28)))), ("a.tif", "2D")),
    Case("stack in 2D", lambda w: train(w.data(), "--config", w.flat()), ("a_raw.tif", "stack")),
    Case("RGB where gray is expected", lambda w: predict(rgb(w)), ("rgb.tif", "3 channels", "in_channels")),
    Case(
        "gray where RGB is expected",
        lambda w: train(w.data(), "--in_channels", "3"),
        ("in_channels is 3", "1 channel:"),
    ),
    Case("time series", lambda w: predict(series(w)), ("time.tif", "3 time points", "--time")),
    Case("several images in one tif", lambda w: predict(several(w)), ("many.tif", "2 separate images")),
    Case("singular affine", lambda w: predict(singular(w)), ("a.nii", "affine", "singular")),
    Case("axes that do not fit", lambda w: predict(good(w), "--axes", "TCZYX"), ("good.tif", "TCZYX")),
    Case("axes named twice", lambda w: predict(good(w), "--axes", "ZZX"), ("good.tif", "ZZX")),
]
PATHS = [
    Case("missing file", lambda w: predict(w.folder / "no.tif"), ("no.tif", "check the path")),
    Case("pattern without match", lambda w: predict(w.folder / "*.tif"), ("*.tif",)),
    Case("folder without images", lambda w: predict(made(w.folder / "none")), ("none", "no image")),
    Case("folder named as a file", lambda w: predict(made(w.folder / "a.tif")), ("a.tif",)),
    Case("folder among the files of a datalist", lambda w: predict(listed_folder(w)), ("list.json", "a.tif")),
    Case("link to nothing", lambda w: predict(linked(w, "a.tif", "gone.tif")), ("a.tif",)),
    Case("link to itself", lambda w: predict(linked(w, "a.tif", "a.tif")), ("a.tif",)),
    Case("two images of one name", lambda w: predict(twins(w)), ("share the name", "good")),
    Case("unreadable file", lambda w: predict(locked(good(w))), ("good.tif", "Permission denied"), True),
    Case("unreadable folder", lambda w: predict(locked_folder(w)), ("shut", "Permission denied"), True),
    Case(
        "read-only output",
        lambda w: predict(good(w), "--output", locked(made(w.folder / "ro"), 0o555)),
        ("ro", "written"),
        True,
        bundle="own",
    ),
    Case(
        "output below a file",
        lambda w: predict(good(w), "--output", w.write("f", "x") / "out"),
        ("f", "written"),
        bundle="own",
    ),
    Case(
        "training into a file", lambda w: train(w.data(), "--output", w.write("f", "x")), ("f", "written"), bundle="own"
    ),
    Case(
        "training into a read-only folder",
        lambda w: train(w.data(), "--output", locked(made(w.folder / "ro"), 0o555)),
        ("ro", "written"),
        True,
        bundle="own",
    ),
]
LABELS = [
    Case(
        "interpolated labels",
        lambda w: train(w.data(label=ids(w, np.float32, lambda a: a / 3))),
        ("a_label.tif", "0.33"),
    ),
    Case("NaN in labels", lambda w: train(w.data(label=ids(w, np.float32, setting(np.nan)))), ("a_label.tif", "NaN")),
    Case("negative ids", lambda w: train(w.data(label=ids(w, np.int16, setting(-7)))), ("a_label.tif", "-7")),
    Case(
        "id above 2^31",
        lambda w: train(w.data(label=ids(w, np.uint32, setting(2**31 + 5)))),
        ("a_label.tif", "2147483653"),
    ),
    Case(
        "binary mask",
        lambda w: train(w.data(label=ids(w, np.uint8, lambda a: (a > 0).astype(np.uint8)))),
        ("a_label.tif", "binary"),
    ),
    Case("no object", lambda w: train(w.data(label=np.zeros(SHAPE, np.uint8))), ("a_label.tif", "no annotated object")),
    Case(
        "no object in validation",
        lambda w: train(w.data(label=np.zeros(SHAPE, np.uint8), split="val")),
        ("val/a_label.tif",),
    ),
    Case("RGB labels", lambda w: train(w.data(label=np.stack([w.labels()] * 3, 1))), ("a_label.tif",)),
    Case("other shape", lambda w: train(w.data(label=w.labels((8, 24, 27)))), ("a_label.tif", "(8, 24, 27)")),
    Case(
        "other axis order", lambda w: train(w.data(label=w.labels().transpose(2, 1, 0))), ("a_label.tif", "transposed")
    ),
    Case("other affine", lambda w: train(shifted(w)), ("a_label.nii.gz", "affine")),
    Case("truncated labels", lambda w: train(cut_label(w)), ("a_label.tif", "damaged")),
    Case("NaN in a training image", lambda w: train(w.data(image=with_voxel(w, np.nan))), ("a_raw.tif", "NaN")),
    Case(
        "NaN in a validation image",
        lambda w: train(w.data(image=with_voxel(w, np.nan), split="val")),
        ("val/a_raw.tif", "NaN"),
    ),
    Case(
        "one slice of each object",
        lambda w: train(w.data(label=ids(w, np.uint8, one_slice))),
        ("a_label.tif", "looks like slices", "--annotation slices"),
    ),
    Case(
        "unknown kind of annotation",
        lambda w: train(beside(w, "a_annotation.csv", "id,kind,state\n1,outline,checked\n")),
        ("a_annotation.csv", "row 2", "'outline'", "whole, slices, strokes, points"),
    ),
    Case(
        "an object twice in the ledger",
        lambda w: train(beside(w, "a_annotation.csv", "id,kind,state\n1,whole,checked\n1,slices,checked\n")),
        ("a_annotation.csv", "row 3", "id 1"),
    ),
    Case(
        "point outside of the image",
        lambda w: train(beside(w, "a_points.csv", "z,y,x\n1,2,99\n"), "--diameter", "8"),
        ("a_points.csv", "row 2", "1, 2, 99", "8 x 24 x 28"),
    ),
    Case(
        "mask of another shape",
        lambda w: train(beside(w, "a_complete.csv", "y_start,x_start,y_stop,x_stop\n1,1,5,5\n")),
        ("a_complete.csv", "z_start"),
    ),
    Case("missing label", lambda w: train(without(w.data(), "train/a_label.tif")), ("a_raw.tif", "no label")),
    Case("missing image", lambda w: train(without(w.data(), "train/a_raw.tif")), ("a_label.tif", "no image")),
    Case("two labels of one name", lambda w: train(second_label(w)), ("a_label", "share the name")),
    Case("no training folder", lambda w: train(made(w.folder / "none")), ("none", "train")),
    Case("empty validation folder", lambda w: train(empty_validation(w)), ("data/val", "no image named")),
    Case("missing data folder", lambda w: train(w.folder / "gone"), ("gone",)),
    Case(
        "datalist without labels",
        lambda w: train(datalist(w, {"training": [{"image": str(good(w))}]})),
        ("list.json", "no label"),
    ),
    Case("endings that do not differ", lambda w: train(w.data(), "--label_ending", "_raw"), ("_raw", "differ")),
    Case(
        "evaluation of the wrong shape",
        lambda w: ["evaluate", w.data(label=w.labels((8, 24, 27)), split="val")],
        ("a_label.tif",),
    ),
]
SETTINGS = [
    ("misspelled id", ["--max_epoch", "3"], ("--max_epoch", "did you mean --max_epochs")),
    ("misspelled nested id", ["--loss#delta_vra", "3"], ("loss#delta_vra", "did you mean --loss#delta_var")),
    ("id below a plain value", ["--spatial_dims#x", "3"], ("spatial_dims",), False, "monai"),
    ("place beyond a list", ["--train#handlers#99", "3"], ("train#handlers#99",), False, "monai"),
    ("text for a number", ["--batch_size", "many"], ("--batch_size", "'many'", "whole number")),
    ("fraction for a whole number", ["--batch_size", "2.5"], ("--batch_size", "2.5")),
    ("batch of none", ["--batch_size", "0"], ("--batch_size", "at least 1")),
    ("negative learning rate", ["--learning_rate", "-1"], ("--learning_rate", "-1")),
    ("text for a switch", ["--objectness", "maybe"], ("--objectness", "True or False")),
    ("more than all objects", ["--keep_fraction", "2"], ("--keep_fraction", "2")),
    ("momentum of 1", ["--momentum", "1"], ("--momentum", "below 1")),
    ("four dimensions", ["--spatial_dims", "4"], ("--spatial_dims", "2 or 3")),
    ("crop of two axes in 3D", ["--crop_size", "[8,8]"], ("[8, 8]",)),
    ("text for a crop", ["--crop_size", "big"], ("--crop_size", "'big'")),
    ("empty crop", ["--crop_size", "[0,8,8]"], ("--crop_size", "at least 1")),
    ("negative spacing", ["--spacing", "[1,-1,1]"], ("--spacing", "[1, -1, 1]")),
    ("spacing of two axes", ["--spacing", "[1,1]"], ("spacing", "[1, 1]")),
    ("dropout above 1", ["--dropout", "1.5"], ("--dropout", "1.5")),
    ("argument that a component refuses", ["--optimizer#lr", "-1"], ("AdamW", "-1")),
    ("no epoch", ["--max_epochs", "0"], ("--max_epochs", "at least 1")),
    ("unknown precision", ["--precision", "half"], ("--precision", "bfloat16")),
    ("unknown supervision", ["--supervision", "full"], ("--supervision", "sparse")),
    ("too few strides", ["--strides", "[[1,2,2],2,2]"], ("strides", "2 channels")),
    ("strides of two axes in 3D", ["--strides", "[[2,2]]"], ("strides", "[2, 2]")),
    ("even kernel", ["--kernel_sizes", "[2,3]"], ("--kernel_sizes", "odd")),
    ("unknown normalization", ["--norm", "bach"], ("norm", "bach")),
    ("negative seed", ["--seed", "-1"], ("--seed", "-1")),
    ("negative workers", ["--num_workers", "-2"], ("--num_workers", "-2")),
    ("coordinates of two axes in 3D", ["--coordinate_channels", "2"], ("coordinate_channels", "0 or 3")),
    ("no such device", ["--device", "abacus"], ("--device", "abacus")),
    ("unknown clustering", ["--clustering#method", "magic"], ("magic", "density_peaks")),
    ("unknown overlay", ["--config", "3d"], ("3d", "nonspatial"), False, "monai"),
    ("missing pretrained weights", ["--pretrained", "gone.pt"], ("gone.pt", "no such weights")),
    ("missing checkpoint", ["--resume", "gone.pt"], ("gone.pt", "no such checkpoint")),
    ("nothing to resume", ["--resume"], ("last.pt", "no such checkpoint")),
]
OVERLAYS = [
    ("truncated overlay", '{"batch_size": ', ("own.json", "not a JSON config"), False, "monai"),
    ("zero-byte overlay", "", ("own.json", "not a JSON config"), False, "monai"),
    ("binary overlay", b"\xff\xfe\x00\x01", ("own.json", "not a JSON config"), False, "monai"),
    ("overlay that is a list", [1, 2], ("own.json", "list"), False, "monai"),
    (
        "misspelled id in an overlay",
        {"batch_siz": 4},
        ("own.json", "batch_siz", "did you mean batch_size"),
        False,
        "own",
    ),
    ("wrong type in an overlay", {"batch_size": "4"}, ("own.json", "batch_size", "'4'"), False, "own"),
    ("reference to nothing", {"learning_rate": "@batch_sise"}, ("learning_rate", "@batch_sise", "@batch_size")),
    ("expression that fails", {"learning_rate": "$1 / 0"}, ("1 / 0", "division by zero")),
]
CONFIGS = [
    *(Case(name, lambda w, o=options: train(w.sample, *o), *rest) for name, options, *rest in SETTINGS),
    *(
        Case(name, lambda w, c=content: train(w.sample, "--config", w.config(c)), *rest)
        for name, content, *rest in OVERLAYS
    ),
    Case(
        "window smaller than its halo",
        lambda w: predict(good(w), "--window_size", "4", "--window_halo", "4"),
        ("roi_size",),
    ),
    Case(
        "threshold above 1", lambda w: predict(good(w), "--objectness_threshold", "2"), ("--objectness_threshold", "2")
    ),
    Case("unknown network to predict with", lambda w: predict(good(w), "--weights", "best"), ("--weights", "student")),
    Case(
        "misspelled id of prediction", lambda w: predict(good(w), "--window_sise", "9"), ("did you mean --window_size",)
    ),
    Case(
        "id of training in prediction",
        lambda w: predict(good(w), "--max_epochs", "9"),
        ("--max_epochs",),
        bundle="accepts",
    ),
    Case("parameter of another clustering", lambda w: predict(good(w), "--clustering#linkage", "9"), ("linkage",)),
]
CHECKPOINTS = [
    Case(
        "model of another network", lambda w: predict(good(w), "--channels", "[4,6]"), ("model.pt", "another network")
    ),
    Case("truncated model", lambda w: predict(good(w), "--model", cut_model(w)), ("model.pt", "truncated")),
    Case("zero-byte model", lambda w: predict(good(w), "--model", w.model(model_pt=b"")), ("model.pt",)),
    Case("text as model", lambda w: predict(good(w), "--model", w.model(model_pt=b"weights")), ("model.pt",)),
    Case("model that runs code", lambda w: predict(good(w), "--model", w.model(model_pt=w.pickle())), ("model.pt",)),
    Case(
        "torch file that runs code",
        lambda w: predict(good(w), "--model", w.model(model_pt=w.torch_pickle())),
        ("model.pt",),
    ),
    Case(
        "list as model",
        lambda w: predict(good(w), "--model", w.model(model_pt=saved(w, [1, 2]))),
        ("model.pt", "state dict"),
    ),
    Case(
        "training checkpoint as model",
        lambda w: predict(good(w), "--model", w.model(model_pt=(w.trained / "last.pt").read_bytes())),
        ("model.pt",),
    ),
    Case(
        "broken model.json",
        lambda w: predict(good(w), "--model", w.model(model_json=b'{"spatial')),
        ("model.json", "JSON"),
        bundle="monai",
    ),
    Case(
        "missing model", lambda w: predict(good(w), "--model", w.folder / "gone"), ("gone", "model.pt"), bundle="monai"
    ),
    Case(
        "truncated checkpoint",
        lambda w: train(w.sample, "--resume", w.cut(copied(w, "last.pt"))),
        ("last.pt", "previous"),
    ),
    Case(
        "checkpoint that runs code",
        lambda w: train(w.sample, "--resume", w.write("evil.pt", w.torch_pickle())),
        ("evil.pt", "tensors"),
    ),
    Case(
        "weights as checkpoint",
        lambda w: train(w.sample, "--resume", copied(w, "model.pt")),
        ("model.pt", "not a training checkpoint"),
    ),
    Case(
        "checkpoint of another network",
        lambda w: train(w.sample, "--resume", copied(w, "last.pt"), "--channels", "[4,6]"),
        ("last.pt", "network", "fit"),
    ),
    Case(
        "checkpoint of other iterations",
        lambda w: train(w.sample, "--resume", copied(w, "last.pt"), "--iterations_per_epoch", "5"),
        ("last.pt", "5"),
    ),
    Case(
        "pretrained weights that run code",
        lambda w: train(w.sample, "--pretrained", w.write("evil.pt", w.torch_pickle())),
        ("evil.pt",),
    ),
    Case(
        "pretrained weights of another network",
        lambda w: train(w.sample, "--pretrained", copied(w, "model.pt"), "--channels", "[4,6]"),
        ("model.pt", "another network"),
    ),
]
FAMILIES = (READING, PATHS, LABELS, CONFIGS, CHECKPOINTS)
CASES = [case for family in FAMILIES for case in family]


def rgb(w: Workshop) -> Path:
    return w.tif(
        "rgb.tif", np.stack([w.volume()] * 3, -1).astype(np.uint8), photometric="rgb", metadata={"axes": "ZYXS"}
    )


def series(w: Workshop) -> Path:
    return w.tif("time.tif", np.stack([w.volume()] * 3), ome=True, metadata={"axes": "TZYX"})


def several(w: Workshop) -> Path:
    path = w.folder / "many.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(w.volume(), photometric="minisblack")
        tif.write(w.volume()[:4, :10], photometric="minisblack")
    return path


def singular(w: Workshop) -> Path:
    path = w.nifti("a.nii", w.volume())
    content = bytearray(path.read_bytes())
    content[280:328] = bytes(48)  # the three rows of the sform
    path.write_bytes(content)
    return path


def truncated_png(w: Workshop) -> Path:
    for part in ("train", "val"):
        made(w.folder / "flat" / part)
        for end in ("raw", "label"):
            Image.fromarray(w.volume((60, 60)).astype(np.uint8)).save(w.folder / "flat" / part / f"a_{end}.png")
    w.cut(w.folder / "flat" / "train" / "a_raw.png", 0.5)
    return w.folder / "flat"


def listed_folder(w: Workshop) -> Path:
    made(w.folder / "a.tif")
    return datalist(w, {"testing": ["a.tif"]})


def twins(w: Workshop) -> Path:
    good(w)
    w.nifti("good.nii.gz", w.volume())
    return w.folder


def locked_folder(w: Workshop) -> Path:
    folder = w.tif("shut/a.tif", w.volume()).parent
    return locked(folder)


def cut_label(w: Workshop) -> Path:
    folder = w.data()
    w.cut(folder / "train" / "a_label.tif")
    return folder


def second_label(w: Workshop) -> Path:
    folder = w.data()
    w.nifti("data/train/a_label.nii.gz", w.labels())
    return folder


def empty_validation(w: Workshop) -> Path:
    folder = w.data()
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    return folder


def cut_model(w: Workshop) -> Path:
    folder = w.model()
    w.cut(folder / "model.pt")
    return folder


def copied(w: Workshop, name: str) -> Path:
    return Path(shutil.copy(w.trained / name, w.folder / name))


def saved(w: Workshop, content: Any) -> bytes:
    path = w.folder / "any.pt"
    torch.save(content, path)
    return path.read_bytes()
