"""Lets torchvision's CUDA build be imported beside a CPU build of torch; put this folder on PYTHONPATH.

PyPI's torchvision is built for PyPI's CUDA torch. Beside a CPU torch, which is all that a test machine without a GPU
needs, its compiled operators do not load, and its import stops at the first registration for one that is missing.
MONAI Label imports torchvision for drawing helpers only, so it is enough that the names of the operators exist. A
server that people use gets the torchvision that fits its torch; nothing of this is installed there.
"""

import importlib.util

if importlib.util.find_spec("torch") is not None:
    import torch

    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
