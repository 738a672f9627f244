"""The embedding of each predicted image in colours, for viewers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor, decollate_batch
from monai.engines.utils import IterationEvents

from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.core.embedding_space import add_coordinates
from spoco_bundle.dataset.datalist import image_name
from spoco_bundle.formats.geometry import voxel_spacing
from spoco_bundle.report.pictures import embedding_colours

#: put behind the name of an image; no image reader takes the file for another image
EMBEDDING_ENDING = "_embedding.npy"


class EmbeddingColours:
    """Writes ``NAME_embedding.npy`` (*spatial, 3) of uint8 for each image: its embedding in PCA colours.

    The colours are those of the vectors that are clustered, coordinates added, so that an object has one colour; they
    are the darker the less the network sees an object there. They lie on the grid of the network's input, which is the
    image's unless ``target_spacing`` is set.

    Args:
        output_dir: folder of the files.
        channels: of the network's output, the first ones, which are the embedding.
        network: the network, which knows the coordinate scale.
        coordinate_channels: channels that coordinates are added to, 0 for none.
        objectness: whether the last channel of the output is the objectness.
    """

    def __init__(
        self,
        output_dir: str,
        channels: int,
        network: torch.nn.Module,
        coordinate_channels: int = 0,
        objectness: bool = False,
    ):
        self.output_dir = Path(output_dir)
        self.channels = channels
        self.network = network
        self.coordinate_channels = coordinate_channels
        self.objectness = objectness

    def attach(self, engine: Engine) -> None:
        """Runs right after the network, before post-processing puts labels in place of its output."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Writes the colours of the images of one iteration."""
        for image, output in zip(decollate_batch(engine.state.output["image"]), engine.state.output["pred"]):
            values = torch.as_tensor(output).float().cpu()
            name = image_name(str(image.meta["filename_or_obj"]))
            with atomic_write(self.output_dir / f"{name}{EMBEDDING_ENDING}") as path, path.open("wb") as file:
                np.save(file, (255 * self._colours(values, image)).round().astype(np.uint8))

    def _colours(self, output: torch.Tensor, image: MetaTensor) -> np.ndarray:
        placed = place_embedding(output[: self.channels], image, self.network, self.coordinate_channels)
        return shown_colours(placed, output[-1] if self.objectness else None)


def place_embedding(
    embedding: torch.Tensor, image: MetaTensor, network: torch.nn.Module, coordinate_channels: int
) -> torch.Tensor:
    """Embeddings (E, *spatial) as they are clustered: with the coordinates of their image (1, *spatial)."""
    if not coordinate_channels:
        return embedding
    spacing = voxel_spacing(image, embedding.ndim - 1)
    return add_coordinates(embedding[None], spacing, float(network.coordinate_scale))[0]


def shown_colours(embedding: torch.Tensor, logit: torch.Tensor | None) -> np.ndarray:
    """PCA colours (*spatial, 3) in [0, 1] of embeddings (E, *spatial), dark where the objectness is low."""
    colours = embedding_colours(np.asarray(embedding))
    return colours if logit is None else colours * torch.sigmoid(logit).numpy()[..., None]
