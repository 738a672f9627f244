"""Several devices: two gloo processes on the CPU stand in for them."""

from __future__ import annotations

import json

import pytest
import torch

from door import start
from support import TINY, run_python

GRADIENTS = """
import sys
import torch
import torch.distributed as dist
from spoco_bundle.losses import SpocoLoss
from spoco_bundle.networks import EmbeddingUNet

def gradients(network, images, labels, seeds):
    output = network(images)
    loss = SpocoLoss(objectness=True)(output, labels, output.detach() * 0.9, seeds=seeds)["loss"]
    loss.backward()

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=int(sys.argv[2]), world_size=2)
torch.manual_seed(0)
settings = dict(spatial_dims=2, out_channels=5, channels=(4, 8), strides=(2,), kernel_sizes=(3, 3), convolutions=1)
images = torch.rand(4, 1, 24, 24)
labels = torch.randint(0, 4, (4, 1, 6, 6)).repeat_interleave(4, 2).repeat_interleave(4, 3)
labels[1] = 0  # a crop without an annotated object on one of the processes
seeds = torch.arange(4)
joined = EmbeddingUNet(**settings).eval()
shared = EmbeddingUNet(**settings).eval()
shared.load_state_dict(joined.state_dict())
gradients(joined, images, labels, seeds)
parallel = torch.nn.parallel.DistributedDataParallel(shared)
mine = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
gradients(parallel, images[mine], labels[mine], seeds[mine])
for (name, one), two in zip(joined.named_parameters(), shared.parameters()):
    torch.testing.assert_close(two.grad, one.grad, rtol=1e-5, atol=1e-5 * float(one.grad.abs().max()), msg=name)
    assert one.grad.any()
print("gradients agree")
dist.destroy_process_group()
"""


def torchrun(arguments, cwd):
    return run_python(
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, *arguments], cwd=cwd, timeout=280
    )


def test_gradients_equal_those_of_one_process_with_the_joined_batch(tmp_path):
    logs = [tmp_path / f"rank{rank}.txt" for rank in range(2)]
    started = [
        start(["-c", GRADIENTS, tmp_path / "meeting", rank], tmp_path, (log, log)) for rank, log in enumerate(logs)
    ]
    for process, log in zip(started, logs):
        process.join(200)
        assert process.exitcode == 0 and "gradients agree" in log.read_text(), log.read_text()[-2000:]


@pytest.mark.slow
def test_two_processes_train_validate_and_write_once(sample, bundle_root, tmp_path):
    configs = str([str(bundle_root / "configs" / f"{name}.json") for name in ("train", "multi_gpu_train")])
    values = {"dataset_dir": sample, "ckpt_dir": tmp_path, "output_dir": tmp_path, **TINY, "max_epochs": 1}
    values |= {"tune_minutes": 1, "tuned#min_objects": 1}
    values.pop("device")
    overrides = [part for key, value in values.items() for part in (f"--{key}", str(value))]
    result = torchrun(["-m", "monai.bundle", "run", "--config_file", configs, *overrides], cwd=bundle_root)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    model = torch.load(tmp_path / "model.pt", weights_only=True)
    assert not any(key.startswith("module.") for key in model)
    checkpoint = torch.load(tmp_path / "last.pt", weights_only=True)
    assert checkpoint["engine"]["iteration"] == TINY["iterations_per_epoch"]
    assert (result.stdout + result.stderr).count("clustering tuned on the validation") == 1


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 3])
def test_evaluation_gathers_the_scores_of_uneven_shards(images, sample, trained, bundle_root, tmp_path):
    found = sorted(sample.glob("*/*_raw.*"))[-images:]
    pairs = [{"image": str(path), "label": str(path).replace("_raw.", "_label.")} for path in found]
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps({"training": pairs, "validation": pairs}))
    names = ("train", "evaluate", "multi_gpu_evaluate")
    configs = str([str(bundle_root / "configs" / f"{name}.json") for name in names])
    values = {"dataset_dir": datalist, "ckpt_dir": trained, "output_dir": tmp_path, **TINY, "partly_labelled": False}
    values.pop("device")
    overrides = [part for key, value in values.items() for part in (f"--{key}", str(value))]
    result = torchrun(["-m", "monai.bundle", "run", "--config_file", configs, *overrides], cwd=bundle_root)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert json.loads((tmp_path / "scores.json").read_text())["images"] == images
    rows = (tmp_path / "scores.csv").read_text().splitlines()[1:]
    assert sorted(row.split(",")[0] for row in rows) == sorted(path.name for path in found)
