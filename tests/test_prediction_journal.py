"""The journal: continue, notice changes, never mix."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tiny_run import make_run

from lesionseg.errors import LesionsegError
from lesionseg.inputs import JOURNAL, Item
from lesionseg.loading import prediction_cfg
from lesionseg.prediction_journal import Journal, fingerprint, identity

MODEL = {"weights (SHA-256)": "abc", "LESION.SCORE_THRESHOLD": "0.3"}


@pytest.fixture
def item(tmp_path: Path) -> Item:
    (tmp_path / "imgs").mkdir()
    (tmp_path / "imgs/a.png").write_text("pixels")
    return Item(tmp_path / "imgs/a.png", "a.png")


def row(item: Item, folder: Path, **files: list[str]) -> dict[str, Any]:
    for file in [name for names in files.values() for name in names]:
        (folder / file).touch()
    size, modified = identity(item.path)
    source = str(item.path.absolute())
    return {"name": item.name, "source": source, "bytes": size, "modified": modified, "files": files}


def test_finished_images_are_known_again(item: Item, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Journal(out, MODEL) as journal:
        assert not journal.finished(item, [])
        journal.replace(row(item, out, mask=["a_mask.png"]))
        assert journal.finished(item, ["mask"])
    with Journal(out, MODEL) as journal:
        assert journal.finished(item, ["mask"]) and journal.finished(item, [])
        assert not journal.finished(item, ["mask", "overlay"])  # one more kind of output is asked for
        (out / "a_mask.png").unlink()
        assert not journal.finished(item, ["mask"]) and journal.finished(item, [])


def test_changed_image_is_not_finished(item: Item, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Journal(out, MODEL) as journal:
        journal.replace(row(item, out, crop=["a_1.png", "a_2.png"]))
        os.utime(item.path, ns=(1, 1))
        assert not journal.finished(item, [])
        journal.replace(row(item, out, crop=["a_1.png"]))
        assert journal.finished(item, ["crop"])
    assert (out / "a_1.png").exists() and not (out / "a_2.png").exists()  # no crop of the former image stays


def test_further_outputs_add_to_the_row(item: Item, tmp_path: Path) -> None:
    with Journal(tmp_path / "out", MODEL) as journal:
        journal.replace(row(item, tmp_path / "out", mask=["m.png"]))
        journal.replace(row(item, tmp_path / "out", overlay=["o.jpg"]))
        assert journal.finished(item, ["mask", "overlay"])


def test_name_taken_by_another_image(item: Item, tmp_path: Path) -> None:
    with Journal(tmp_path / "out", MODEL) as journal:
        journal.replace(row(item, tmp_path / "out"))
        (tmp_path / "a.png").write_text("other pixels")
        with pytest.raises(LesionsegError, match=r"made from .*imgs/a\.png, not from"):
            journal.finished(Item(tmp_path / "a.png", "a.png"), [])


def test_half_a_line_is_dropped(item: Item, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Journal(out, MODEL) as journal:
        journal.replace(row(item, out))
    whole = (out / JOURNAL).read_bytes()
    (out / JOURNAL).write_bytes(whole + b'{"name": "b", "sou')
    with Journal(out, MODEL) as journal:
        assert journal.finished(item, []) and journal.row("b") is None
        journal.replace({**row(item, out), "name": "c"})
    with Journal(out, MODEL) as journal:
        assert journal.row("c") is not None
    assert all(json.loads(line) for line in (out / JOURNAL).read_text().splitlines())


def test_results_of_two_models_do_not_mix(item: Item, tmp_path: Path) -> None:
    out, other = tmp_path / "out", {**MODEL, "LESION.SCORE_THRESHOLD": "0.5"}
    with Journal(out, MODEL):
        pass
    with Journal(out, other) as journal:  # no result yet: nothing to mix
        journal.replace(row(item, out, mask=["a.png"]))
    with pytest.raises(LesionsegError, match=r"LESION.SCORE_THRESHOLD: 0\.5 then, 0\.3 now"):
        Journal(out, MODEL)
    assert (out / "a.png").exists()
    with Journal(out, MODEL, overwrite=True) as journal:
        assert journal.row("a") is None and not (out / "a.png").exists()


def test_not_a_journal(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text("hello\n")
    with pytest.raises(LesionsegError, match="not a record of predictions"):
        Journal(tmp_path, MODEL)


def test_fingerprint_follows_what_results_depend_on(tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)
    cfg = prediction_cfg(run)
    made_by = fingerprint(cfg)
    assert fingerprint(prediction_cfg(run, device="cpu")) == made_by
    (tmp_path / "copy").mkdir()
    for name in ("config.yaml", "model_best.pth"):
        (tmp_path / "copy" / name).write_bytes((run / name).read_bytes())
    assert fingerprint(prediction_cfg(tmp_path / "copy")) == made_by  # content counts, not the path
    changed = fingerprint(prediction_cfg(other))
    assert [key for key in made_by if made_by[key] != changed[key]] == ["weights (SHA-256)"]
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST = 72
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.2
    changed = fingerprint(cfg)
    keys = ["MODEL.ROI_HEADS.NMS_THRESH_TEST", "INPUT.MIN_SIZE_TEST"]
    assert [key for key in made_by if made_by[key] != changed[key]] == keys
