"""`import detectron2` after `import lesionseg`: a real one wins, the copy serves in its place, one module under both names."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


def run_python(code: str, *paths: Path) -> str:
    environment = {"PATH": "", "PYTHONPATH": ":".join(map(str, [*paths, ROOT])), "HOME": str(Path.home())}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_a_real_detectron2_on_the_path_wins(tmp_path):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2/__init__.py").write_text("__version__ = 'real'")
    assert run_python("import lesionseg, detectron2; print(detectron2.__version__)", tmp_path) == "real"


def test_without_any_detectron2_the_package_imports_and_the_error_is_pythons_own(tmp_path):
    # An empty LabGym hides the installed one; -S would hide the rest as well.
    (tmp_path / "LabGym").mkdir()
    (tmp_path / "LabGym/__init__.py").touch()
    if importlib.util.find_spec("LabGym") is None:
        pytest.skip("a real Detectron2 is installed here")
    code = "import lesionseg\ntry:\n    import detectron2\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    assert run_python(code, tmp_path) == "detectron2"


@pytest.mark.skipif(importlib.util.find_spec("LabGym") is None, reason="the copy in LabGym is not installed")
def test_the_copy_is_one_module_under_two_names():
    code = """
import lesionseg, sys
import detectron2.data.transforms as alias, detectron2.structures
from detectron2 import model_zoo
import LabGym.detectron2.data.transforms as own
if "detectron2" in type(sys.modules["detectron2"]).__module__ or sys.modules["detectron2"].__name__ == "detectron2":
    print("real")
else:
    assert alias is own
    assert own.__spec__.name == own.__name__ == "LabGym.detectron2.data.transforms"
    names = [name for name in sys.modules if name.startswith("detectron2.")]
    assert names and all(sys.modules[name] is sys.modules["LabGym." + name] for name in names)
    assert not [name for name in sys.modules if name.startswith("LabGym.") and ".detectron2" not in name]
    print("copy")
"""
    assert run_python(code) in ("copy", "real")


def test_preparing_data_needs_neither_torch_nor_detectron2():
    code = "import sys, lesionseg.prepare, lesionseg.synthetic; print([n for n in sys.modules if n in ('torch', 'detectron2')])"
    assert run_python(code) == "[]"
