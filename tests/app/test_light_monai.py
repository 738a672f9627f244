"""MONAI loaded for a prediction is MONAI, and holds what it always holds as soon as it is used."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest

from door import run_warm
from spoco_bundle.app.light_monai import StandIn
from support import run_python

#: says which names in MONAI and Ignite are stand-ins, what all are once those were used, and what a transform gives
HELD = """
import contextlib, gc, json, sys
from types import BuiltinFunctionType, FunctionType, ModuleType

from spoco_bundle.app.light_monai import StandIn, load_monai

load_monai()
import monai
import torch

def held():
    homes = [(name, home) for name, home in sys.modules.items() if name.startswith(("monai.", "ignite."))]
    return {f"{name} {key}": value for name, home in homes for key, value in vars(home).items()}

def said(value):
    if isinstance(value, (type, FunctionType, BuiltinFunctionType, ModuleType)):
        return f"{getattr(value, '__module__', '')} {value.__name__}"
    return repr(value) if isinstance(value, (bool, str)) else type(value).__qualname__

stand_ins = {key: value for key, value in held().items() if isinstance(value, StandIn)}
early = sorted(set(sys.modules) & {"matplotlib", "mlflow", "pandas", "skimage", "torch.distributed.optim"})
largest = monai.transforms.KeepLargestConnectedComponent()(torch.tensor([[[1, 0, 1, 1]]])).tolist()
for value in stand_ins.values():
    with contextlib.suppress(monai.utils.OptionalImportError):  # says MONAI itself, of what its version has elsewhere
        value.__name__
# what MONAI keeps; it throws away whether an import worked where it says "_"
late = {key: said(value) for key, value in held().items() if not key.endswith("_")}
print(json.dumps([sorted(stand_ins), early, largest, late, gc.isenabled(), "skimage.measure" in sys.modules]))
"""


@pytest.mark.slow
def test_every_stand_in_gives_way_to_what_it_stands_for(tmp_path):
    cold, warm = (run(["-c", HELD], cwd=tmp_path) for run in (run_python, run_warm))
    assert cold.returncode == warm.returncode == 0, cold.stderr + warm.stderr
    stand_ins, early, largest, light, collects, used = json.loads(cold.stdout)
    assert "monai.utils.jupyter_utils plt" in stand_ins
    assert "monai.transforms.utils measure" in stand_ins
    assert "ignite.handlers.checkpoint ZeroRedundancyOptimizer" in stand_ins
    assert early == [] and collects and used
    assert largest == [[[0, 0, 1, 1]]]
    none, _, same, full, _, _ = json.loads(warm.stdout)
    assert none == [] and same == largest
    differ = {key: (value, full.get(key)) for key, value in light.items() if full.get(key) != value}
    assert differ == {}


READ = """
def read(text):
    try:
        return json.loads(text)
    except Error:
        return None
"""


@pytest.fixture
def holder(monkeypatch) -> ModuleType:
    """A module of MONAI's with a stand-in of a module and one of a class in it."""
    module = ModuleType("monai.holder")
    module.json = StandIn("json", lambda: json)
    module.Error = StandIn("json", lambda: json.JSONDecodeError)
    module.other = StandIn("other", lambda: json)
    monkeypatch.setitem(sys.modules, "monai.holder", module)
    return module


def test_what_follows_except_is_the_class_as_soon_as_its_package_is_used(holder):
    exec(READ, vars(holder))
    assert holder.read("[1]") == [1] and holder.read("[") is None
    assert holder.json is json and holder.Error is json.JSONDecodeError
    assert isinstance(vars(holder)["other"], StandIn)


def test_an_object_is_asked_whether_it_is_of_the_class(holder):
    error = json.JSONDecodeError("bad", "[", 0)
    assert isinstance(error, holder.Error) and not isinstance(ValueError(), StandIn("json", lambda: KeyError))


def test_a_class_is_called_like_itself(holder):
    assert type(holder.Error("bad", "[", 0)) is json.JSONDecodeError
