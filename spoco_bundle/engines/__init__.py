"""The Ignite engine that trains the student and moves the teacher."""

from spoco_bundle.engines.trainer import SpocoTrainer

__all__ = ["SpocoTrainer"]
