"""The embedding network, its momentum teacher, and how weights are loaded."""

from spoco_bundle.networks.decode import Decoder
from spoco_bundle.networks.embedding_unet import EmbeddingUNet
from spoco_bundle.networks.momentum_teacher import MomentumTeacher
from spoco_bundle.networks.weights import load_weights, weights_file

__all__ = ["Decoder", "EmbeddingUNet", "MomentumTeacher", "load_weights", "weights_file"]
