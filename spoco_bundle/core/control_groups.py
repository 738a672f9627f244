"""The control groups of this process, which may give it less than the machine has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

GROUPS, MOUNTED = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def control_groups(controller: str, proc: Path = GROUPS, root: Path = MOUNTED) -> Iterator[Path]:
    """Folders of the group of this process and of all groups above it; of both versions of the interface.

    Args:
        controller: such as "cpu" or "memory".
        proc: file that names the control groups of this process, as Linux writes it.
        root: where control groups are mounted.
    """
    try:
        groups = [line.split(":", 2) for line in proc.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in groups:
        if not controllers or controller in controllers.split(","):  # version 2 names none
            mounted = root / controller if controllers else root
            inside = mounted / path.strip("/")
            yield from (folder for folder in (inside, *inside.parents) if folder.is_relative_to(mounted))
