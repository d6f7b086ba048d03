"""The order of the package: every module belongs to one part, and imports that part and earlier ones only."""

from __future__ import annotations

import ast

import pytest
from conftest import ROOT

# The parts of lesionseg/, first to last. Names are module names; a trailing * stands for a family.
PARTS = {
    "foundation": "errors _detectron2 config grey_png images reduced_jpeg precision checkpoint runs tables intervals rle workers",
    "data preparation": "sources labels duplicates validate split convert journal prepared summary prepare synthetic",
    "data for the network": "register sampling augment visualize",
    "masks and metrics": "masks metrics boundary detections crops conditions calibration detection_curve",
    "training": "evaluation launching hooks trainer stages",
    "features": "features*",
    "classifier": "crop_export classifier*",
    "prediction": "stream loading tta predictor runtime inputs annotations overlay outputs prediction_journal predict_run "
    "storage predict_cluster",
    "export": "agreement export*",
    "scores": "cases scoring score_summary scorecard subgroups leaks run_scores comparison tuning folds",
    "report": "report*",
}
MODULES = sorted(path.stem for path in (ROOT / "lesionseg").glob("*.py") if path.stem != "__init__")


def part_of(module: str) -> int:
    """The index of a module's part; exact names go before families."""
    for exact in (True, False):
        for index, names in enumerate(PARTS.values()):
            for name in names.split():
                if module == name or (not exact and name.endswith("*") and module.startswith(name[:-1])):
                    return index
    pytest.fail(f"lesionseg/{module}.py belongs to no part: add it to one in {__file__}")


def imported(module: str) -> set[str]:
    """Modules of the package that a module imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / f"lesionseg/{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lesionseg."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "lesionseg":
            found |= {alias.name for alias in node.names} & set(MODULES)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_its_part_and_earlier_ones_only(module):
    later = {name for name in imported(module) if part_of(name) > part_of(module)}
    assert not later


def test_no_circles():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"imports in a circle: {' -> '.join([*path, module])}"
        if module not in done:
            for name in imported(module):
                visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.name)
def test_tools_are_thin_and_mask_no_order_of_imports(path):
    text = path.read_text()
    assert len(text.splitlines()) < 80
    # Where only the copy in LabGym is installed, `detectron2` exists once lesionseg is imported.
    assert "import detectron2" not in text and "from detectron2" not in text


def test_modules_log_and_do_not_print():
    printing = []
    for module in MODULES:
        for node in ast.walk(ast.parse((ROOT / f"lesionseg/{module}.py").read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                printing.append(f"{module}.py:{node.lineno}")
    # run_tool is the one place that speaks for the tools.
    assert {place.split(":")[0] for place in printing} <= {"errors.py"}
