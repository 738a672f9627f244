"""Loading of network weights from files, strictly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.networks.lengths import learnt_diameter, learnt_lengths, with_length_unit


class DamagedFileError(Exception):
    """A file of tensors that cannot be read, or that holds more than tensors and plain values."""


def load_tensors(file: str | Path) -> Any:
    """What ``torch.save`` wrote, on the CPU, if it is tensors and plain values in lists and dicts.

    Raises:
        DamagedFileError: for any other content; the text names the kind of the error.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle lets the unpickler fail in any way, IndexError among them
        raise DamagedFileError(type(error).__name__) from error


def weights_file(folder: str | Path, network: str | None = None, other: bool = False) -> str:
    """The file of a network that a training left.

    ``model.pt`` is the network that was scored: the teacher, beside it the student in ``model_student.pt``; or, with
    ``validate_with`` "student", the student, beside it the teacher in ``model_teacher.pt``.

    Args:
        folder: of a trained model.
        network: "teacher" or "student"; None for the one that was scored.
        other: the file of the other one of the two.
    """
    folder = Path(folder)
    scored = "student" if (folder / "model_teacher.pt").is_file() else "teacher"
    beside = {"teacher": "model_student.pt", "student": "model_teacher.pt"}[scored]
    return str(folder / ("model.pt" if (network in (None, scored)) != other else beside))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a plain state dict.

    Args:
        path: file that holds a flat state dict, or a dict with one under the key "model".

    Raises:
        SpocoError: if the file is missing, damaged, or not a state dict.
    """
    file = Path(path)
    if not file.is_file():
        place = (
            "" if file.is_absolute() else f" in {Path.cwd()}, the bundle's folder unless --bundle_root names another"
        )
        raise SpocoError(f"{file}: no such weights file{place}; train first, or name the file that holds the weights")
    try:
        state = load_tensors(file)
    except DamagedFileError as error:
        raise SpocoError(
            f"{file}: not a readable weights file ({error}); it may be truncated or hold more than "
            "tensors: take another copy or train again"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SpocoError(f"{file}: expected a state dict of tensors; save network.state_dict()")
    return with_length_unit(state)


def learnt_by(path: str | Path) -> tuple[tuple[float, ...] | None, str, float | None]:
    """Spacing and unit of the training of a file of weights, and diameter of its typical object, as far as it says.

    Raises:
        SpocoError: as ``read_weights``.
    """
    state = SimpleNamespace(**read_weights(path))
    return *learnt_lengths(state), learnt_diameter(state)


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Loads a plain state dict into a network and refuses anything that does not fit.

    Args:
        network: module whose ``state_dict`` keys and shapes must all be in the file.
        path: see ``read_weights``.

    Returns:
        The same network.

    Raises:
        SpocoError: if the file is missing, damaged, not a state dict, or made for another architecture.
    """
    file, state = Path(path), read_weights(path)
    wanted = network.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    surplus = sorted(state.keys() - wanted.keys())
    unlike = sorted(k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape)
    beside = Path(file).parent / "model.json"
    config = f"put {beside} behind the config" if beside.is_file() else "use the config that they were trained with"
    for problem, keys in (("lacks", missing), ("has unknown", surplus), ("has another shape for", unlike)):
        if keys:
            raise SpocoError(
                f"{file}: made for another network: {problem} {keys[0]} (and {len(keys) - 1} more); {config}"
            )
    network.load_state_dict(state)
    return network
