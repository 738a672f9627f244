"""Window inference whose result equals that of the whole volume: windows on the stride grid, halos cut off."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type

from spoco_bundle.blockwise.grid import choose_window
from spoco_bundle.blockwise.memory import available_memory, window_voxels
from spoco_bundle.core.boxes import region_shape, whole_region, within
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.per_axis import per_axis
from spoco_bundle.core.plain_tensors import plain
from spoco_bundle.core.precision import uses_bfloat16
from spoco_bundle.core.progress import Progress


class Window(NamedTuple):
    """A window along one axis, in voxels: [start, stop) is read, its core [core_start, core_stop) written."""

    start: int
    stop: int
    core_start: int
    core_stop: int


def windows_along_axis(size: int, window: int, halo: int, multiple: int) -> list[Window]:
    """Lays windows of one size over an axis so that their cores tile it.

    Starts are multiples of ``multiple``, so that a strided network sees the same grid in every window. A core keeps at
    least ``halo`` voxels from every cut face of its window; the faces of the volume itself are no cuts.

    Args:
        size: voxels of the axis, a multiple of ``multiple``.
        window: voxels of a window with its halos; rounded up to a multiple.
        halo: voxels discarded on either side.
        multiple: stride of the network along this axis.

    Returns:
        Windows in ascending order; a single one of the size of the axis where that fits into a window.

    Raises:
        SpocoError: if the halos leave no core.
    """
    window = -(-window // multiple) * multiple
    if size <= window:
        return [Window(0, size, 0, size)]
    step = (window - 2 * halo) // multiple * multiple
    if step < multiple:
        raise SpocoError(
            f"window_size (roi_size): a window of {window} voxels with a halo of {halo} on either side and a network "
            f"stride of {multiple} leaves no core; make it at least {2 * halo + multiple} there"
        )
    last = size - window
    starts = [*range(0, last, step), last]
    edges = [0, *(start + halo for start in starts[1:]), size]
    return [Window(start, start + window, *core) for start, core in zip(starts, itertools.pairwise(edges))]


class HaloWindowInferer(Inferer):
    """Runs a network over a volume in windows and stitches the raw outputs, without blending them.

    Embeddings of different windows must not be averaged, so every voxel comes from one window, in which it lies at
    least a halo away from any cut. With a halo of at least the network's receptive radius, and normalisation that does
    not look at the whole input (batch norm in evaluation mode), the result equals that of the whole volume in one pass.
    Smaller halos trade exactness for speed. The volume is padded at its far ends to a multiple of the stride and the
    result cropped back, in windows and in one pass alike.

    Args:
        roi_size: voxels of a window per axis, halos included; one int serves all axes. None chooses the windows of at
            most ``window_voxels`` that cost the least arithmetic.
        halo: voxels cut off on every inner face of a window, per axis or one int; None reads
            ``network.receptive_radius``.
        stride_multiple: total stride of the network per axis, or one int; None reads ``network.total_stride``.
        sw_batch_size: windows per call of the network.
        window_voxels: of a window that is chosen, at most; fewer where half of the free memory is used up before.
        padding_mode: of the padding to the stride: "reflect", "symmetric" or "edge".
        sw_device: where the network runs; None leaves windows on the device of the input.
        device: where the stitched output is kept; None takes the device of the input.
        progress: whether to show a progress bar over the windows.
        precision: of the network, see ``uses_bfloat16``; the result is float32 in any case. In bfloat16 it is faster,
            and windows of another size give slightly other values.

    Raises:
        SpocoError: if an argument is out of range or its length does not fit the volume, if the halos leave no core,
            or if the network does not tell its stride or receptive radius and none is given.
    """

    def __init__(
        self,
        roi_size: int | Sequence[int] | None = None,
        halo: int | Sequence[int] | None = None,
        stride_multiple: int | Sequence[int] | None = None,
        sw_batch_size: int = 1,
        window_voxels: float = 32_000_000,
        padding_mode: str = "reflect",
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        precision: str = "float32",
    ):
        if padding_mode not in ("reflect", "symmetric", "edge"):
            raise SpocoError(f"padding_mode: expected 'reflect', 'symmetric' or 'edge', got {padding_mode!r}")
        if sw_batch_size < 1:
            raise SpocoError(f"sw_batch_size: expected at least 1, got {sw_batch_size}")
        self.roi_size = roi_size
        self.halo = halo
        self.stride_multiple = stride_multiple
        self.sw_batch_size = sw_batch_size
        self.window_voxels = window_voxels
        self.padding_mode = padding_mode
        self.sw_device = sw_device
        self.device = device
        self.progress = progress
        self.precision = precision
        self._looked: list[tuple[Callable, torch.Tensor, torch.Tensor]] = []

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Runs the network.

        Args:
            inputs: (B, C, *spatial), 2D or 3D, of any size.
            network: maps (B, C, *window) to one tensor (B, E, *window).
            args: passed on to the network.
            kwargs: passed on to the network.

        Returns:
            (B, E, *spatial) in the dtype of the network's output; a MetaTensor where the input is one.
        """
        for seen_by, seen, result in self._looked:
            same = seen_by is network and not (args or kwargs) and seen.device == inputs.device
            if same and torch.equal(seen, plain(inputs)):
                self._looked = []
                return convert_to_dst_type(result, inputs, dtype=result.dtype, device=result.device)[0]
        return self.part(inputs, whole_region(inputs.shape[2:]), network, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_looked": []}  # workers have no use for them

    def look(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor]) -> torch.Tensor:
        """As a call, for something small that may be asked for again: the next call takes the result if it can."""
        earlier = self._looked
        result = self(inputs, network)
        self._looked = [*earlier, (network, plain(inputs), result)]
        return result

    def part(
        self,
        inputs: torch.Tensor,
        keep: Sequence[slice],
        network: Callable[..., torch.Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Runs the network where it is needed for a part of the input, and holds no more than that part's result.

        Args:
            inputs: (B, C, *spatial), as for a call.
            keep: the part, a slice with start and stop per spatial axis.
            network: as for a call.
            args: passed on to the network.
            kwargs: passed on to the network.

        Returns:
            (B, E, *keep), the same values as that part of the result of a call.
        """
        self._looked = []
        run_on = torch.device(self.sw_device or inputs.device)
        shape = inputs.shape[2:]
        halo, multiples = self.halo_of(network, len(shape)), self.multiples_of(network, len(shape))
        padded = _pad_to_multiple(inputs, multiples, self.padding_mode)
        sizes = padded.shape[2:]
        half = uses_bfloat16(self.precision, run_on, sizes, multiples)
        if self.roi_size is None:
            most = self._affordable_voxels(network, run_on)
            roi_size = choose_window(region_shape(keep), sizes, halo, multiples, most)
        else:
            roi_size = per_axis("roi_size", self.roi_size, len(shape), least=1)
        axes = [
            [window for window in windows_along_axis(*axis) if _common(window, part)]
            for part, *axis in zip(keep, sizes, roi_size, halo, multiples)
        ]
        tasks = list(itertools.product(range(len(inputs)), itertools.product(*axes)))
        output: torch.Tensor | None = None
        quiet = not self.progress or len(tasks) == 1
        with Progress("windows", len(tasks), inner=True, quiet=quiet) as progress:
            for first in range(0, len(tasks), self.sw_batch_size):
                chunk = tasks[first : first + self.sw_batch_size]
                batch = torch.cat([padded[(slice(b, b + 1), slice(None), *map(_read, window))] for b, window in chunk])
                with torch.autocast(run_on.type, torch.bfloat16) if half else nullcontext():
                    result = plain(network(batch.to(run_on), *args, **kwargs))
                result = result.float() if half else result
                if output is None:
                    size = (len(inputs), result.shape[1], *region_shape(keep))
                    output = torch.empty(size, dtype=result.dtype, device=self.device or inputs.device)
                for (item, window), values in zip(chunk, result):
                    # the far padding is dropped here: no part reaches beyond the volume
                    cores = [_common(axis, part) for axis, part in zip(window, keep)]
                    source = values[(slice(None), *within(cores, map(_read, window)))]
                    output[(item, slice(None), *within(cores, keep))] = source.to(output.device)
                progress.update(len(chunk))
        return convert_to_dst_type(output, inputs, dtype=output.dtype, device=output.device)[0]

    def _affordable_voxels(self, network: Callable[..., torch.Tensor], device: torch.device) -> float:
        """Voxels of a window that is chosen; of a network that does not tell its width, as many as are allowed."""
        head = getattr(getattr(network, "module", network), "head", None)
        if head is None:
            return self.window_voxels
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
        return window_voxels(self.window_voxels, free, head.in_channels)

    def halo_of(self, network: Callable[..., torch.Tensor], dims: int) -> tuple[int, ...]:
        """Voxels per axis cut off on every inner face of a window."""
        return _given_or_told("halo", self.halo, network, "receptive_radius", dims, least=0)

    def multiples_of(self, network: Callable[..., torch.Tensor], dims: int) -> tuple[int, ...]:
        """Total stride of the network per axis."""
        return _given_or_told("stride_multiple", self.stride_multiple, network, "total_stride", dims, least=1)


def _given_or_told(
    name: str, value: int | Sequence[int] | None, network: Callable, attribute: str, dims: int, least: int
) -> tuple[int, ...]:
    """The argument where it is given, else what the network says of itself."""
    if value is not None:
        return per_axis(name, value, dims, least)
    inner = getattr(network, "module", network)
    told = getattr(inner, attribute, None)
    if told is None:
        raise SpocoError(f"{name}: {type(inner).__name__} has no attribute {attribute}; give it in voxels per axis")
    return per_axis(f"network.{attribute}", told, dims, least)


def _pad_to_multiple(volume: torch.Tensor, multiples: Sequence[int], mode: str) -> torch.Tensor:
    """Pads (B, C, *spatial) at the far ends; by index, so that an axis may be shorter than its padding."""
    volume = plain(volume)
    for axis, multiple in enumerate(multiples, start=2):
        size = volume.shape[axis]
        if size % multiple:
            source = np.pad(np.arange(size), (0, -size % multiple), mode=mode)
            volume = volume.index_select(axis, torch.as_tensor(source, device=volume.device))
    return volume


def _read(window: Window) -> slice:
    return slice(window.start, window.stop)


def _common(window: Window, part: slice) -> slice | None:
    """What a window's core and a part have in common; None where that is nothing."""
    start, stop = max(window.core_start, part.start), min(window.core_stop, part.stop)
    return slice(start, stop) if start < stop else None
