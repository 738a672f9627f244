"""The Ignite engines of training and evaluation."""

from spoco_bundle.engines.evaluator import BatchEvaluator
from spoco_bundle.engines.trainer import SpocoTrainer

__all__ = ["BatchEvaluator", "SpocoTrainer"]
