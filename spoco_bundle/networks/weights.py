"""Loading of network weights from files, strictly."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn

from spoco_bundle.errors import SpocoError


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Loads a plain state dict into a network and refuses anything that does not fit.

    Args:
        network: module whose ``state_dict`` keys and shapes must all be in the file.
        path: file that holds a flat state dict, or a dict with one under the key "model".

    Returns:
        The same network.

    Raises:
        SpocoError: if the file is missing, damaged, not a state dict, or made for another architecture.
    """
    file = Path(path)
    if not file.is_file():
        raise SpocoError(f"{file}: no such weights file; train first, or name the file that holds the weights")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, ValueError, KeyError) as error:
        raise SpocoError(
            f"{file}: not a readable weights file ({type(error).__name__}); it may be truncated or hold more than "
            "tensors: take another copy or train again"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise SpocoError(f"{file}: expected a state dict of tensors; save network.state_dict()")
    wanted = network.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    surplus = sorted(state.keys() - wanted.keys())
    unlike = sorted(k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape)
    for problem, keys in (("lacks", missing), ("has unknown", surplus), ("has another shape for", unlike)):
        if keys:
            raise SpocoError(
                f"{file}: made for another network: {problem} {keys[0]} (and {len(keys) - 1} more); "
                "use the config that these weights were trained with"
            )
    network.load_state_dict(state)
    return network
