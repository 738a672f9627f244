"""How many threads and processes work, and how threads wait for each other: set where the user has not.

OpenMP threads wait by spinning. Where other processes want the same cores, one thread of a team is put off while the
others spin on cores that it needs, and a step takes many times as long. A short spin keeps most of the speed of a
machine of one's own (``scripts/benchmark_threads.py`` measures both).
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from spoco_bundle.core.control_groups import GROUPS, MOUNTED, control_groups

#: rounds of spinning before a waiting thread sleeps; libgomp's own default is 300 000
SPIN_COUNT = "1000"
#: variables by which a user says how threads wait
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def usable_cores(proc: Path = GROUPS, root: Path = MOUNTED) -> int:
    """Cores that this process may use: those it is bound to, no more than its control group's share of time.

    Args:
        proc: see ``control_groups``.
        root: see ``control_groups``.

    Returns:
        At least 1; a share of time is rounded to whole cores.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = (share for folder in control_groups("cpu", proc, root) for share in _share(folder))
    return max(1, min([bound, *map(round, shares)]))


def prepare_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what OpenMP reads when torch loads; whatever the user has set stays.

    The number of threads is set only where a control group gives fewer cores than there are, which OpenMP cannot see.

    Args:
        environment: variables of this process, or of one that is to be started.
    """
    if not any(name in environment for name in _WAITING):
        environment["GOMP_SPINCOUNT"] = SPIN_COUNT
    cores = usable_cores()
    if cores < (os.cpu_count() or 1):
        environment.setdefault("OMP_NUM_THREADS", str(cores))


def loader_workers(device: str) -> int:
    """Processes that prepare crops beside a training, for `num_workers`.

    On the processor none: they would take its cores from network and loss. A GPU waits for its crops: every core but
    one, shared by the trainings that `torchrun` starts here. None where Python does not fork by default (Windows,
    macOS, from 3.14 on): there each would load all that this one has loaded, once an epoch.

    Args:
        device: that trains, such as "cpu" or "cuda:0".

    Returns:
        0 to 8.
    """
    if device.startswith("cpu") or multiprocessing.get_all_start_methods()[0] != "fork":
        return 0
    trainings = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(0, min(8, usable_cores() // trainings - 1))


def _share(folder: Path) -> Iterator[float]:
    """Cores' worth of time that a control group allows, if it says so."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if quota != "max" and int(quota) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError):
        return
