"""An exported model where there is neither torch nor Detectron2: tools/predict.py, as a user runs it."""

from __future__ import annotations

import csv
import os
import site
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_run import make_run

from lesionseg import LesionPredictor
from lesionseg.config import setup_cfg
from lesionseg.export import export_model
from lesionseg.predict_run import predict_images

ROOT = Path(__file__).resolve().parent.parent
MISSING = ("torch", "labgym", "detectron2", "fvcore", "iopath", "functorch")


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables of an installation that holds all but `MISSING`."""
    folder = tmp_path_factory.mktemp("site-packages")
    for packages in filter(
        os.path.isdir, site.getsitepackages()
    ):  # Debian's Python names some that are not there
        for entry in Path(packages).iterdir():
            name = entry.name.lower()
            if not name.startswith((*MISSING, "__editable__", "lesionseg")) and not name.endswith(".pth"):
                (folder / entry.name).symlink_to(entry)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}


def python(environment: dict[str, str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    # -S: the interpreter's own site-packages stay out.
    return subprocess.run(
        [sys.executable, "-S", "-W", "ignore", *map(str, words)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "tool, options",
    [
        ("predict.py", ["--weights", "{}/model_best.pth", "--input", "{}"]),
        ("export_model.py", ["--run", "{}"]),
    ],
)
def test_what_needs_torch_says_so(
    without_torch: dict[str, str], tmp_path: Path, tool: str, options: list[str]
) -> None:
    for name in ("config.yaml", "model_best.pth"):
        (tmp_path / name).touch()
    refused = python(without_torch, ROOT / "tools" / tool, *(word.format(tmp_path) for word in options))
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "torch is not installed" in refused.stderr and "make setup" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("form, name", [("onnx", "model.onnx"), ("openvino", "model.xml")])
def test_prediction_without_torch(
    without_torch: dict[str, str], tmp_path: Path, form: str, name: str
) -> None:
    for package in ("torch", "detectron2"):
        assert f"No module named '{package}'" in python(without_torch, "-c", f"import {package}").stderr
    run, imgs = make_run(tmp_path / "run"), tmp_path / "imgs"
    imgs.mkdir()
    rng = np.random.default_rng(0)
    for index in range(5):
        small = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(imgs / f"{index}.png"), cv2.resize(small, (120, 80 + 20 * index)))
    (imgs / "broken.jpg").write_bytes(b"no picture")
    export_model(
        setup_cfg(run / "config.yaml"), run / "model_best.pth", run / name, form, images=[imgs / "0.png"]
    )
    tool = [ROOT / "tools/predict.py", "--weights", run / name, "--input", imgs]
    done = python(without_torch, *tool, "--output", tmp_path / "out", "--workers", "2")
    assert done.returncode == 1, done.stderr
    assert "5 images predicted" in done.stdout and "broken.jpg" in done.stdout
    kinds = ["crop", "mask", "masked_crop"]  # no overlay: it is Detectron2's Visualizer that draws
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == kinds
    predict_images(LesionPredictor(run), [imgs], tmp_path / "original", ("csv",), workers=1)
    tables = []
    for folder in ("out", "original"):
        with open(tmp_path / folder / "predictions.csv", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == len(tables[1]) == 25
    for ours, theirs in zip(*tables, strict=True):
        assert (ours["file"], ours["class"]) == (theirs["file"], theirs["class"])
        assert float(ours["score"]) == pytest.approx(float(theirs["score"]), abs=1e-4)
        assert int(ours["area_px"]) == pytest.approx(int(theirs["area_px"]), abs=20)
    refused = python(without_torch, *tool, "--save", "overlay", "--output", tmp_path / "overlay")
    assert refused.returncode == 2 and "overlays are drawn by Detectron2's Visualizer" in refused.stderr
