"""How fast the shipped network goes over a volume, by how it is computed.

    python scripts/benchmark_network.py --page docs/measurements/speed.md
    python scripts/benchmark_network.py --threads 1 --shape 32 128 128

A row is the median of `--repeats` bare passes over one window of `--shape`, all in one process. The difference is the
norm of that of the outputs, relative to the norm of those in float32 with channels first. The last rows are windows
with a half and a quarter of the edges. `torch.compile` needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from benchmark_blockwise import shipped_network
from measuring import check_page, machine, show_table
from one_line import one_line_errors
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(network: nn.Module) -> nn.Module:
    """A copy with every batch normalisation in evaluation mode multiplied into the convolution before it."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if hasattr(module, "conv") and isinstance(getattr(module, "adn", None), nn.Module):
            module.conv = fuse_conv_bn_eval(module.conv, module.adn.N)
            module.adn.N = nn.Identity()
    return network


def ways(network: nn.Module) -> Iterator[tuple[str, Callable[[Tensor], Tensor], bool]]:
    """Name, function and whether it computes in bfloat16, of each way to go over a window."""
    first = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    for half, precision in ((False, "float32"), (True, "bfloat16")):
        yield f"{precision}, channels first", first, half
        yield f"{precision}, channels last", network, half
    yield "bfloat16, channels last, normalisation folded into convolutions", folded(network), True
    yield "bfloat16, channels last, `torch.compile`", torch.compile(network), True


def passes(way: Callable[[Tensor], Tensor], image: Tensor, half: bool, repeats: int) -> tuple[Tensor, float, float]:
    """Output, seconds of the first pass, and of a later one (median)."""
    taken = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = way(image)
        taken.append(time.perf_counter() - began)
    return output.float(), taken[0], statistics.median(taken[1:])


def table(network: nn.Module, image: Tensor, repeats: int) -> str:
    """The ways as Markdown."""
    lines = [
        "| computed in | million voxels a second | first pass [s] | difference |",
        "|---|---:|---:|---:|",
    ]
    exact: Tensor | None = None
    for name, way, half in ways(network):
        output, first, usual = passes(way, image, half, repeats)
        exact = output if exact is None else exact
        difference = float((output - exact).norm() / exact.norm())
        lines.append(f"| {name} | {image.numel() / usual / 1e6:.2f} | {first:.1f} | {difference:.1e} |")
    for share in (2, 4):
        part = image[(..., *(slice(size // share) for size in image.shape[2:]))]
        _, first, usual = passes(network, part, True, repeats * share**2)
        voxels = " x ".join(map(str, part.shape[2:]))
        lines.append(f"| bfloat16, channels last, {voxels} | {part.numel() / usual / 1e6:.2f} | {first:.1f} | |")
    return "\n".join(lines)


@one_line_errors()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 192, 192], help="voxels of the window")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", type=Path, help="page with the marks <!-- network --> and <!-- end -->")
    options = parser.parse_args()
    check_page(options.page, "network")
    torch.set_num_threads(options.threads)
    _, network = shipped_network()
    image = torch.rand(1, 1, *options.shape, generator=torch.Generator().manual_seed(0))
    window = " x ".join(map(str, options.shape))
    said = f"{machine()}, {options.threads} threads, torch {torch.__version__}, a window of {window} voxels"
    show_table(f"{said}\n\n{table(network, image, options.repeats)}", options.page, "network")


if __name__ == "__main__":
    main()
