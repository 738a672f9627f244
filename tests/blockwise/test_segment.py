from __future__ import annotations

import csv
import errno
import os
from dataclasses import dataclass
from pathlib import Path

import dask
import distributed
import fastremap
import numpy as np
import pytest
import torch
import zarr
from monai.data import MetaTensor

from spoco_bundle.blockwise import engine, work
from spoco_bundle.blockwise.embedders import StoredEmbedder
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.resampling import restore_labels
from spoco_bundle.formats.objects_table import objects_table
from spoco_bundle.metrics.contingency import contingency_table
from spoco_bundle.metrics.partition import adapted_rand_error


@pytest.mark.parametrize(
    "name, block",
    [
        *[("separate", (8, 16, 16)), ("touching", (8, 24, 40))],
        pytest.param("separate", (20, 8, 48), marks=pytest.mark.slow),
        pytest.param("touching", (8, 16, 16), marks=pytest.mark.slow),
    ],
)
def test_blocks_of_any_size_give_the_whole(scenes, blocks, tmp_path, name, block):
    scene = scenes[name]
    assert scene.whole.max() > 10
    found = blocks.run_job(blocks.make_job(scene, tmp_path, block))
    error = adapted_rand_error(contingency_table(scene.whole, found))
    if name == "separate":
        np.testing.assert_array_equal(found, scene.whole)
        assert adapted_rand_error(contingency_table(scene.truth, found)) == 0
    assert error <= 0.005 and found.max() == scene.whole.max()


def test_blocks_are_averaged_like_the_whole(scenes, blocks, tmp_path):
    scene = scenes["separate"]
    clustering = blocks.clustering(max_blocks=40_000)
    output = torch.from_numpy(np.asarray(scene.source.read((slice(None),) * 3)))
    spacing = np.diag([2.0, 1.0, 1.0, 1.0])
    image = MetaTensor(torch.zeros(1, *output.shape[1:]), affine=spacing)
    whole = clustering({"image": image, "pred": output})["pred"][0].numpy()
    job = blocks.make_job(scene, tmp_path, (8, 16, 16))
    job.clustering = clustering.for_pieces_of(job.grid.shape)
    assert job.clustering.params["pooling"] == (1, 1, 2) and "pooling" not in clustering.params
    np.testing.assert_array_equal(blocks.run_job(job), whole)


@pytest.mark.parametrize(
    "name, shape, overlap",
    [
        pytest.param("separate", (28, 90, 70), (6, 25, 19), marks=pytest.mark.slow),
        *[("separate", (20, 30, 66), (5, 9, 18)), ("touching", (20, 30, 66), (5, 9, 18))],
    ],
)
def test_blocks_come_back_from_another_grid_as_the_whole_does(scenes, blocks, tmp_path, name, shape, overlap):
    scene = scenes[name]
    output = torch.from_numpy(np.asarray(scene.source.read((slice(None),) * 3)))
    whole = restore_labels(torch.from_numpy(scene.whole), shape, torch.sigmoid(output[-1]), 0.5).numpy()
    whole, numbers = fastremap.renumber(whole)
    job = blocks.make_job(scene, tmp_path, (12, 24, 32), overlap, shape=shape)
    found = blocks.run_job(job)
    assert len(numbers) > 10 and found.shape == whole.shape
    np.testing.assert_array_equal(found > 0, whole > 0)
    assert adapted_rand_error(contingency_table(whole, found)) <= (0 if name == "separate" else 0.005)
    if name == "separate":
        np.testing.assert_array_equal(found, whole)


def test_without_overlap_and_links_objects_fall_apart(scenes, blocks, tmp_path):
    """The test above can fail."""
    found = blocks.run_job(blocks.make_job(scenes["separate"], tmp_path, overlap=(0, 0, 0)))
    assert adapted_rand_error(contingency_table(scenes["separate"].whole, found)) > 0.05


@pytest.mark.slow
def test_the_order_of_blocks_does_not_matter(scenes, blocks, tmp_path):
    results = []
    for seed in range(2):
        job = blocks.make_job(scenes["touching"], tmp_path / str(seed))
        job.work.open({"block": list(job.grid.block)})
        zarr.create_array(
            str(job.labels_path), shape=job.grid.shape, chunks=(4, 8, 8), dtype="u4", fill_value=0, zarr_format=2
        )
        order = np.random.default_rng(seed).permutation(len(job.grid))
        for stage in ("label", "link"):
            for number in order:
                job.run(stage, int(number))
        results.append((blocks.run_job(job), job.table_path.read_bytes()))
    np.testing.assert_array_equal(results[1][0], results[0][0])
    assert results[1][1] == results[0][1]


def test_the_table_is_that_of_the_labels(scenes, blocks, tmp_path):
    job = blocks.make_job(scenes["touching"], tmp_path)
    labels = blocks.run_job(job, workers=2)
    with open(job.table_path, newline="") as file:
        found = list(csv.DictReader(file))
    expected = objects_table(labels, (2.0, 1.0, 1.0), "micrometer")
    assert [row["id"] for row in found] == [str(row["id"]) for row in expected]
    for ours, theirs in zip(found, expected):
        for name, value in theirs.items():
            if name == "confidence":
                assert 0 < float(ours[name]) <= 1
            else:
                assert ours[name] == (f"{value:.6g}" if isinstance(value, float) else str(value))
    pyramid = [zarr.open_array(str(job.result_path / str(level)), mode="r")[:] for level in range(3)]
    np.testing.assert_array_equal(pyramid[1], labels[:, ::2, ::2])
    np.testing.assert_array_equal(pyramid[2], labels[::2, ::4, ::4])


def test_the_confidence_of_an_object_in_blocks_is_that_in_one_piece(scenes, blocks, tmp_path):
    scene = scenes["separate"]
    output = torch.from_numpy(np.asarray(scene.source.read((slice(None),) * 3)))
    output[-1] *= torch.linspace(0.3, 1.5, output.shape[-1])  # objects of different confidence
    image = MetaTensor(torch.zeros(1, *output.shape[1:]), affine=torch.diag(torch.tensor([2.0, 1, 1, 1])))
    whole = blocks.clustering()({"image": image, "pred": output})
    job = blocks.make_job(
        scene, tmp_path, (16, 24, 24), embedder=lambda block: {"pred": output[(slice(None), *block.label)]}
    )
    np.testing.assert_array_equal(blocks.run_job(job), whole["pred"][0])
    with open(job.table_path, newline="") as file:
        found = [float(row["confidence"]) for row in csv.DictReader(file)]
    assert np.std(found) > 0.02
    assert found == pytest.approx(whole["pred_confidence"].tolist(), rel=0.02)


@dataclass
class Faulty:
    """Reads stored embeddings, writes down which block, and fails at some of them until a file says it is mended."""

    inner: StoredEmbedder
    folder: Path
    bad: tuple[int, ...] = ()

    def __call__(self, block):
        with (self.folder / "calls").open("a") as file:
            file.write(f"{block.number}\n")
        if block.number in self.bad and not (self.folder / "mended").exists():
            raise ArithmeticError("a cosmic ray")
        return self.inner(block)

    def calls(self):
        return [int(line) for line in (self.folder / "calls").read_text().split()]


def test_a_failing_block_is_tried_again_then_named_and_the_others_are_kept(scenes, blocks, tmp_path):
    scene = scenes["separate"]
    faulty = Faulty(StoredEmbedder(scene.source), tmp_path, bad=(5,))
    job = blocks.make_job(scene, tmp_path, embedder=faulty)
    with pytest.raises(SpocoError, match=r"block 5 \(z 0:16, y 32:44, x 24:46\).*cosmic ray.*3 times.*same command"):
        blocks.run_job(job, retries=2)
    others = set(range(len(job.grid))) - {5}
    assert job.work.finished("label") == others and faulty.calls().count(5) == 3
    (tmp_path / "mended").touch()
    (tmp_path / "calls").unlink()
    np.testing.assert_array_equal(blocks.run_job(job), scene.whole)
    assert faulty.calls() == [5]


@pytest.mark.parametrize(
    "stage, code, words",
    [
        ("label", errno.ENOSPC, "disk is full"),
        ("link", errno.EDQUOT, "full"),
        ("renumber", errno.EROFS, "another"),
    ],
)
def test_a_full_disk_ends_clearly_and_the_next_run_goes_on(scenes, blocks, tmp_path, monkeypatch, stage, code, words):
    scene = scenes["separate"]
    faulty = Faulty(StoredEmbedder(scene.source), tmp_path)
    job = blocks.make_job(scene, tmp_path, embedder=faulty)
    save = work.WorkFolder.save

    def full(self, name, number, **arrays):
        if name == stage and number >= 4:
            raise OSError(code, os.strerror(code))
        save(self, name, number, **arrays)

    monkeypatch.setattr(work.WorkFolder, "save", full)
    with pytest.raises(SpocoError, match=words):
        blocks.run_job(job)
    done = job.work.finished("label")
    assert len(done) >= 4
    monkeypatch.undo()
    (tmp_path / "calls").unlink()
    (tmp_path / "calls").touch()
    np.testing.assert_array_equal(blocks.run_job(job), scene.whole)
    assert set(faulty.calls()) == set(range(len(job.grid))) - done


def test_a_running_scheduler_is_used_by_its_address(scenes, blocks, tmp_path):
    scene = scenes["separate"]
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        job = blocks.make_job(scene, tmp_path)
        np.testing.assert_array_equal(blocks.run_job(job, cluster.scheduler_address), scene.whole)


def test_what_else_the_process_does_with_dask_is_left_alone(scenes, blocks, tmp_path):
    job = blocks.make_job(scenes["separate"], tmp_path)
    with engine.dask_client("threads", workers=1, retries=0) as client, engine.job_engine(job, client, 0, False):
        assert dask.config.get("scheduler", None) is None
        with pytest.raises(ValueError, match="No clients found"):
            distributed.default_client()


def test_a_scheduler_that_is_not_there_is_named(scenes, blocks, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 0.2)
    job = blocks.make_job(scenes["separate"], tmp_path)
    for address, words in (
        ("tcp://127.0.0.1:9", "cannot be reached"),
        ("nonsense://x", "reached"),
        ("proces", "no addr"),
    ):
        with pytest.raises(SpocoError, match=f"--scheduler {address}: .*{words}"):
            blocks.run_job(job, address)


@pytest.mark.parametrize("scheduler", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_local_workers_are_not_given_up_for_their_silence(scheduler):
    """A process stopped for more than Dask's five minutes would else wait for a worker that never comes."""
    with engine.dask_client(scheduler, 1, 0) as client:
        assert client.cluster.scheduler.worker_ttl is None
