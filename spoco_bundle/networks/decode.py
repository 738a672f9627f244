"""Takes the network's output apart: embeddings with their coordinates, and the objectness.

The network and all windows give raw outputs (embedding channels, then the objectness logit). Coordinates of
semi-convolutional embeddings (Novotny et al., ECCV 2018) are added here and nowhere else: for a batch that is learned
from by `Decoder.place`, for a volume that is looked at or clustered by `Decoder.field`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spoco_bundle.core.embedding_field import EmbeddingField
from spoco_bundle.core.embedding_space import add_coordinates
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.plain_tensors import plain


class Decoder:
    """What the channels of a network's output mean.

    Args:
        coordinate_channels: number of leading channels that vote for the object's centre: the spatial axes, or 0.
        objectness: whether the last channel is the objectness logit.
        network: network whose buffer ``coordinate_scale`` travels with the weights, read at every call.
        coordinate_scale: length that is 1 in the embedding space; None takes the network's.

    Raises:
        SpocoError: when called, if coordinates are asked for and no scale is known, or the axes do not fit.
    """

    def __init__(
        self,
        coordinate_channels: int = 0,
        objectness: bool = False,
        network: nn.Module | None = None,
        coordinate_scale: float | None = None,
    ) -> None:
        self.coordinate_channels = coordinate_channels
        self.objectness = objectness
        self.network = network
        self.coordinate_scale = coordinate_scale

    @property
    def scale(self) -> float | None:
        """Length that is 1 in the embedding space; None where embeddings carry no coordinates."""
        if not self.coordinate_channels:
            return None
        if self.coordinate_scale is not None:
            return float(self.coordinate_scale)
        scale = float(getattr(self.network, "coordinate_scale", 0.0))
        if scale <= 0:
            raise SpocoError(
                "coordinate_scale: neither the network's weights nor the argument say it; set coordinate_scale to a "
                "length near the objects' radius, in the unit of the image's spacing"
            )
        return scale

    def place(self, output: Tensor, spacing: Tensor | Sequence[float]) -> Tensor:
        """Outputs of a batch with coordinates on their first channels, differentiable.

        Args:
            output: (B, C, *spatial) raw output, the objectness logit, if any, as the last channel.
            spacing: voxel size per axis, D numbers or (B, D).

        Returns:
            (B, C, *spatial) float32.
        """
        scale = self.scale
        return output.float() if scale is None else add_coordinates(output.float(), spacing, scale)

    def field(
        self,
        output: Tensor,
        spacing: Sequence[float],
        origin: Sequence[float] | None = None,
        second: Tensor | None = None,
    ) -> EmbeddingField:
        """What the output says of one volume; nothing is copied but the objectness.

        Args:
            output: (C, *spatial) raw output.
            spacing: voxel size per axis.
            origin: index of the first voxel in the whole volume, for a block of it.
            second: raw output of a second network.
        """
        output = plain(torch.as_tensor(output))
        other = None if second is None else self.field(second, spacing, origin)
        embeddings = output[:-1] if self.objectness else output
        axes = embeddings.ndim - 1
        if self.coordinate_channels not in (0, axes):
            raise SpocoError(f"coordinate_channels is {self.coordinate_channels}: give 0 or {axes}, one per axis")
        return EmbeddingField(
            embeddings,
            objectness=torch.sigmoid(output[-1].float()) if self.objectness else None,
            spacing=spacing,
            scale=self.scale,
            origin=origin,
            second=other,
        )
