"""Feeds damaged files to the readers of images, labels, lists, configs and weights, for a bounded time.

Each input starts from a small valid file and is mutated under the guidance of coverage (atheris, libFuzzer). A reader
may accept it or raise a SpocoError; anything else ends the run with the input that caused it. Linux, Python 3.11 to
3.13.

    pip install --constraint constraints.txt --editable ".[fuzz]"
    python scripts/fuzz_readers.py --seconds 60
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["spoco_bundle.formats", "spoco_bundle.dataset", "spoco_bundle.app.config_checks", "nibabel", "tifffile"]
):
    import nibabel
    import tifffile

    from spoco_bundle.app.config import find_config, read_configs
    from spoco_bundle.app.config_checks import check_ids, shipped_ids
    from spoco_bundle.dataset import build_datalist
    from spoco_bundle.formats import read_image
    from spoco_bundle.formats.lazy import open_volume, stored_header

import numpy as np
import torch

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.handlers.checkpoint import load_checkpoint
from spoco_bundle.networks import EmbeddingUNet, load_weights

NETWORK = EmbeddingUNet(channels=(2, 2), strides=(1,), kernel_sizes=(1, 1), convolutions=1, out_channels=4)
SUFFIXES = {"nii": ".nii", "gz": ".nii.gz", "tif": ".tif", "zarr": ".zarr", "weights": ".pt"}
SUFFIXES |= {"list": ".json", "config": ".json"}


def seeds() -> dict[str, list[bytes]]:
    """Small valid files of each kind."""
    image = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    volume = nibabel.Nifti1Image(image.transpose(), np.eye(4)).to_bytes()
    tiffs = []
    for options in (
        {"metadata": None},
        {"metadata": {"axes": "ZYX"}, "compression": "zlib"},
        {"imagej": True, "metadata": {"axes": "ZYX", "spacing": 2.0, "unit": "um"}},
        {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.5}},
    ):
        stream = io.BytesIO()
        tifffile.imwrite(stream, image, photometric="minisblack", **options)
        tiffs.append(stream.getvalue())
    weights = io.BytesIO()
    torch.save(NETWORK.state_dict(), weights)
    lists = [{"training": [{"image": "a", "label": "b"}]}, {"testing": ["a.tif"]}]
    configs = [{"batch_size": 2, "network_def#dropout": 0.1}, {"spacing": [1, 2.5, 2], "learning_rate": "$1e-3 * 2"}]
    array = {"zarr_format": 2, "shape": [2, 3], "chunks": [2, 3], "dtype": "<u2", "order": "C", "fill_value": 0}
    array |= {"compressor": None, "filters": None}
    axes = [{"name": name, "type": "space"} for name in "yx"]
    scale = [{"type": "scale", "scale": [1, 1]}]
    image = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
    return {
        "zarr": [json.dumps(content).encode() for content in (array, {"multiscales": image})],
        "nii": [volume],
        "gz": [gzip.compress(volume, mtime=0)],
        "tif": tiffs,
        "list": [json.dumps(content).encode() for content in lists],
        "config": [json.dumps(content).encode() for content in configs],
        "weights": [weights.getvalue()],
    }


def read(kind: str, path: Path) -> None:
    """Reads a file the way the commands do."""
    if kind == "list":
        for split in ("train", "predict"):
            refused_or_fine(build_datalist, path, split)
    elif kind == "config":
        refused_or_fine(read_configs, [find_config("train"), path], {})
        refused_or_fine(check_file, path)
    elif kind == "zarr":
        for dims in (2, 3):
            refused_or_fine(open_volume, path, dims)
            refused_or_fine(open_volume, path.with_suffix(".ome.zarr"), dims)
    elif kind == "weights":
        refused_or_fine(load_weights, NETWORK, path)
        refused_or_fine(load_checkpoint, path)
    else:
        for dims in (2, 3):
            refused_or_fine(stored_header, path, dims)
            refused_or_fine(read_image, path, "image", dims)
            refused_or_fine(read_image, path, "label", dims)


def write_zarr(path: Path, metadata: bytes) -> None:
    """Makes an array with this metadata, and an image with it over a good array."""
    good = b'{"zarr_format":2,"shape":[2,3],"chunks":[2,3],"dtype":"<u2","order":"C","fill_value":0,"compressor":null'
    for folder, files in {
        path: {".zarray": metadata, "0.0": bytes(12)},
        path.with_suffix(".ome.zarr"): {".zgroup": b'{"zarr_format": 2}', ".zattrs": metadata},
        path.with_suffix(".ome.zarr") / "0": {".zarray": good + b',"filters":null}', "0.0": bytes(12)},
    }.items():
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)


def check_file(path: Path) -> None:
    """Checks overrides as a config file would hold them."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    if isinstance(content, dict):
        check_ids(content, shipped_ids(), "--")


def refused_or_fine(function, *arguments) -> None:
    """Calls a reader; a refusal has one line that is not empty."""
    try:
        function(*arguments)
    except SpocoError as error:
        if not str(error).strip():
            raise RuntimeError("a refusal without a reason") from error


def main() -> None:
    """Runs the fuzzer; exits with 0 if nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="time for all kinds of files together")
    parser.add_argument("--runs", type=int, default=-1, help="inputs, -1 for as many as the time allows")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations; 0 for another one each time")
    parser.add_argument("--artifacts", default=".", help="folder for an input that was found")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        kinds = sorted(SUFFIXES)
        for number, (_, contents) in enumerate(sorted(seeds().items())):
            for index, content in enumerate(contents):
                (corpus / f"{kinds[number]}{index}").write_bytes(bytes([number]) + content)

        def one_input(data: bytes) -> None:
            kind = kinds[data[0] % len(kinds)] if data else kinds[0]
            path = Path(folder) / f"input{SUFFIXES[kind]}"
            if kind == "zarr":
                write_zarr(path, data[1:])
            else:
                path.write_bytes(data[1:])
            read(kind, path)

        limits = [f"-max_total_time={options.seconds}", f"-runs={options.runs}", f"-seed={options.seed}"]
        limits += ["-max_len=16384", "-timeout=20", "-rss_limit_mb=4096", "-print_final_stats=1"]
        limits += [f"-artifact_prefix={options.artifacts}/"]
        atheris.Setup([sys.argv[0], *limits, str(corpus)], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
