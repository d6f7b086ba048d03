from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from lesionseg.images import ImageInfo
from lesionseg.sources import Listing, Sample
from lesionseg.validate import (
    Problem,
    check_brightness,
    check_image,
    check_listing,
    check_pair,
    unsafe_name,
    write_problems,
)

INFO = ImageInfo(height=20, width=30, mode="RGB", orientation=1, transparent=False)
IMAGE, MASK = Path("a.jpg"), Path("a.png")


def block(value: int = 255) -> np.ndarray:
    values = np.zeros((20, 30), np.uint8)
    values[5:15, 5:25] = value
    return values


def kinds(problems: list[Problem]) -> list[tuple[str, str]]:
    return [(problem.level, problem.kind) for problem in problems]


@pytest.mark.parametrize("name", ["ISIC_0000000.jpg", "mole 3 (left).png", "näevus.jpg", "a.b.c.tif"])
def test_safe_names(name: str) -> None:
    assert unsafe_name(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "a\nb.jpg",
        "-rf.jpg",
        "=1+1.jpg",
        "a:b.jpg",
        "a?.jpg",
        "con.png",
        "a .jpg",
        "x" * 200 + ".jpg",
        "\udcff.jpg",
    ],
)
def test_unsafe_names(name: str) -> None:
    assert unsafe_name(name)


def test_listing_problems_are_all_there() -> None:
    listing = Listing(
        layout="plain",
        samples=[
            Sample("a", Path("a.jpg"), Path("a.png")),
            Sample("b", Path("b.jpg"), None),
            Sample("-c", Path("-c.jpg"), Path("-c.png")),
        ],
        orphan_masks=[Path("o.png")],
        same_id=[[Path("t.jpg"), Path("t.png"), Path("t_mask.png")]],
        ignored={},
    )
    problems = check_listing(listing)
    assert sorted((problem.kind, problem.file, problem.sample_id) for problem in problems) == [
        ("image without mask", "b.jpg", "b"),
        ("mask without image", "o.png", ""),
        ("same id", "t.jpg", "t"),
        ("unsafe file name", "'-c.jpg'", "-c"),
        ("unsafe file name", "'-c.png'", "-c"),
    ]
    assert {problem.level for problem in problems} == {"error"}
    assert all(problem.expected and problem.found and problem.remedy for problem in problems)


def test_good_pair() -> None:
    assert check_pair(IMAGE, INFO, MASK, block()) == []


def test_sizes_differ() -> None:
    (problem,) = check_pair(IMAGE, INFO, MASK, block().T)
    assert (problem.level, problem.kind, problem.found) == ("error", "sizes differ", "20x30 px")
    assert "30x20 px as in a.jpg" in problem.expected


def test_mask_drawn_on_the_picture_before_exif_turned_it() -> None:
    info = ImageInfo(height=30, width=20, mode="RGB", orientation=6, transparent=False)
    (problem,) = check_pair(IMAGE, info, MASK, block())
    assert problem.kind == "sizes differ" and "EXIF orientation is 6" in problem.expected


def test_empty_masks() -> None:
    (problem,) = check_pair(IMAGE, INFO, MASK, block(0))
    assert kinds([problem]) == [("error", "empty mask")] and "largest value 0" in problem.found
    (problem,) = check_pair(IMAGE, INFO, MASK, block(1))
    assert "0 and 255 instead of 0 and 1" in problem.remedy


def test_full_frame_mask_is_a_warning() -> None:
    assert kinds(check_pair(IMAGE, INFO, MASK, np.full((20, 30), 255, np.uint8))) == [
        ("warning", "full-frame mask")
    ]


def test_anti_aliased_edge_is_a_warning() -> None:
    values = block()
    values[5, 5:25] = 140
    assert kinds(check_pair(IMAGE, INFO, MASK, values)) == [("warning", "not binary")]


def test_compression_noise_is_nothing() -> None:
    values = block()
    values[values == 255] = 250
    values[0, 0] = 9
    assert check_pair(IMAGE, INFO, MASK, values) == []


def test_a_photograph_for_a_mask_is_an_error() -> None:
    ramp = np.tile(np.linspace(0, 255, 300).astype(np.uint8), (200, 1))
    info = ImageInfo(height=200, width=300, mode="RGB", orientation=1, transparent=False)
    (problem,) = check_pair(IMAGE, info, MASK, ramp)
    assert kinds([problem]) == [("error", "not binary")]


def test_image_kinds() -> None:
    assert check_image(IMAGE, INFO, copied=False) == []
    deep = ImageInfo(20, 30, "I;16", 1, False)
    assert kinds(check_image(IMAGE, deep, copied=False)) == [("error", "pixel format")]
    assert check_image(IMAGE, deep, copied=True) == []
    glass = ImageInfo(20, 30, "RGBA", 1, True)
    assert kinds(check_image(IMAGE, glass, copied=False)) == [("error", "pixel format")]
    turned = ImageInfo(20, 30, "RGB", 6, False)
    assert kinds(check_image(IMAGE, turned, copied=False)) == [("warning", "EXIF-rotated image")]


def test_almost_black_image() -> None:
    assert check_brightness(IMAGE, block(32)) == []
    assert kinds(check_brightness(IMAGE, block(15))) == [("warning", "almost black image")]


def test_problems_csv(tmp_path: Path) -> None:
    problems = [
        Problem("warning", "w", "b.jpg", "x", "y", "z", "b"),
        Problem("error", "e", "a,\udcff.jpg", "x", "y", "z"),
    ]
    write_problems(tmp_path / "problems.csv", problems)
    with (tmp_path / "problems.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["level"] for row in rows] == ["error", "warning"]
    assert rows[0]["file"] == "a,?.jpg" and rows[1]["sample_id"] == "b"
