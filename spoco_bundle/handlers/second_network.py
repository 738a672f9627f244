"""Embeddings of a second network beside the first one's, for clustering and confidence by their agreement."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer


class SecondNetwork:
    """Runs a second network (the student beside the teacher) on each image of an evaluation.

    Its raw output goes beside the first one's into the evaluator's output as ``second_pred``, where
    ``ClusterEmbeddingsd`` finds it by its ``teacher_key``.

    Args:
        network: the second network, its weights loaded by a ``LoadWeights`` of its own.
        inferer: the inferer of the evaluation.
    """

    def __init__(self, network: torch.nn.Module, inferer: Inferer):
        self.network = network
        self.inferer = inferer

    def attach(self, engine: Engine) -> None:
        """Runs right after the first network, before post-processing."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        """Embeds the images of one iteration."""
        self.network.eval()
        engine.state.output["second_pred"] = self.inferer(engine.state.output["image"], self.network)
