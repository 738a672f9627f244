"""What runs networks: the Ignite engines of training and evaluation, and the search of clustering parameters."""

from spoco_bundle.engines.evaluator import BatchEvaluator
from spoco_bundle.engines.trainer import SpocoTrainer
from spoco_bundle.engines.tuner import ClusteringTuner

__all__ = ["BatchEvaluator", "ClusteringTuner", "SpocoTrainer"]
