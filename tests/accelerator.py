"""A stand-in for a GPU: tensors that live on the CPU but behave as if they were elsewhere.

On a machine without a GPU nothing would notice a tensor that was made on the wrong device. Here tensors of both places
in one operation raise an error, as they would on a GPU, and what is copied back to the CPU is counted.
"""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

AWAY = torch.device("meta")


class Away(torch.Tensor):
    """A CPU tensor that says it is on the accelerator."""

    @staticmethod
    def __new__(cls, held, _accelerator):
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, device=AWAY, **layout)

    def __init__(self, held, accelerator):
        self.held = held
        self.accelerator = accelerator

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        flat = torch.utils._pytree.tree_leaves((args, kwargs))
        tensors = [value for value in flat if isinstance(value, torch.Tensor)]
        accelerator = next(value.accelerator for value in tensors if isinstance(value, cls))
        back = func is torch.ops.aten._to_copy.default and torch.device(kwargs.get("device") or AWAY).type == "cpu"
        if back:
            accelerator.copied_back.append((tuple(args[0].shape), args[0].dtype))
        here = [value for value in tensors if not isinstance(value, cls) and value.ndim > 0]
        if here and func is not torch.ops.aten.copy_.default:
            raise RuntimeError(f"{func}: tensors on {AWAY} and on the CPU, of shape {tuple(here[0].shape)}")
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        owner = {id(value.held): value for value in tensors if isinstance(value, cls)}
        held_args, held_kwargs = tree_map(lambda v: v.held if isinstance(v, cls) else v, (args, kwargs))
        result = func(*held_args, **held_kwargs)
        if back:
            return result
        return tree_map(lambda v: owner.get(id(v), cls(v, accelerator)) if isinstance(v, torch.Tensor) else v, result)


class Accelerator(TorchFunctionMode):
    """Within it, tensors that are made on or moved to `AWAY` are `Away`.

    Attributes:
        copied_back: (shape, dtype) of every tensor that was copied to the CPU.
    """

    def __init__(self):
        super().__init__()
        self.copied_back = []

    def put(self, tensor):
        """A CPU tensor moved to the accelerator."""
        return Away(tensor.detach(), self)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], torch.device):
            kwargs["device"], args = args[1], (args[0], *args[2:])
        if func is torch.Tensor.__setitem__ or func is torch.where:
            # torch would make a tensor of a number on `AWAY`, without its value
            dtype = args[0].dtype if func is torch.Tensor.__setitem__ else None
            start = 2 if func is torch.Tensor.__setitem__ else 1
            numbers = (v if isinstance(v, torch.Tensor) else torch.tensor(v, dtype=dtype) for v in args[start:])
            args = (*args[:start], *numbers)
        device = kwargs.get("device")
        if device is None or torch.device(device).type != AWAY.type:
            return func(*args, **kwargs)
        if args and isinstance(args[0], Away):
            kwargs.pop("device")
            return func(*args, **kwargs) if len(args) > 1 or kwargs else args[0]
        return self.put(func(*args, **(kwargs | {"device": "cpu"})))
