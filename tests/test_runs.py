"""Which model a command takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lesionseg.errors import LesionsegError
from lesionseg.runs import find_model


def make(folder: Path, *names: str, age: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
        os.utime(folder / name, (1_000_000 - age, 1_000_000 - age))
    return folder


def test_newest_run_with_weights_is_taken(tmp_path: Path) -> None:
    make(tmp_path / "old", "config.yaml", "model_best.pth", age=50)
    new = make(tmp_path / "new", "config.yaml", "model_final.pth", age=10)
    make(tmp_path / "begun", "config.yaml")
    model = find_model(root=tmp_path)
    assert (model.config, model.weights) == (new / "config.yaml", new / "model_final.pth")
    make(new, "model_best.pth", age=10)
    assert find_model(root=tmp_path).weights == new / "model_best.pth"
    assert str(model).startswith(f"model: {new}/model_final.pth, configuration: {new}/config.yaml")


def test_given_files_complete_each_other(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "config.yaml", "model_best.pth", "model_0009.pth", "other.yaml")
    assert find_model(weights=run / "model_0009.pth").config == run / "config.yaml"
    assert find_model(config_file=run / "other.yaml").weights == run / "model_best.pth"
    both = find_model(run / "model_0009.pth", run / "other.yaml")
    assert (both.config, both.weights) == (run / "other.yaml", run / "model_0009.pth")
    folder = find_model(weights=run)
    assert (folder.config, folder.weights) == (run / "config.yaml", run / "model_best.pth")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(LesionsegError, match=r"no trained model found.*tools/train_net\.py"):
        find_model(root=tmp_path)
    lone = make(tmp_path / "lone", "model_best.pth")
    with pytest.raises(LesionsegError, match="give it with --config-file"):
        find_model(weights=lone / "model_best.pth")
    bare = make(tmp_path / "bare", "config.yaml")
    with pytest.raises(LesionsegError, match=r"neither model_best.pth nor model_final.pth"):
        find_model(config_file=bare / "config.yaml")
    with pytest.raises(LesionsegError, match=r"nope.pth do not exist"):
        find_model(bare / "nope.pth", bare / "config.yaml")
