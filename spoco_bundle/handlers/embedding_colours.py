"""The embedding of each predicted image in colours, for viewers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events

from spoco_bundle.core.atomic_files import atomic_write
from spoco_bundle.dataset.datalist import image_name
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
    """

    def __init__(self, output_dir: str):
        self.output_dir = Path(output_dir)

    def attach(self, engine: Engine) -> None:
        """Writes after each iteration."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Writes the colours of the images of one iteration."""
        for sample in engine.state.output:
            name = image_name(str(sample["image"].meta["filename_or_obj"]))
            with atomic_write(self.output_dir / f"{name}{EMBEDDING_ENDING}") as path, path.open("wb") as file:
                np.save(file, (255 * embedding_colours(sample["pred_field"])).round().astype(np.uint8))
