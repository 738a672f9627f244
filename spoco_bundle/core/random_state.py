"""The global generators of random numbers, as state that is saved and loaded like a network's."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


class RandomState:
    """State of the global generators of Python, NumPy and torch (CPU and every GPU)."""

    def state_dict(self) -> dict[str, Any]:
        """Their state as tensors and plain values."""
        numpy_name, numpy_keys, position, has_gauss, gauss = np.random.get_state()
        return {
            "python": random.getstate(),
            "numpy": (numpy_name, torch.from_numpy(numpy_keys.astype(np.int64)), position, has_gauss, gauss),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back; states of GPUs that are not there are left out."""
        random.setstate(state["python"])
        numpy_name, numpy_keys, *rest = state["numpy"]
        np.random.set_state((numpy_name, numpy_keys.cpu().numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"].cpu())
        for device, cuda_state in zip(range(torch.cuda.device_count()), state["cuda"]):
            torch.cuda.set_rng_state(cuda_state.cpu(), device)
