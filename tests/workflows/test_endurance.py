"""Long runs: memory does not grow with the number of images or iterations. CI makes shorter ones."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from door import Door

PAGE = resource.getpagesize()


def sampled(process, seconds):
    """Resident memory in bytes over the life of a process."""
    samples, deadline = [], time.monotonic() + seconds
    while process.is_alive():
        assert time.monotonic() < deadline, "takes too long"
        try:
            samples.append(int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * PAGE)
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(0.005)
    process.join(60)
    return np.array(samples[:-1])


def growth(samples):
    """Of the median of the last fifth over that of the second fifth, the first being warm-up."""
    fifths = np.array_split(samples, 5)
    assert min(map(len, fifths)) > 20
    return np.median(fifths[4]) / np.median(fifths[1]) - 1


@pytest.fixture
def door(tmp_path):
    (tmp_path / "door").mkdir()
    door = Door(tmp_path / "door")
    assert door.run("predict", tmp_path / "no.tif") == 2
    return door


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "volumes, most",
    [pytest.param(50, 0.05, marks=pytest.mark.slow), pytest.param(300, 0.02, marks=pytest.mark.endurance)],
)
def test_many_volumes_take_no_more_memory_than_a_fifth_of_them(volumes, most, door, trained, tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(volumes):
        image = random.integers(0, 200, (8, 32, 32))
        image[2:6, 4:14, 4:14] += 900
        tifffile.imwrite(tmp_path / "images" / f"{number:03}.tif", image.astype(np.uint16))
    options = ["--model", trained, "--output", tmp_path / "out", "--device", "cpu"]
    samples = sampled(door.start("predict", tmp_path / "images", *options), 800)
    assert len(list((tmp_path / "out").glob("*_objects.csv"))) == volumes, door.said()
    print(f"growth {growth(samples):.4f}")
    assert growth(samples) <= most


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "iterations, most",
    [pytest.param(300, 0.05, marks=pytest.mark.slow), pytest.param(2000, 0.02, marks=pytest.mark.endurance)],
)
def test_many_iterations_take_no_more_memory_than_a_fifth_of_them(
    iterations, most, door, sample, tiny_overlay, tmp_path
):
    settings = {
        "iterations_per_epoch": iterations // 10,
        "max_epochs": 10,
        "val_interval": 2,
        "checkpoint_interval": 100,
    }
    settings |= {"checkpoint_interval": 100, "batch_size": 1, "crop_size": "[8,16,16]"}
    options = [part for name, value in settings.items() for part in (f"--{name}", value)]
    command = ["train", sample, "--output", tmp_path / "model", "--config", tiny_overlay, *options]
    samples = sampled(door.start(*command), 800)
    assert "epoch 10 of 10" in door.said(), door.said()
    print(f"growth {growth(samples):.4f}")
    assert growth(samples) <= most


def crowd(shape):
    """Bright balls on a dark ground, repeated over the volume."""
    tile = np.random.default_rng(0).integers(0, 40, (64, 64, 64))
    grid = np.stack(np.meshgrid(*[np.arange(64)] * 3, indexing="ij"))
    for center in ((16, 16, 16), (16, 48, 40), (48, 20, 44), (46, 46, 16)):
        tile[((grid.T - center).T ** 2).sum(0) < 100] += 180
    return np.tile(tile.astype(np.uint8), [size // 64 for size in shape])


@pytest.mark.endurance
@pytest.mark.timeout(1200)
def test_a_large_volume_stays_within_4_gib(door, trained, tmp_path):
    image = tmp_path / "large.tif"
    tifffile.imwrite(image, crowd((256, 512, 512)), photometric="minisblack", metadata={"axes": "ZYX"})
    options = ["--model", trained, "--output", tmp_path / "out", "--device", "cpu", "--max_memory", "4GiB"]
    began = time.monotonic()
    samples = sampled(door.start("predict", image, *options), 1100)
    seconds, peak = time.monotonic() - began, samples.max() / 2**30
    print(f"{seconds:.0f} s, {peak:.2f} GiB at most")
    assert "block by block" in door.said(), door.said()
    with tifffile.TiffFile(tmp_path / "out" / "large_instances.tif") as found:
        assert found.series[0].shape == (256, 512, 512)
    assert (tmp_path / "out" / "large_objects.csv").is_file()
    assert peak < 4
