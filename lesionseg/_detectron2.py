"""Gives the name `detectron2` to the copy that LabGym carries, when no real Detectron2 is installed.

Detectron2 is not on PyPI under its own name. The PyPI package LabGym holds an unmodified-in-behaviour copy of
Detectron2 0.6 (Facebook's, Apache-2.0) as `LabGym.detectron2`, pure Python, which is all that Mask R-CNN needs.
Only that sub-package is ever imported.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import logging
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

REAL, COPY = "detectron2", "LabGym.detectron2"
# How what Detectron2 0.6 does makes newer versions of torch, setuptools and NumPy complain: nothing that a user could mend.
COMPLAINTS = (
    "pkg_resources is deprecated",
    r"`torch\.jit\.script` is deprecated",
    r"torch\.meshgrid: ",
    "The given NumPy array is not writable",
)


class _AliasFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers `import detectron2.x` with the module `LabGym.detectron2.x`: one module object, two names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != REAL and not fullname.startswith(REAL + "."):
            return None
        copy = COPY + fullname[len(REAL) :]
        try:
            found = importlib.util.find_spec(copy)
        except ModuleNotFoundError:
            return None
        if found is None:
            return None
        return ModuleSpec(fullname, self, is_package=found.submodule_search_locations is not None)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(COPY + spec.name[len(REAL) :])
        # The import system is about to overwrite __spec__ and friends with the alias's: keep the module's own.
        self._own = {name: getattr(module, name, None) for name in ("__spec__", "__loader__", "__package__")}
        return module

    def exec_module(self, module: ModuleType) -> None:
        for name, value in self._own.items():
            setattr(module, name, value)


def install_fallback() -> None:
    """Make `import detectron2` work through the copy; does nothing where a real Detectron2 can be found."""
    if REAL in sys.modules or any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        return
    if importlib.util.find_spec(REAL) is None:
        # First in line: the ordinary finder would load `detectron2.data.x` a second time from the copy's folder.
        sys.meta_path.insert(0, _AliasFinder())


def quiet_complaints() -> None:
    """Keep COMPLAINTS, meant for Detectron2's developers, out of the terminal."""
    for message in COMPLAINTS:
        warnings.filterwarnings("ignore", message=message)
    # Asked at every image in a wording that torch no longer likes.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


def origin() -> str:
    """Where `detectron2` comes from, in words, for logs and `make setup`."""
    module = importlib.import_module(REAL)
    kind = "the copy in LabGym" if module.__name__ == COPY else "an installed Detectron2"
    return f"Detectron2 {module.__version__} ({kind}, {module.__path__[0]})"
