"""Where the embeddings of a block come from: the network, or a file of embeddings computed before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spoco_bundle.blockwise.grid import Block
from spoco_bundle.blockwise.working import WorkingImage
from spoco_bundle.core.boxes import within
from spoco_bundle.formats.lazy import LazyVolume


@dataclass
class NetworkEmbedder:
    """Reads a block with its halo as the network sees it, and runs the network.

    Attributes:
        image: what is read.
        networks: entry of the sample to network, ``pred`` and, where two networks have to agree, ``second_pred``.
        inferer: a ``HaloWindowInferer``.
        bright: with the background rule "otsu", the threshold of the normalised image; None otherwise.
    """

    image: WorkingImage
    networks: dict[str, torch.nn.Module]
    inferer: Any
    bright: float | None = None

    def __call__(self, block: Block) -> dict[str, torch.Tensor]:
        """Raw outputs (E, *block.label) by entry, and the mask ``foreground`` where there is a threshold.

        Raises:
            SpocoError: if the image holds values that are not finite.
        """
        image = self.image.read(block.read)
        keep = within(block.label, block.read)
        outputs = {key: self.inferer.part(image[None], keep, network)[0] for key, network in self.networks.items()}
        if self.bright is not None:
            outputs["foreground"] = image[(slice(None), *keep)].mean(0, keepdim=True) > self.bright
        return outputs


@dataclass
class StoredEmbedder:
    """Reads embeddings (and, as their last channel, the objectness logit) from a file instead of computing them.

    Attributes:
        source: an image whose channels are the network's output, coordinates not added.
    """

    source: LazyVolume

    def __call__(self, block: Block) -> dict[str, torch.Tensor]:
        """The stored values (E, *block.label) as entry ``pred``."""
        return {"pred": torch.from_numpy(np.ascontiguousarray(self.source.read(block.label), dtype=np.float32))}
