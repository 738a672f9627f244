"""U-Net that gives every voxel an embedding vector."""

import math
from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from torch import nn

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.per_axis import per_axis
from spoco_bundle.networks.lengths import with_length_unit

# TorchScript reads the annotations of this file, so they stay evaluated: no postponed annotations here.


class EmbeddingUNet(nn.Module):
    """U-Net (Ronneberger et al. 2015, Çiçek et al. 2016) with a linear head, in 2D or 3D.

    Each level is a few convolutions with normalisation and activation. Downsampling is a strided convolution;
    upsampling is nearest neighbour followed by a convolution, because transposed convolutions print a checkerboard into
    the embeddings. Strides and kernels are given per level, so that the first levels can leave a coarse axis alone.

    The network is translation-equivariant on the grid of its total stride: coordinates are never added inside it. What
    has to travel with the weights for that later step are three buffers: ``coordinate_scale`` and ``training_spacing``
    (per axis in z, y, x), 0 while unset, and ``length_unit``, which says what both are measured in (see
    ``networks.lengths``).

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        out_channels: channels of the output: embedding channels, plus one for the objectness logit where it is used.
        channels: feature channels per level, from the full resolution down.
        strides: stride of each step down, one per level after the first; an int or one int per axis (z, y, x).
        kernel_sizes: odd kernel size of each level; an int or one int per axis.
        convolutions: convolutions per level, on the way down and again on the way up; an int or one int per level.
            One at the full resolution saves much of the time.
        norm: normalisation of MONAI's ``Convolution``: "batch", "instance", ("group", {...}) or None.
        act: activation of MONAI's ``Convolution``.
        dropout: dropout probability after each convolution, in [0, 1).

    Raises:
        SpocoError: if the lengths of channels, strides, kernel_sizes and convolutions do not fit together, or a kernel
            is even.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 9,
        channels: Sequence[int] = (8, 16, 32, 64),
        strides: Sequence[int | Sequence[int]] = ((1, 2, 2), (2, 2, 2), (2, 2, 2)),
        kernel_sizes: Sequence[int | Sequence[int]] = ((1, 3, 3), 3, 3, 3),
        convolutions: int | Sequence[int] = (1, 2, 2, 2),
        norm: str | tuple | None = "batch",
        act: str | tuple = "relu",
        dropout: float = 0.0,
    ):
        super().__init__()
        levels = len(channels)
        repeats = (convolutions,) * levels if isinstance(convolutions, int) else tuple(convolutions)
        if len(strides) != levels - 1 or len(kernel_sizes) != levels or len(repeats) != levels:
            raise SpocoError(
                f"{levels} channels ask for {levels - 1} strides, {levels} kernel_sizes and {levels} convolutions, "
                f"got {len(strides)}, {len(kernel_sizes)} and {len(repeats)}: give as many"
            )
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        step = [per_axis("strides", s, spatial_dims, 1) for s in strides]
        kernel = [per_axis("kernel_sizes", k, spatial_dims, 1) for k in kernel_sizes]
        if any(k % 2 == 0 for axes in kernel for k in axes):
            raise SpocoError(f"kernel_sizes must be odd, got {kernel_sizes}: give odd ones")
        #: product of the strides per axis: windows whose origin and size are multiples of it see the same grid
        self.total_stride = tuple(math.prod(s[axis] for s in step) for axis in range(spatial_dims))
        #: voxels per axis beyond which an input voxel cannot reach an output voxel
        self.receptive_radius = receptive_radius(step, kernel, repeats)

        def conv(cin: int, cout: int, level: int, stride: Sequence[int] = (1,) * spatial_dims) -> nn.Module:
            return Convolution(
                spatial_dims,
                cin,
                cout,
                strides=stride,
                kernel_size=kernel[level],
                act=act,
                norm=norm,
                dropout=dropout or None,
                bias=norm is None,
            )

        def block(cin: int, level: int, stride: Sequence[int] = (1,) * spatial_dims) -> nn.Module:
            width = channels[level]
            first = conv(cin, width, level, stride)
            return nn.Sequential(first, *(conv(width, width, level) for _ in range(repeats[level] - 1)))

        self.down = nn.ModuleList([block(in_channels, 0)])
        for level in range(1, levels):
            self.down.append(block(channels[level - 1], level, step[level - 1]))
        self.up = nn.ModuleList()
        self.fuse = nn.ModuleList()
        for level in range(levels - 2, -1, -1):
            self.up.append(nn.Upsample(scale_factor=tuple(float(s) for s in step[level]), mode="nearest"))
            self.fuse.append(block(channels[level + 1] + channels[level], level))
        head = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
        self.head = head(channels[0], out_channels, kernel_size=1)
        # processors and GPUs convolve fastest where the channels of a voxel lie side by side
        self.to(memory_format=torch.channels_last_3d if spatial_dims == 3 else torch.channels_last)
        self.register_buffer("coordinate_scale", torch.zeros(()))
        self.register_buffer("training_spacing", torch.zeros(spatial_dims))
        self.register_buffer("length_unit", torch.zeros((), dtype=torch.long))

    def _load_from_state_dict(self, state_dict, prefix, *args):  # noqa: ANN001, ANN002, ANN202 (torch's own hook)
        super()._load_from_state_dict(with_length_unit(state_dict, prefix), prefix, *args)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Embeds an image.

        Args:
            image: (B, in_channels, *spatial), any size.

        Returns:
            (B, out_channels, *spatial), unbounded.
        """
        skips: list[torch.Tensor] = []
        x = image
        for block in self.down:
            x = block(x)
            skips.append(x)
        level = len(skips) - 1
        for upsample, fuse in zip(self.up, self.fuse):
            level -= 1
            skip = skips[level]
            x = upsample(x)
            # an odd size was rounded up on the way down; cropping keeps both grids aligned
            for axis in range(2, skip.dim()):
                x = x.narrow(axis, 0, skip.size(axis))
            x = fuse(torch.cat([skip, x], dim=1))
        return self.head(x)


def receptive_radius(
    step: Sequence[Sequence[int]], kernel: Sequence[Sequence[int]], repeats: Sequence[int]
) -> tuple[int, ...]:
    """Sums the reach of every convolution on the longest path, in voxels of the input."""
    radius = []
    for axis in range(len(kernel[0])):
        scale, reach = 1, 0
        for level, size in enumerate(kernel):
            half = size[axis] // 2
            ways = 1 if level == len(kernel) - 1 else 2  # down, and up again
            convolutions = ways * repeats[level]
            if level > 0:
                reach += half * scale  # the strided convolution reads the finer grid
                convolutions -= 1
                scale *= step[level - 1][axis]
                reach += scale - 1  # nearest upsampling shifts by at most that
            reach += convolutions * half * scale
        radius.append(reach)
    return tuple(radius)
