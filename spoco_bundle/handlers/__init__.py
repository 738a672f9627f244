"""Event handlers: what happens around the iterations of training and evaluation."""

from spoco_bundle.handlers.best_weights import BestWeights
from spoco_bundle.handlers.checkpoint import TrainingCheckpoint
from spoco_bundle.handlers.clustering import InstanceClusteringHandler
from spoco_bundle.handlers.early_stopping import EarlyStopping
from spoco_bundle.handlers.embedding_colours import EmbeddingColours
from spoco_bundle.handlers.held_out_scores import HeldOutScores
from spoco_bundle.handlers.instance_metric import InstanceMetric
from spoco_bundle.handlers.picture_files import PictureFilesHandler
from spoco_bundle.handlers.preparation import CoordinateScale, LoadWeights, ScoreBefore
from spoco_bundle.handlers.progress import TrainingProgress
from spoco_bundle.handlers.scores import ScoresHandler
from spoco_bundle.handlers.second_network import SecondNetwork
from spoco_bundle.handlers.tensorboard import LossTermsHandler
from spoco_bundle.handlers.tensorboard_pictures import PicturesHandler
from spoco_bundle.handlers.time_budget import TimeBudget

__all__ = [
    "BestWeights",
    "CoordinateScale",
    "EarlyStopping",
    "EmbeddingColours",
    "HeldOutScores",
    "InstanceClusteringHandler",
    "InstanceMetric",
    "LoadWeights",
    "LossTermsHandler",
    "PictureFilesHandler",
    "PicturesHandler",
    "ScoreBefore",
    "ScoresHandler",
    "SecondNetwork",
    "TimeBudget",
    "TrainingCheckpoint",
    "TrainingProgress",
]
