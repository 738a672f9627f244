"""A stand-in for a GPU: tensors that live on the CPU but behave as if they were elsewhere.

On a machine without a GPU nothing would notice a tensor that was made on the wrong device. Here tensors of both places
in one operation raise an error, as they would on a GPU, and what is copied back to the CPU is counted. Speed, and
kernels that a GPU lacks, it says nothing of.
"""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

AWAY = torch.device("meta")  # the one device besides the CPU that every build of torch knows


class Away(torch.Tensor):
    """A CPU tensor that says it is on the accelerator.

    Attributes:
        held: the CPU tensor.
        accelerator: where copies back to the CPU are counted.
    """

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
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        away = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, cls)}
        accelerator = next(iter(away.values())).accelerator
        # a GPU takes numbers from the CPU, and copies into its tensors
        here = [tensor for tensor in tensors if not isinstance(tensor, cls) and tensor.ndim > 0]
        if here and func is not torch.ops.aten.copy_.default:
            raise RuntimeError(f"{func}: tensors on the accelerator and on the CPU, of shape {tuple(here[0].shape)}")
        target = torch.device(kwargs.get("device") or AWAY)
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        args, kwargs = tree_map(lambda leaf: leaf.held if isinstance(leaf, cls) else leaf, (args, kwargs))
        result = func(*args, **kwargs)
        if target.type == "cpu":
            accelerator.copied_back.append((tuple(result.shape), result.dtype))
            return result

        def put(leaf):
            if not isinstance(leaf, torch.Tensor):
                return leaf
            return away[id(leaf)] if id(leaf) in away else cls(leaf, accelerator)  # changed in place: the same tensor

        return tree_map(put, result)


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
        if func is torch.Tensor.tolist and isinstance(args[0], Away):
            return args[0].cpu().tolist()
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], torch.device):
            kwargs["device"], args = args[1], (args[0], *args[2:])
        if func in (torch.Tensor.__setitem__, torch.where):
            # torch would make a tensor of a number on `AWAY`, without its value
            start, dtype = (2, args[0].dtype) if func is torch.Tensor.__setitem__ else (1, None)
            values = (v if isinstance(v, torch.Tensor) else torch.tensor(v, dtype=dtype) for v in args[start:])
            args = (*args[:start], *values)
        device = kwargs.get("device")
        if device is None or torch.device(device).type != AWAY.type:
            return func(*args, **kwargs)
        if args and isinstance(args[0], Away):
            kwargs.pop("device")
            return func(*args, **kwargs) if len(args) > 1 or kwargs else args[0]
        return self.put(func(*args, **(kwargs | {"device": "cpu"})))
