"""How well a model keeps its scores when images are brighter, dimmer, noisier, unevenly lit or turned around.

    python scripts/robustness.py bbbc050 --spacing 1.75 0.8 0.8
    python scripts/robustness.py dsb2018
    python scripts/robustness.py dsb2018 --card docs/measurements/robustness.md  # table there

Every image of val/ is changed, written as OME-TIFF with its axes and spacing to a temporary folder, and scored there as
`spoco evaluate` does, once per change. The table says what the scores lose against the unchanged images.

What the changes act on: light that fades (illumination, attenuation with depth) scales the intensity above the
background, percentile 1 of the image, as a lamp does in front of a camera whose dark level stays; rows marked "of all"
scale the background too. Gamma acts on the range from minimum to maximum. Noise is estimated from the finest diagonal
wavelet coefficients of each image, most of which lie in its background, and Gaussian noise of sqrt(3) times as much is
added, so that the total doubles; noise that grows with the signal is not told apart. Results are stored as float32
unless the row says otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tifffile
import torch
from measuring import check_page, processor, replace_table
from numpy.lib.stride_tricks import sliding_window_view
from one_line import one_line_errors

from spoco_bundle.app.config import find_config, shipped_weights
from spoco_bundle.cli import Spoco
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import build_datalist, image_name, stored_dimensions
from spoco_bundle.formats import read_image, write_instances
from spoco_bundle.formats.geometry import Image

UNCHANGED = "unchanged"
SCORES = {"ap_50": "AP50", "sbd": "SBD"}

#: high-pass filter of Daubechies' wavelet with two vanishing moments: blind to constants and ramps, of norm 1
WAVELET = np.array([1 - 3**0.5, -(3 - 3**0.5), 3 + 3**0.5, -(1 + 3**0.5)]) / (4 * 2**0.5)
#: median of the absolute value of a standard normal variable
NORMAL_MEDIAN = 0.6744897501960817


@dataclass(frozen=True)
class Change:
    """One way to change an image.

    Attributes:
        apply: takes an image (C, *spatial) float64 and a random generator, returns one of the same shape in the type
            that it is stored in.
        allowed: most that a score may lose; None where nothing is asked.
        flipped_axis: spatial axis along which the labels turn with the image.
    """

    apply: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    allowed: float | None
    flipped_axis: int | None = None


def rescaled(image: np.ndarray, _: np.random.Generator, factor: float) -> np.ndarray:
    """The image times a factor."""
    return (factor * image).astype(np.float32)


def rescaled_to_integers(image: np.ndarray, _: np.random.Generator, factor: float) -> np.ndarray:
    """The image times a factor, rounded to the whole numbers of an uint16 file."""
    return np.clip(np.rint(factor * image), 0, 2**16 - 1).astype(np.uint16)


def shifted(image: np.ndarray, _: np.random.Generator, share: float) -> np.ndarray:
    """The image plus a share of its range."""
    return (image + share * np.ptp(image)).astype(np.float32)


def as_uint8(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Minimum to maximum on 0 to 255, rounded."""
    return np.rint(255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)


def as_float32(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Minimum to maximum on 0 to 1."""
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def flipped(image: np.ndarray, _: np.random.Generator, axis: int) -> np.ndarray:
    """The image turned around along a spatial axis."""
    return np.flip(image, axis + 1).astype(np.float32)


def gamma(image: np.ndarray, _: np.random.Generator, exponent: float) -> np.ndarray:
    """Minimum to maximum on 0 to 1, to the power of an exponent, and back."""
    low, width = image.min(), np.ptp(image)
    return (low + width * ((image - low) / width) ** exponent).astype(np.float32)


def faded(image: np.ndarray, _: np.random.Generator, axis: int, of_all: bool = False) -> np.ndarray:
    """Light falling linearly from 1 at the first plane across a spatial axis to 0.5 at the last one.

    Args:
        image: (C, *spatial).
        axis: spatial axis.
        of_all: whether the background fades too; otherwise what lies above percentile 1 of the image.
    """
    background = 0.0 if of_all else np.percentile(image, 1)
    shape = [1] * image.ndim
    shape[axis + 1] = -1
    light = np.linspace(1, 0.5, image.shape[axis + 1]).reshape(shape)
    return (background + light * (image - background)).astype(np.float32)


def noisier(image: np.ndarray, generator: np.random.Generator, times: float) -> np.ndarray:
    """Gaussian noise added until there is so many times the noise that each channel has."""
    added = [np.sqrt(times**2 - 1) * noise_level(channel) for channel in image]
    return np.stack([c + generator.normal(0, s, c.shape) for c, s in zip(image, added, strict=True)]).astype(np.float32)


def noise_level(channel: np.ndarray) -> float:
    """Standard deviation of the noise of an image (*spatial), from the median of its finest diagonal details.

    Donoho and Johnstone's estimate. Zeros are left out: they are where an image was clipped or padded.
    """
    details = np.asarray(channel, dtype=np.float64)
    for axis, size in enumerate(channel.shape):
        if size >= len(WAVELET):
            details = sliding_window_view(details, len(WAVELET), axis) @ WAVELET
    sizes = np.abs(details[np.abs(details) > 1e-9 * max(np.ptp(channel), 1e-300)])
    return float(np.median(sizes) / NORMAL_MEDIAN) if sizes.size else 0.0


def changes(spatial_dims: int) -> dict[str, Change]:
    """All changes by name, with what a score may lose."""
    axes = dict(enumerate("zyx"[-spatial_dims:]))
    table = {
        "x0.1": Change(partial(rescaled, factor=0.1), 0.05),
        "x10": Change(partial(rescaled, factor=10), 0.05),
        "offset by 20% of the range": Change(partial(shifted, share=0.2), 0.05),
        "stored as uint8, minimum to maximum on 0 to 255": Change(as_uint8, 0.05),
        "stored as float32, minimum to maximum on 0 to 1": Change(as_float32, 0.05),
    }
    for axis, name in axes.items():
        table[f"flipped along {name}"] = Change(partial(flipped, axis=axis), 0.05, axis)
    table |= {
        "gamma 0.7": Change(partial(gamma, exponent=0.7), 0.1),
        "gamma 1.4": Change(partial(gamma, exponent=1.4), 0.1),
    }
    for axis, name in axes.items():
        what = "attenuation to 50% along z" if name == "z" else f"illumination falling to 50% along {name}"
        table[what] = Change(partial(faded, axis=axis), 0.1)
    table["doubled noise"] = Change(partial(noisier, times=2), 0.1)
    for axis, name in axes.items():
        what = "attenuation" if name == "z" else "illumination"
        table[f"{what} of all, along {name}"] = Change(partial(faded, axis=axis, of_all=True), 0.1)
    table["x0.1, rounded to whole numbers"] = Change(partial(rescaled_to_integers, factor=0.1), None)
    return table


def write_changed(data: Path, change: Change, target: Path, spatial_dims: int, spacing: list[float] | None) -> None:
    """Writes the changed images and labels of val/ to the val/ of another folder.

    Args:
        data: folder with val/.
        change: what is done to every image; the n-th image gets the same noise in every run.
        target: folder to write to.
        spatial_dims: 2 or 3.
        spacing: where the files do not state it.
    """
    (target / "val").mkdir(parents=True)
    for number, pair in enumerate(build_datalist(data, "val")):
        raw = target / "val" / f"{image_name(pair['image']).removesuffix('_raw')}_raw.ome.tif"
        image = read_image(pair["image"], "image", spatial_dims, spacing=spacing)
        label = read_image(pair["label"], "label", spatial_dims, spacing=spacing).array[0]
        if change.flipped_axis is not None:
            label = np.flip(label, change.flipped_axis)
        array = change.apply(image.array.astype(np.float64), np.random.default_rng(number))
        _write(raw, array, image)
        write_instances(raw.with_name(raw.name.replace("_raw.ome.tif", "_label.ome.tif")), label, like=raw)


def _write(path: Path, array: np.ndarray, like: Image) -> None:
    """Writes an array (C, *spatial) as OME-TIFF with the spacing of a volume."""
    axes = "ZYX"[1 - array.ndim :]
    metadata = {"axes": "C" + axes if len(array) > 1 else axes}
    if like.spacing is not None:
        for axis, step in zip(axes, like.spacing, strict=True):
            metadata |= {f"PhysicalSize{axis}": step, f"PhysicalSize{axis}Unit": "µm"}
    stored = array if len(array) > 1 else array[0]
    tifffile.imwrite(path, np.ascontiguousarray(stored), ome=True, photometric="minisblack", metadata=metadata)


def scores(data: Path, model: str, spacing: list[float] | None, diameter: float | None) -> dict[str, float]:
    """Pooled scores of `spoco evaluate` on completely annotated images."""
    handlers = json.loads(find_config("evaluate").read_text())["validate#handlers"]
    pictures = next(n for n, handler in enumerate(handlers) if handler["_target_"].endswith("PictureFilesHandler"))
    options = {"partly_labelled": False, f"validate#handlers#{pictures}#max_images": 0}
    options |= {"spacing": spacing} if spacing else {}
    options |= {"diameter": diameter} if diameter else {}
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        Spoco().evaluate(str(data), output=folder, model=model, **options)
        return json.loads((Path(folder) / "scores.json").read_text())


def row(name: str, found: dict[str, float], base: dict[str, float], allowed: float | None) -> str:
    """A line of the table; kept where neither score loses more than allowed."""
    gains = [found[key] - base[key] for key in SCORES]
    columns = [name, *(f"{found[key]:.3f}" for key in SCORES)]
    columns += [f"{gain:+.3f}" if abs(gain) >= 0.0005 else "0.000" for gain in gains]
    if allowed is None:
        columns += ["", ""]
    else:
        columns += [f"{allowed:.2f}", "yes" if -min(gains) <= allowed else "**no**"]
    return f"| {' | '.join(columns)} |"


def circumstances(weights: Path) -> str:
    """Which weights were scored, and on what."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    return f"SHA-256 of the weights {digest}...; {processor()}, torch {torch.__version__}."


@one_line_errors()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with val/, completely annotated")
    parser.add_argument("--model", default="", help="folder that `spoco train` wrote; by default the shipped model")
    parser.add_argument("--spacing", type=float, nargs="+", help="voxel size, where the files do not say it")
    parser.add_argument("--diameter", type=float, help="pixels across an object; without it they are measured")
    parser.add_argument("--only", nargs="+", help="names of changes, or the beginnings of names")
    parser.add_argument("--card", type=Path, help="page in which the table of this folder's name is replaced")
    arguments = parser.parse_args()
    if arguments.only and arguments.card:
        parser.error("--only with --card would leave a page with part of the table; give one of them")
    mark = f"robustness: {arguments.data.resolve().name}"
    check_page(arguments.card, mark)
    spatial_dims = stored_dimensions(build_datalist(arguments.data, "val"))
    weights = Path(arguments.model) if arguments.model else shipped_weights(spatial_dims)
    settings = arguments.model, arguments.spacing, arguments.diameter
    chosen = {
        name: change
        for name, change in changes(spatial_dims).items()
        if arguments.only is None or name.startswith(tuple(arguments.only))
    }
    if not chosen:
        known = ", ".join(changes(spatial_dims))
        raise SpocoError(f"--only {' '.join(arguments.only)}: no change begins so; there are {known}")
    base = scores(arguments.data, *settings)
    lines = [
        "| change | AP50 | SBD | difference of AP50 | of SBD | may lose | kept |",
        "|---|---|---|---|---|---|---|",
        row(UNCHANGED, base, base, None),
    ]
    print("\n".join(lines), flush=True)
    for name, change in chosen.items():
        with TemporaryDirectory() as folder:
            write_changed(arguments.data, change, Path(folder), spatial_dims, arguments.spacing)
            lines.append(row(name, scores(Path(folder), *settings), base, change.allowed))
        print(lines[-1], flush=True)
    lines += ["", circumstances(weights / "model.pt")]
    print(lines[-1])
    if arguments.card:
        replace_table(arguments.card, mark, "\n".join(lines))


if __name__ == "__main__":
    main()
