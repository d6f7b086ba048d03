"""Reduced decoding: sizes, turning, and what it leaves to ordinary reading."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_run import make_run

from lesionseg import LesionPredictor
from lesionseg.images import read_image
from lesionseg.reduced_jpeg import read_reduced_jpeg


@pytest.fixture
def picture() -> Image.Image:
    """400x300 px: dark red left, light blue right."""
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[:, :200], pixels[:, 200:] = (120, 20, 20), (180, 200, 250)
    return Image.fromarray(pixels)


def test_reduced_by_the_largest_power_of_two(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture.save(path)
    for least, shape in ((150, (200, 150)), (76, (200, 150)), (75, (100, 75)), (20, (50, 38))):
        found = read_reduced_jpeg(path, least)
        assert found is not None
        image, size = found
        assert image.size == shape and size == (300, 400)
        reference = cv2.resize(read_image(path), shape, interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(np.asarray(image)[:, :, ::-1] - reference).mean() < 3
    assert read_reduced_jpeg(path, 151) is None


def test_turned_photograph(picture: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    found = read_reduced_jpeg(tmp_path / "a.jpg", 100)
    assert found is not None
    image, size = np.asarray(found[0]), found[1]
    assert image.shape == (200, 150, 3) and size == (400, 300) == read_image(tmp_path / "a.jpg").shape[:2]
    assert image[20, 75, 0] > image[20, 75, 2]  # left became above: red is on top
    assert image[180, 75, 2] > image[180, 75, 0]


def test_other_files_are_left_alone(picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "a.png")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture.save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    for name in ("a.png", "cmyk.jpg", "cut.jpg", "nope.jpg"):
        assert read_reduced_jpeg(tmp_path / name, 50) is None
    assert read_reduced_jpeg(tmp_path / "whole.jpg", 50) is not None
    picture.convert("L").save(tmp_path / "grey.jpg")
    found = read_reduced_jpeg(tmp_path / "grey.jpg", 50)
    assert found is not None and found[0].size == (100, 75) and found[0].mode == "RGB"


def test_large_files_give_the_results_of_the_full_image(tmp_path: Path) -> None:
    predictor = LesionPredictor(make_run(tmp_path / "run"))
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    path = tmp_path / "large.jpg"
    cv2.imwrite(str(path), cv2.resize(small, (1201, 901), interpolation=cv2.INTER_CUBIC))
    assert read_reduced_jpeg(path, 2 * predictor.cfg.INPUT.MIN_SIZE_TEST) is not None
    ((_, found),) = predictor.predict([path])
    full = predictor(read_image(path))
    assert found.image_size == full.image_size == (901, 1201)
    assert float(found.scores[0]) == pytest.approx(float(full.scores[0]), abs=0.02)
    overlap = (found.pred_masks[0] & full.pred_masks[0]).sum() / (
        found.pred_masks[0] | full.pred_masks[0]
    ).sum()
    assert overlap > 0.97
