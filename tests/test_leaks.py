"""Test images that are in the training data, found by id, file, picture, lesion."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lesionseg.duplicates import fingerprint
from lesionseg.errors import LesionsegError
from lesionseg.images import read_grey
from lesionseg.leaks import find_leaks, leak_summary, read_rows


def photograph(path: Path, seed: int) -> Path:
    noise = np.random.default_rng(seed).normal(size=(24, 24, 3)).astype(np.float32)
    picture = cv2.GaussianBlur(cv2.resize(noise, (256, 256), interpolation=cv2.INTER_CUBIC), (0, 0), 6)
    cv2.imwrite(str(path), cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8))
    return path


def row(name: str, path: Path, group: str = "") -> dict[str, str]:
    found = fingerprint(path, read_grey(path, 128))
    return {"id": name, "sha256": found.sha256, "phash": found.phash, "group": group}


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    files = {name: photograph(tmp_path / f"{name}.png", seed) for seed, name in enumerate("abcde")}
    picture = cv2.imread(str(files["a"]))
    files["a saved again"] = tmp_path / "again.jpg"
    cv2.imwrite(str(files["a saved again"]), cv2.resize(picture, (200, 200)), [cv2.IMWRITE_JPEG_QUALITY, 70])
    return files


def test_each_kind_of_leak(pictures: dict[str, Path]) -> None:
    train = [row("t1", pictures["a"]), row("t2", pictures["b"], "lesion 9"), row("t3", pictures["c"])]
    train_files = {"t1": pictures["a"], "t2": pictures["b"], "t3": pictures["c"]}
    test = [
        row("t3", pictures["d"]),
        row("other name", pictures["b"]),
        row("again", pictures["a saved again"]),
        row("same lesion", pictures["e"], "lesion 9"),
        row("clean", pictures["d"], "lesion 10"),
    ]
    test_files = {"t3": pictures["d"], "again": pictures["a saved again"]}
    found = {leak.test: (leak.train, leak.kind) for leak in find_leaks(train, test, train_files, test_files)}
    assert found == {
        "t3": ("t3", "id"),
        "other name": ("t2", "file"),
        "again": ("t1", "picture"),
        "same lesion": ("t2", "group"),
    }


def test_without_the_pictures_only_an_equal_hash_counts(pictures: dict[str, Path]) -> None:
    train = [row("t1", pictures["a"])]
    equal = {**row("x", pictures["b"]), "phash": train[0]["phash"]}
    near = {**equal, "id": "y", "phash": f"{int(train[0]['phash'], 16) ^ 1:016x}"}
    assert [(leak.test, leak.kind) for leak in find_leaks(train, [equal, near], {}, {})] == [("x", "hash")]


def test_like_hashes_of_unlike_pictures_are_no_leak(pictures: dict[str, Path]) -> None:
    train, test = (
        [row("t1", pictures["a"])],
        [{**row("x", pictures["b"]), "phash": row("t1", pictures["a"])["phash"]}],
    )
    assert find_leaks(train, test, {"t1": pictures["a"]}, {"x": pictures["b"]}) == []


def test_nothing_to_compare() -> None:
    assert find_leaks([], [], {}, {}) == []


def test_what_is_said(pictures: dict[str, Path]) -> None:
    train, test = [row("t1", pictures["a"])], [row("t1", pictures["a"]), row("t2", pictures["b"])]
    summary = leak_summary(find_leaks(train, test, {}, {}), 1, 2)
    assert summary["text"].startswith("LEAK: 1 images scored are in the training data, too: 1 by id (t1)")
    assert summary["found"] == [{"test": "t1", "train": "t1", "kind": "id"}]
    assert leak_summary([], 1, 2)["text"].startswith("leaks: none found")


def test_other_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,x\n1,2\n")
    with pytest.raises(LesionsegError, match="expected columns id, sha256, phash and group, found id, x"):
        read_rows(tmp_path / "a.csv")
    with pytest.raises(LesionsegError, match="cannot be read"):
        read_rows(tmp_path / "b.csv")
