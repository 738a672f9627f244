"""The loss terms and their weighted sum."""

from spoco_bundle.losses.spoco import SpocoLoss

__all__ = ["SpocoLoss"]
