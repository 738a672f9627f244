import multiprocessing
import os

import pytest

from spoco_bundle.core.threads import SPIN_COUNT, loader_workers, prepare_threads, usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    """As if this process were bound to eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def mounted(tmp_path, groups, **files):
    """A file naming control groups, and their mount."""
    (tmp_path / "groups").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "mount" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "groups", tmp_path / "mount"


@pytest.mark.parametrize(
    "quota, cores", [("100000 100000", 1), ("20000 100000", 1), ("370000 100000", 4), ("max 100000", 8)]
)
@pytest.mark.parametrize("place", ["cpu_dot_max", "job__cpu_dot_max", "job__step__cpu_dot_max"])
def test_the_least_share_of_the_groups_above_counts(quota, cores, place, tmp_path):
    assert usable_cores(*mounted(tmp_path, "0::/job/step\n", **{place: f"{quota}\n"})) == cores


@pytest.mark.parametrize("quota, cores", [("300000", 3), ("-1", 8)])
def test_the_older_interface_is_read_too(quota, cores, tmp_path):
    files = {"cpu__job__cpu_dot_cfs_quota_us": quota, "cpu__job__cpu_dot_cfs_period_us": "100000"}
    groups = "3:memory:/job\n2:cpu,cpuacct:/job\n"
    assert usable_cores(*mounted(tmp_path, groups, **files)) == cores


def test_without_control_groups_the_bound_cores_count(tmp_path):
    assert usable_cores(tmp_path / "none", tmp_path) == 8
    assert usable_cores(*mounted(tmp_path, "0::/job\n", cpu_dot_max="broken")) == 8


def test_a_share_never_adds_cores(tmp_path):
    assert usable_cores(*mounted(tmp_path, "0::/\n", cpu_dot_max="1300000 100000")) == 8


def test_what_the_user_set_stays():
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        environment = {name: "mine", "OMP_NUM_THREADS": "7"}
        prepare_threads(environment)
        assert environment == {name: "mine", "OMP_NUM_THREADS": "7"}


def test_waiting_threads_spin_briefly_and_take_no_more_than_the_quota(monkeypatch):
    environment = {}
    monkeypatch.setattr("spoco_bundle.core.threads.usable_cores", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    prepare_threads(environment)
    assert environment == {"GOMP_SPINCOUNT": SPIN_COUNT, "OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    environment = {}
    prepare_threads(environment)
    assert "OMP_NUM_THREADS" not in environment


@pytest.mark.parametrize("cores, trainings, workers", [(16, 1, 8), (16, 4, 3), (4, 1, 3), (1, 1, 0), (2, 4, 0)])
def test_crops_for_a_gpu_are_prepared_on_all_cores_but_one(cores, trainings, workers, monkeypatch):
    monkeypatch.setattr("spoco_bundle.core.threads.usable_cores", lambda: cores)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["fork", "spawn"])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(trainings))
    assert (loader_workers("cuda:0"), loader_workers("cpu")) == (workers, 0)


def test_what_cannot_be_forked_prepares_none(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert loader_workers("cuda") == 0
