"""Does everything give the same on a GPU as on the processor? One table, and exit code 1 where something differs.

    python scripts/gpu_check.py [--device cuda] [--page docs/measurements/speed.md]

Each part runs on the processor in float32, then on the device with TF32 off, on the same input. "difference" is stated
in the table for each part, "tolerance" is what it may be. TensorRT is tried where `tensorrt` and `polygraphy`
are installed, and a training on all GPUs where there are several; a part that cannot run here says "not run".
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmark_blockwise import shipped_network
from measuring import check_page, processor, show_table
from one_line import one_line_errors
from torch import Tensor

from spoco_bundle.app.config import config_folder, find_config, read_configs
from spoco_bundle.clustering import cluster_field
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.synthetic import make_synthetic_sample, synthetic_volume
from spoco_bundle.inferers import HaloWindowInferer
from spoco_bundle.losses import SpocoLoss
from spoco_bundle.metrics import instance_scores
from spoco_bundle.networks import Decoder, EmbeddingUNet, load_weights

SHAPE = (48, 128, 128)


@dataclass
class Row:
    """One line of the table.

    Attributes:
        part: what was run.
        compared: what "difference" means.
        tolerance: that the difference may reach.
        difference: NaN where the part did not run.
        seconds: on the processor and on the device, after one run that warms up.
        note: why it did not run.
    """

    part: str
    compared: str
    tolerance: float
    difference: float = float("nan")
    seconds: tuple[float, float] = (float("nan"), float("nan"))
    note: str = ""

    @property
    def failed(self) -> bool:
        """Whether it ran and differs, or gave what is no number."""
        return not self.note and not self.difference <= self.tolerance

    @property
    def words(self) -> str:
        """As a line in Markdown."""
        if self.note:
            return f"| {self.part} | {self.compared} | {self.tolerance:g} | not run: {self.note} | | |"
        here, there = (f"{seconds:.3f}" for seconds in self.seconds)
        state = " **differs**" if self.failed else ""
        return (
            f"| {self.part} | {self.compared} | {self.tolerance:g} | {self.difference:.1e}{state} | {here} | {there} |"
        )


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


def timed(work: Callable[[], object], device: torch.device) -> tuple[object, float]:
    """Result and seconds of the second of two runs."""
    for _ in range(2):
        start = time.perf_counter()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


class Checks:
    """The parts, each a method that gives a row.

    Args:
        device: to compare with the processor.
    """

    def __init__(self, device: torch.device):
        self.devices = (torch.device("cpu"), device)
        volume, labels = synthetic_volume(np.random.default_rng(0), SHAPE)
        image = torch.from_numpy(volume.astype(np.float32))[None, None]
        self.image = (image - image.mean()) / image.std()
        self.labels = torch.from_numpy(labels.astype(np.int64))[None]
        self.decoder_arguments = {"coordinate_channels": 3, "objectness": True}

    def network(self, device: torch.device) -> EmbeddingUNet:
        """The shipped network for volumes."""
        return shipped_network()[1].to(device)

    def both(self, row: Row, work: Callable[[torch.device], Callable[[], Tensor | list[Tensor]]]) -> Row:
        """Runs a part on both devices and compares what it gives, tensor by tensor."""
        results, seconds = zip(*(timed(work(device), device) for device in self.devices))
        here, there = ([found] if torch.is_tensor(found) else found for found in results)
        row.difference = max(relative(found, expected) for found, expected in zip(there, here, strict=True))
        row.seconds = seconds
        return row

    def prediction(self) -> Row:
        """The shipped network over a volume, in windows."""

        def work(device: torch.device) -> Callable[[], Tensor]:
            network, image, inferer = self.network(device), self.image.to(device), HaloWindowInferer((48, 112, 112))
            return torch.no_grad()(lambda: inferer(image, network))

        return self.both(Row("prediction", "norm of the outputs' difference, relative", 1e-3), work)

    def loss(self) -> Row:
        """All terms of the loss, and the gradient."""
        generator = torch.Generator().manual_seed(0)
        embeddings = torch.randn(1, 9, *SHAPE, generator=generator)
        teacher = embeddings + 0.1 * torch.randn(embeddings.shape, generator=generator)

        def work(device: torch.device) -> Callable[[], list[Tensor]]:
            criterion = SpocoLoss(objectness=True)
            labels, other = self.labels.to(device), teacher.to(device)

            def run() -> list[Tensor]:
                given = embeddings.clone().to(device).requires_grad_()
                terms = criterion(given, labels, other, seeds=[0])
                terms["loss"].backward()
                return [*terms.values(), given.grad]

            return run

        return self.both(Row("loss and its gradient", "largest relative difference of a term", 1e-3), work)

    def training_step(self) -> Row:
        """Gradients of the network's parameters after one step with the shipped weights, in training mode."""

        def work(device: torch.device) -> Callable[[], Tensor]:
            network, criterion = self.network(device).train(), SpocoLoss(objectness=True)
            image, labels = self.image.to(device), self.labels.to(device)
            decoder = Decoder(network=network, **self.decoder_arguments)

            def run() -> Tensor:
                network.zero_grad()
                output = decoder.place(network(image), (1.0, 1.0, 1.0))
                criterion(output, labels, output.detach(), seeds=[0])["loss"].backward()
                gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
                return torch.cat([gradient.flatten() for gradient in gradients])

            return run

        return self.both(Row("training step", "norm of the gradients' difference, relative", 1e-2), work)

    def clustering(self) -> Row:
        """The default clustering of the network's output, made once on the processor."""
        network = self.network(self.devices[0])
        with torch.no_grad():
            output = HaloWindowInferer()(self.image, network)[0]

        def work(device: torch.device) -> Callable[[], object]:
            field = Decoder(network=network, **self.decoder_arguments).field(output.to(device), spacing=(1.0,) * 3)
            return lambda: cluster_field(field, merge_distance=1.5)

        row = Row("clustering", "1 - SBD of the objects", 0.01)
        results, row.seconds = zip(*(timed(work(device), device) for device in self.devices))
        here, there = (np.asarray(torch.as_tensor(found).cpu()) for found in results)
        row.difference = 1 - instance_scores(here, there)["sbd"]
        return row

    def tensor_rt(self) -> Row:
        """The network as a TensorRT engine, by the bundle's overlay."""
        row = Row("TensorRT, float32", "norm of the outputs' difference, relative", 1e-2)
        missing = [name for name in ("tensorrt", "polygraphy") if importlib.util.find_spec(name) is None]
        if missing or self.devices[1].type != "cuda":
            row.note = f"{missing[0]} is not installed" if missing else "no GPU"
            return row
        with tempfile.TemporaryDirectory() as folder:
            files = [find_config(name) for name in ("inference", "inference_trt")]
            weights = Path(folder) / "model.pt"
            network = self.network(self.devices[0])
            torch.save(network.state_dict(), weights)
            parser = read_configs(files, {"trt_weights": str(weights), "device": "$torch.device('cuda')"})
            load_weights(parser.get_parsed_content("network_def"), weights)
            compiled = parser.get_parsed_content("network").eval()
            image = self.image[..., :48, :112, :112]
            with torch.no_grad():
                expected, here = timed(lambda: network(image), self.devices[0])
                found, there = timed(lambda: compiled(image.cuda()), self.devices[1])
        row.difference, row.seconds = relative(found, expected), (here, there)
        return row

    def several(self) -> Row:
        """A short training on all GPUs: it ends, and its weights are numbers."""
        row = Row("training on several GPUs", "share of the weights that are no numbers", 0)
        count = torch.cuda.device_count()
        if count < 2:
            row.note = f"{count} GPU" + ("s" if count != 1 else "")
            return row
        with tempfile.TemporaryDirectory() as folder:
            sample = Path(folder) / "sample"
            make_synthetic_sample(sample)
            configs = str([str(find_config(name)) for name in ("train", "multi_gpu_train")])
            given = {"dataset_dir": sample, "ckpt_dir": folder, "output_dir": folder, "max_epochs": 1}
            given |= {"iterations_per_epoch": 10, "val_interval": 1}
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
            command += ["-m", "monai.bundle", "run", "--config_file", configs]
            command += [part for name, value in given.items() for part in (f"--{name}", str(value))]
            start = time.perf_counter()
            done = subprocess.run(command, cwd=config_folder().parent, capture_output=True, text=True)
            if done.returncode:
                raise SpocoError(f"training on {count} GPUs failed: {done.stderr[-2000:]}")
            row.seconds = (float("nan"), time.perf_counter() - start)
            state = torch.load(Path(folder) / "model.pt", weights_only=True, map_location="cpu")
        values = torch.cat([tensor.double().flatten() for tensor in state.values()])
        row.difference = float((~values.isfinite()).double().mean())
        return row

    def rows(self) -> list[Row]:
        """All parts, in order."""
        parts = (self.prediction, self.loss, self.training_step, self.clustering, self.tensor_rt, self.several)
        return [part() for part in parts]


@one_line_errors()
def main() -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try this script itself")
    parser.add_argument("--page", type=Path, help="page with the marks <!-- gpu --> and <!-- end -->")
    options = parser.parse_args()
    check_page(options.page, "gpu")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("PyTorch sees no GPU: install a build of PyTorch with CUDA and the driver, then run this again")
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows = Checks(device).rows()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    lines = [f"{name} against {processor()}, PyTorch {torch.__version__}", ""]
    lines += [
        "| part | compared | tolerance | difference | processor [s] | device [s] |",
        "|---|---|---:|---:|---:|---:|",
    ]
    show_table("\n".join([*lines, *(row.words for row in rows)]), options.page, "gpu")
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
