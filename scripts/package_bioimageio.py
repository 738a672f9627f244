"""Writes a trained network as a BioImage.IO model package (format 0.5), which its validator accepts without a network.

    pip install "spoco-bundle[bioimageio]"
    python scripts/package_bioimageio.py nuclei.zip                      # the weights in models/
    python scripts/package_bioimageio.py mine.zip --model mymodel --name "My cells"

The package holds the network as TorchScript and as ONNX, a test input of raw intensities with the embeddings that the
network gives for it, documentation, a cover, citations and the licence. The percentile normalisation is part of the
description, so programs feed raw images. What comes out are embeddings; the package's documentation shows how this
bundle makes objects of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from bioimageio.spec import ValidationContext, save_bioimageio_package
from bioimageio.spec.model import v0_5 as spec
from monai.bundle import ConfigParser
from monai.networks.utils import convert_to_onnx
from one_line import one_line_errors
from PIL import Image

from spoco_bundle import __version__
from spoco_bundle.app.config import find_config, read_configs, shipped_weights
from spoco_bundle.app.model_config import model_overlay
from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.synthetic import synthetic_volume
from spoco_bundle.networks import EmbeddingUNet, load_weights
from spoco_bundle.report.pictures import embedding_colours, gray
from spoco_bundle.transforms import NormalizePercentiled

OPSET = 20
PAPER = "Wolny, A., Yu, Q., Pape, C., Kreshuk, A.: Sparse object-level supervision for instance segmentation with pixel"
PAPER += " embeddings. CVPR 2022."
DOCUMENTATION = """# {name}

{description}

Label 0 of the training images means "not annotated". The network was trained with the SPOCO bundle for MONAI, version
{version}.

## Input

`image`: raw intensities, {channels} channel(s), axes {axes}. Percentiles {lower} and {upper} become 0 and 1. Voxels
of the training images: {spacing}. An image of other voxels needs resampling first.

## Output

`embeddings`: {embedding_channels} channels of an embedding{logit}. These are not objects yet. Once the
voxels' positions in {unit}s over the coordinate scale {scale:.4g} are added to the first channels, voxels of one object
lie close together:

```python
import numpy as np
import torch

from spoco_bundle.clustering import cluster_embeddings
from spoco_bundle.core.embedding_space import add_coordinates

output = torch.from_numpy(np.load("test_output.npy"))
objectness = output[0, {embedding_channels}].sigmoid()
embeddings = add_coordinates(output[:, :{embedding_channels}], {spacing_list}, {scale:.6g})[0]
labels = cluster_embeddings(
    embeddings, coordinate_channels={dims}, objectness=objectness, objectness_threshold={threshold}, merge_distance=2.0
)
```

## Validation

The test output is what the PyTorch network computes; TorchScript and ONNX agree with it within 0.001. Scores of the
weights that come with the bundle stand in its documentation. Look at the result on a few of your own images before you
count on it.
"""


def test_image(channels: int, shape: tuple[int, ...]) -> np.ndarray:
    """An artificial image of nuclei, (1, channels, *shape) float32 raw intensities; the same at every call."""
    depth = shape if len(shape) == 3 else (24, *shape)
    volume, _ = synthetic_volume(np.random.default_rng(0), depth)
    image = volume if len(shape) == 3 else volume[12]
    return np.repeat(image[None, None].astype(np.float32), channels, axis=1)


def write_cover(image: np.ndarray, embeddings: np.ndarray, path: Path) -> None:
    """Image and embedding colours side by side, the middle plane of a volume."""
    if image.ndim == 4:
        image, embeddings = image[:, image.shape[1] // 2], embeddings[:, embeddings.shape[1] // 2]
    picture = np.concatenate([gray(image), embedding_colours(EmbeddingField(embeddings))], axis=1)
    size = (512, 512 * image.shape[1] // (2 * image.shape[2]))
    Image.fromarray((255 * picture).astype(np.uint8)).resize(size, Image.Resampling.NEAREST).save(path)


def write_package(target: Path, model: str = "", name: str = "", unit: str = "micrometer") -> None:
    """Writes the package.

    Args:
        target: zip archive to write.
        model: folder that `spoco train` wrote; empty for the weights that come with the bundle.
        name: of the model; by default made of its number of axes.
        unit: of the lengths in the training's files.

    Raises:
        SpocoError: if the folder holds no model, the network has no coordinate channels, or it was trained on inverted
            images.
    """
    parser = read_configs([find_config("inference"), *model_overlay(model)], {})
    weights = (Path(model) if model else shipped_weights(3)) / "model.pt"
    network = load_weights(parser.get_parsed_content("network_def"), weights).eval()
    ids = {key: parser.get_parsed_content(key) for key in ("coordinate_channels", "objectness", "embedding_channels")}
    if not ids["coordinate_channels"] or not ids["objectness"] or float(network.coordinate_scale) == 0:
        raise SpocoError(f"{weights}: a network without coordinates or objectness cannot be described; train another")
    if parser.get_parsed_content("invert"):
        raise SpocoError(f"{weights}: trained with invert, which cannot be described; invert the images, train again")
    name = name or f"SPOCO instance embeddings {network.spatial_dims}D"
    with tempfile.TemporaryDirectory() as folder:
        with ValidationContext(perform_io_checks=False, root=Path(folder)):
            description = describe(Path(folder), network, parser, name, unit)
        with atomic_write(target) as path:
            save_bioimageio_package(description, output_path=path)


def describe(folder: Path, network: EmbeddingUNet, parser: ConfigParser, name: str, unit: str) -> spec.ModelDescr:
    """Writes the files of a package into a folder and returns the description that refers to them.

    Args:
        folder: empty folder.
        network: in evaluation mode.
        parser: configs that the network was made of.
        name: of the model.
        unit: of lengths.

    Returns:
        The description in the format 0.5.
    """
    dims, channels = network.spatial_dims, network.in_channels
    axes = "zyx"[-dims:]
    # what lies nearer to a cut than the network reaches must not be used; the smallest tile keeps one stride
    halo = [-(-reach // step) * step for reach, step in zip(network.receptive_radius, network.total_stride)]
    smallest = [2 * edge + step for edge, step in zip(halo, network.total_stride)]
    spacing = [float(length) for length in network.training_spacing]
    embedding_channels, threshold = (
        parser.get_parsed_content(i) for i in ("embedding_channels", "objectness_threshold")
    )
    normalize: NormalizePercentiled = parser.get_parsed_content("normalize")

    image = test_image(channels, tuple(smallest))
    normalized = normalize({"image": torch.from_numpy(image[0])})["image"][None]
    with torch.no_grad():
        output = network(normalized)
    np.save(folder / "test_input.npy", image)
    np.save(folder / "test_output.npy", output.numpy())
    write_cover(image[0], output[0].numpy(), folder / "cover.png")
    torch.jit.script(network).save(folder / "weights.pt")
    dynamic = {0: "batch", **{2 + index: axis for index, axis in enumerate(axes)}}
    exported = convert_to_onnx(
        network,
        [normalized],
        input_names=["image"],
        output_names=["embeddings"],
        opset_version=OPSET,
        dynamic_axes={"image": dynamic, "embeddings": dynamic},
        filename=str(folder / "exported.onnx"),
    )
    # the export keeps the weights in a file beside it; this one holds them itself
    onnx.save(exported, folder / "weights.onnx")
    metadata = json.loads((find_config("inference").parent / "metadata.json").read_text(encoding="utf-8"))
    description = (
        "Embeds every voxel of an image so that clustering gives its objects; trained from a few annotated ones."
    )
    (folder / "README.md").write_text(
        DOCUMENTATION.format(
            name=name,
            description=description,
            version=__version__,
            channels=channels,
            axes=", ".join(axes),
            lower=normalize.lower,
            upper=normalize.upper,
            spacing=" x ".join(f"{length:g}" for length in spacing) + f" {unit} ({', '.join(axes)})",
            embedding_channels=embedding_channels,
            logit=" and the logit of being inside an object",
            unit=unit,
            scale=float(network.coordinate_scale),
            spacing_list=[round(length, 6) for length in spacing],
            dims=dims,
            threshold=threshold,
        )
    )

    def space(kind, **per_axis):
        return [
            kind(id=spec.AxisId(axis), unit=unit, scale=length, **{key: value[i] for key, value in per_axis.items()})
            for i, (axis, length) in enumerate(zip(axes, spacing))
        ]

    sizes = [spec.ParameterizedSize(min=size, step=step) for size, step in zip(smallest, network.total_stride)]
    same = [spec.SizeReference(tensor_id=spec.TensorId("image"), axis_id=spec.AxisId(axis)) for axis in axes]
    scale_range = spec.ScaleRangeDescr(
        kwargs=spec.ScaleRangeKwargs(
            axes=[spec.AxisId(axis) for axis in axes], min_percentile=normalize.lower, max_percentile=normalize.upper
        )
    )
    names = [f"embedding{i}" for i in range(embedding_channels)] + ["objectness"]
    authors = [spec.Author(name=metadata["authors"])]
    return spec.ModelDescr(
        name=name,
        description=description,
        authors=authors,
        cite=[spec.CiteEntry(text=PAPER, url="https://arxiv.org/abs/2103.14572")],
        license="Apache-2.0",
        version=__version__,
        tags=["instance-segmentation", "embeddings", "sparse-annotations", f"{dims}d", "unet", "monai", "pytorch"],
        documentation=spec.FileDescr(source=folder / "README.md"),
        covers=[spec.FileDescr(source=folder / "cover.png")],
        inputs=[
            spec.InputTensorDescr(
                id=spec.TensorId("image"),
                description="raw intensities",
                axes=[
                    spec.BatchAxis(),
                    spec.ChannelAxis(channel_names=[f"intensity{i}" for i in range(channels)]),
                    *space(spec.SpaceInputAxis, size=sizes),
                ],
                test_tensor=spec.FileDescr(source=folder / "test_input.npy"),
                preprocessing=[scale_range],
            )
        ],
        outputs=[
            spec.OutputTensorDescr(
                id=spec.TensorId("embeddings"),
                description="embedding and objectness logit of every voxel, no objects yet",
                axes=[
                    spec.BatchAxis(),
                    spec.ChannelAxis(channel_names=names),
                    *space(spec.SpaceOutputAxisWithHalo, size=same, halo=halo),
                ],
                test_tensor=spec.FileDescr(source=folder / "test_output.npy"),
            )
        ],
        weights=spec.WeightsDescr(
            torchscript=spec.TorchscriptWeightsDescr(
                source=folder / "weights.pt", pytorch_version=torch.__version__.split("+")[0]
            ),
            onnx=spec.OnnxWeightsDescr(source=folder / "weights.onnx", opset_version=OPSET, parent="torchscript"),
        ),
    )


@one_line_errors()
def main() -> None:
    """Writes a package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="zip archive to write")
    parser.add_argument("--model", default="", help="folder that `spoco train` wrote; by default the bundle's weights")
    parser.add_argument("--name", default="", help="of the model")
    parser.add_argument("--unit", default="micrometer", help="of the lengths in the training's files")
    options = parser.parse_args()
    write_package(options.target, options.model, options.name, options.unit)
    print(f"{options.target}: {options.target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
