"""Clustering during an evaluation."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from monai.data import decollate_batch
from monai.engines.utils import IterationEvents

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.transforms.clustering import ClusterEmbeddingsd

EVENTS = {"model_completed": IterationEvents.MODEL_COMPLETED, "iteration_completed": Events.ITERATION_COMPLETED}


class InstanceClusteringHandler:
    """Replaces the network's output by instance labels in every iteration of an evaluator.

    The output becomes a list with one dictionary per sample, as MONAI's metrics and savers take it.

    Args:
        event: "model_completed" (before metrics) or "iteration_completed".
        arguments: those of ``ClusterEmbeddingsd``.

    Raises:
        SpocoError: if the event has another name.
    """

    def __init__(self, event: str = "model_completed", **arguments: Any):
        if event not in EVENTS:
            raise SpocoError(f"event {event!r} is unknown: choose one of {', '.join(EVENTS)}")
        self.event = EVENTS[event]
        self.transform = ClusterEmbeddingsd(**arguments)

    def attach(self, engine: Engine) -> None:
        """Runs the clustering at the chosen event."""
        engine.add_event_handler(self.event, self)

    def __call__(self, engine: Engine) -> None:
        """Clusters every sample of the engine's output."""
        output = engine.state.output
        samples = output if isinstance(output, list) else decollate_batch(output)
        engine.state.output = [self.transform(sample) for sample in samples]
