"""Drawn dermoscopy: deterministic, within its stated ranges, labelled by its stated rule, and readable by the tools."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from lesionseg.errors import LesionsegError
from lesionseg.images import read_image, read_mask
from lesionseg.prepare import prepare
from lesionseg.prepared import PrepareOptions
from lesionseg.synthetic import draw, draw_lesion, lesion_number, make_synthetic


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_same_seed_same_bytes_and_an_image_depends_on_its_index_alone(tmp_path):
    make_synthetic(tmp_path / "a", 6, 64, seed=3, workers=1)
    make_synthetic(tmp_path / "b", 6, 64, seed=3, workers=2)
    make_synthetic(tmp_path / "c", 3, 64, seed=3, workers=1)
    make_synthetic(tmp_path / "d", 3, 64, seed=4, workers=1)
    a, c, d = (digests(tmp_path / name) for name in "acd")
    assert a == digests(tmp_path / "b")
    images = [name for name in c if name.startswith("ISIC_")]
    assert len(images) == 6
    assert all(c[name] == a[name] for name in images)
    assert all(c[name] != d[name] for name in images if name.endswith(".jpg"))


def test_a_stopped_run_continues(tmp_path):
    make_synthetic(tmp_path, 4, 64, seed=0, workers=1)
    before = digests(tmp_path)
    lost = tmp_path / "masks/ISIC_9000002_segmentation.png"
    kept = tmp_path / "images/ISIC_9000000.jpg"
    lost.unlink()
    (tmp_path / "labels.csv").unlink()
    stamp = kept.stat().st_mtime_ns
    make_synthetic(tmp_path, 4, 64, seed=0, workers=1)
    assert digests(tmp_path) == before and kept.stat().st_mtime_ns == stamp


def test_a_second_run_touches_no_file(tmp_path):
    def stamps():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    make_synthetic(tmp_path, 2, 64, seed=0, workers=1)
    before = stamps()
    assert len(before) == 6
    assert make_synthetic(tmp_path, 2, 64, seed=0, workers=1) == len(
        [number for number in range(2) if draw_lesion(0, number).malignant]
    )
    assert stamps() == before


def test_labels_follow_the_rule_and_classes_are_balanced():
    lesions = [draw_lesion(0, number) for number in range(400)]
    for lesion in lesions:
        assert lesion.malignant == ([lesion.asymmetric, lesion.abrupt, lesion.many_colours].count(True) >= 2)
        assert lesion.malignant == lesion.many_colours
    assert 0.4 < np.mean([lesion.malignant for lesion in lesions]) < 0.6
    single = [x for x in lesions if not x.malignant and (x.asymmetric or x.abrupt)]
    assert 0.08 < len(single) / sum(not x.malignant for x in lesions) < 0.28  # one in six


def asymmetry(mask: np.ndarray) -> float:
    """Share of the lesion that a turn by 180 degrees about its centre of mass does not cover."""
    y, x = np.nonzero(mask)
    turned = np.zeros_like(mask)
    ty, tx = np.round(2 * y.mean() - y).astype(int), np.round(2 * x.mean() - x).astype(int)
    inside = (ty >= 0) & (ty < mask.shape[0]) & (tx >= 0) & (tx < mask.shape[1])
    turned[ty[inside], tx[inside]] = True
    return 1 - (turned & mask).sum() / mask.sum()


def touches_border(mask: np.ndarray) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def test_what_the_label_says_can_be_seen():
    drawings = [d for d in (draw(1, index, 96) for index in range(60)) if not touches_border(d.mask)]
    shape = {
        flag: [asymmetry(d.mask) for d in drawings if d.lesion.asymmetric is flag] for flag in (True, False)
    }
    assert np.median(shape[True]) > 2 * np.median(shape[False])
    # Many colours: a wide spread of hue and lightness inside the lesion.
    spread = {True: [], False: []}
    for d in drawings:
        lab = cv2.cvtColor(d.image, cv2.COLOR_BGR2LAB)[d.mask].astype(float)
        spread[d.lesion.many_colours].append(lab.std(axis=0).sum())
    assert np.median(spread[True]) > 1.3 * np.median(spread[False])


def test_lesions_are_darker_than_the_skin_around_them():
    contrast = []
    for index in range(60):  # enough for every kind of artefact, which must not move image and mask apart
        d = draw(2, index, 96)
        ring = cv2.dilate(d.mask.astype(np.uint8), np.ones((15, 15))).astype(bool) & ~d.mask
        contrast.append(d.image[ring].mean() - d.image[d.mask].mean())
    assert min(contrast) > 0 and np.median(contrast) > 20


def test_every_tenth_image_is_another_view_of_the_lesion_before_it():
    assert lesion_number(9) == 8 and lesion_number(10) == 10
    first, second = draw(0, 8, 96), draw(0, 9, 96)
    assert first.lesion == second.lesion and not np.array_equal(first.image, second.image)


def test_prepared_set_keeps_views_together_and_knows_the_classes(tmp_path):
    make_synthetic(tmp_path / "raw", 40, 64, seed=0, workers=1)
    raw = tmp_path / "raw"
    options = PrepareOptions(images=raw / "images", masks=raw / "masks", labels=(raw / "labels.csv",),
                             classes="benign-malignant", out=tmp_path / "synthetic", workers=1)  # fmt: skip
    summary = prepare(options)
    assert summary["classes"] == ["benign", "malignant"]
    with open(tmp_path / "synthetic/split.csv", newline="") as file:
        split = {row["id"]: row["split"] for row in csv.DictReader(file)}
    assert len(split) == 40
    assert all(split[f"ISIC_90000{n}8"] == split[f"ISIC_90000{n}9"] for n in range(4))


def test_files_are_what_the_tools_expect(tmp_path):
    make_synthetic(tmp_path, 1, 96, seed=5, workers=1)
    drawing = draw(5, 0, 96)
    assert np.array_equal(read_mask(tmp_path / "masks/ISIC_9000000_segmentation.png"), drawing.mask)
    image = read_image(tmp_path / "images/ISIC_9000000.jpg")
    assert np.abs(image.astype(int) - drawing.image).mean() < 4  # JPEG's loss


@pytest.mark.parametrize(
    ("count", "size", "named"), [(0, 64, "--count 0"), (1, 8, "--size 8"), (1, 9999, "--size 9999")]
)
def test_values_out_of_range(tmp_path, count, size, named):
    with pytest.raises(LesionsegError, match=named):
        make_synthetic(tmp_path / "out", count, size, seed=0)


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("all my work")
    with pytest.raises(LesionsegError, match="not empty"):
        make_synthetic(tmp_path, 1, 64, seed=0)
    make_synthetic(tmp_path / "out", 1, 64, seed=0, workers=1)
    with pytest.raises(LesionsegError, match="choose another"):
        make_synthetic(tmp_path / "out", 1, 64, seed=1)
