"""Loads MONAI for a prediction without what only other work needs.

`import monai` imports whatever any of its modules could use and finds installed: experiment tracking, tables, plots,
signal processing. A prediction uses none of it, and would wait for it longer than for PyTorch. Here a stand-in takes
the place of each and imports it when it is first used, so that MONAI can do all that it always can.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

#: what MONAI's modules ask its `optional_import` for and a prediction seldom uses: how the names begin
ASKED_FOR = (
    *("huggingface_hub", "itk", "matplotlib", "mlflow", "pandas", "requests", "scipy", "skimage", "sklearn"),
    *("tensorboard", "torch.utils.tensorboard", "zarr"),
)

#: what MONAI and Ignite import by a statement: the only thing that they take from its module
STATED = ("matplotlib.pyplot", "torch.distributed.optim.ZeroRedundancyOptimizer")


def load_monai() -> None:
    """Imports MONAI and Ignite, unless they are there, at the start of a process that works with them to its end.

    The garbage collector rests meanwhile and leaves out afterwards what was made: it would search the modules over and
    over, which takes longer than to import them.
    """
    if "monai" in sys.modules:
        return
    gc.disable()
    try:
        with _asked_for_stand_in(), _stated_stand_in():
            import_module("monai.bundle")
    finally:
        gc.freeze()
        gc.enable()


class StandIn:
    """Stands for a module, or for something in one, until it is first used.

    Then all stand-ins of its package in the modules of MONAI and Ignite give way to what they stand for: an `except`
    clause takes nothing but the class itself.

    Args:
        package: name of its package.
        load: imports what it stands for.
    """

    def __init__(self, package: str, load: Callable[[], Any]):
        self._package = package
        self._load = functools.cache(load)

    def _use(self) -> Any:
        holders = [module for name, module in sys.modules.items() if name.startswith(("monai.", "ignite."))]
        for holder in holders:
            for name, value in list(vars(holder).items()):
                if isinstance(value, StandIn) and value._package == self._package:
                    setattr(holder, name, value._load())
        return self._load()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._use(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What it stands for, called."""
        return self._use()(*args, **kwargs)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._use())


class _Patch(MetaPathFinder):
    """Changes a module as soon as it is executed.

    Args:
        module: its name.
        change: is given the module.
    """

    def __init__(self, module: str, change: Callable[[ModuleType], None]):
        self.module = module
        self.change = change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where the other finders say that the module lies, with a loader that changes it."""
        if fullname != self.module:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others))
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            self.change(module)

        spec.loader.exec_module = execute_and_change
        return spec


@contextmanager
def _asked_for_stand_in() -> Iterator[None]:
    """While it is open, MONAI's `optional_import` gives stand-ins of what is in `ASKED_FOR` and installed."""
    loading = True

    def change(home: ModuleType) -> None:
        optional_import = home.optional_import

        @functools.wraps(optional_import)
        def later(module: str, *args: Any, **kwargs: Any) -> tuple[Any, bool]:
            package = module.partition(".")[0]
            if loading and module.startswith(ASKED_FOR) and find_spec(package):
                return StandIn(package, lambda: optional_import(module, *args, **kwargs)[0]), True
            return optional_import(module, *args, **kwargs)

        home.optional_import = later

    patch = _Patch("monai.utils.module", change)
    sys.meta_path.insert(0, patch)
    try:
        yield
    finally:
        sys.meta_path.remove(patch)
        loading = False


@contextmanager
def _stated_stand_in() -> Iterator[None]:
    """While it is open, the modules of `STATED` hold nothing but stand-ins, where they are not loaded yet."""
    modules = {}
    for name in STATED:
        parent, _, taken = name.rpartition(".")
        if parent not in sys.modules:
            module = ModuleType(parent)
            module.__spec__ = find_spec(parent)
            setattr(module, taken, StandIn(name, functools.partial(resolve_name, name)))
            modules |= {parent: module, name: module}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
