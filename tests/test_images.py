from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import leave_half_written
from PIL import Image

from lesionseg.images import (
    ImageError,
    atomic_write,
    image_info,
    image_size,
    read_image,
    read_mask,
    read_mask_values,
    read_reduced,
    remove_leftovers,
    write_image,
)

RED_RGB, BLUE_RGB = (200, 10, 20), (5, 60, 220)


@pytest.fixture
def left_red() -> Image.Image:
    """4 wide, 2 high: left half red, right half blue."""
    image = Image.new("RGB", (4, 2), BLUE_RGB)
    image.paste(RED_RGB, (0, 0, 2, 2))
    return image


def test_read_image_is_bgr_in_file_order(tmp_path: Path, left_red: Image.Image) -> None:
    left_red.save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png")
    assert pixels.dtype == np.uint8 and pixels.shape == (2, 4, 3)
    assert pixels[0, 0].tolist() == list(RED_RGB[::-1])
    assert pixels[1, 3].tolist() == list(BLUE_RGB[::-1])


def test_read_image_palette_keeps_colours(tmp_path: Path, left_red: Image.Image) -> None:
    left_red.quantize(2).save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png")[0, 0].tolist() == list(RED_RGB[::-1])


@pytest.mark.parametrize(("mode", "name"), [("L", "l.png"), ("1", "one.bmp"), ("1", "one.tif")])
def test_read_image_grey_and_1_bit(tmp_path: Path, mode: str, name: str) -> None:
    image = Image.new("L", (4, 2), 0)
    image.paste(255, (0, 0, 2, 2))
    image.convert(mode).save(tmp_path / name)
    pixels = read_image(tmp_path / name)
    assert pixels.shape == (2, 4, 3)
    assert pixels[:, :2].min() == 255 and pixels[:, 2:].max() == 0


def test_read_image_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(
        tmp_path / "c.tif"
    )  # no cyan, all magenta and yellow: red
    assert read_image(tmp_path / "c.tif")[4, 4].tolist() == [0, 0, 255]


def test_read_image_transparency_over_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))  # fully transparent black must show as white
    image.putpixel((1, 0), (100, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 51))  # a fifth of black over white: 204
    image.save(tmp_path / "t.png")
    assert read_image(tmp_path / "t.png")[0].tolist() == [[255] * 3, [0, 0, 100], [204] * 3]
    assert not image_info(tmp_path / "t.png").plain


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_and_colour_scale_alike(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128 * 257, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / f"grey{suffix}"), values)
    cv2.imwrite(str(tmp_path / f"colour{suffix}"), np.dstack([values] * 3))
    for name in ("grey", "colour"):
        assert read_image(tmp_path / f"{name}{suffix}")[0, :, 0].tolist() == [0, 128, 255]
    assert not image_info(tmp_path / f"grey{suffix}").plain
    assert image_info(tmp_path / f"colour{suffix}").plain


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    """The corner that EXIF calls the first pixel (row, column of the picture seen) ends where EXIF says."""
    image = Image.new("L", (48, 32), 0)
    image.paste(255, (0, 0, 16, 16))  # stored top left
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "o.jpg", exif=exif, quality=100)
    seen = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[
        orientation
    ]
    size = (32, 48) if orientation < 5 else (48, 32)
    pixels = read_image(tmp_path / "o.jpg")
    assert pixels.shape[:2] == size == image_size(tmp_path / "o.jpg")
    assert image_info(tmp_path / "o.jpg").orientation == orientation
    corners = pixels[[0, -1]][:, [0, -1], 0] > 128
    assert np.argwhere(corners).tolist() == [list(seen)]
    assert (read_mask(tmp_path / "o.jpg")[[0, -1]][:, [0, -1]] == corners).all()


def test_agrees_with_detectron2_on_plain_files(tmp_path: Path, left_red: Image.Image) -> None:
    from detectron2.data.detection_utils import read_image as detectron2_read_image

    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(tmp_path / "rgb.jpg", exif=exif)
    Image.fromarray(noise[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(noise).convert("CMYK").save(tmp_path / "cmyk.jpg")
    left_red.quantize(2).save(tmp_path / "palette.png")
    left_red.convert("1").save(tmp_path / "one.bmp")
    left_red.convert("RGBA").save(tmp_path / "opaque.png")
    for path in sorted(tmp_path.iterdir()):
        assert image_info(path).plain, path.name
        assert (read_image(path) == detectron2_read_image(str(path), format="BGR")).all(), path.name


def test_truncated_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("cut.jpg", "cut.png"):
        Image.fromarray(noise).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("cut.jpg", "cut.png", "text.png", "empty.jpg", "absent.jpg"):
        for read in (read_image, read_mask, lambda path: read_reduced(path, 8)):
            with pytest.raises(ImageError, match=name):
                read(tmp_path / name)
    with pytest.raises(ImageError, match=r"text.png"):
        image_size(tmp_path / "text.png")


def test_floating_point_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ImageError, match="floating point"):
        read_image(tmp_path / "f.tif")


def test_mask_threshold_is_above_128(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 127, 128, 129, 255]], np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png")[0].tolist() == [False, False, False, True, True]
    assert read_mask_values(tmp_path / "m.png")[0].tolist() == [0, 127, 128, 129, 255]
    cv2.imwrite(str(tmp_path / "m16.png"), np.array([[0, 128, 128 * 257, 129 * 257, 65535]], np.uint16))
    assert read_mask(tmp_path / "m16.png")[0].tolist() == [False, False, False, True, True]


def test_mask_palette_is_looked_up(tmp_path: Path) -> None:
    """Index 0 white, index 255 black, as in some HAM10000 masks: the raw indices would give the inverse."""
    image = Image.fromarray(np.array([[0, 0, 255]], np.uint8), mode="P")
    image.putpalette([255, 255, 255] + [0, 0, 0] * 255)
    image.save(tmp_path / "p.png")
    assert read_mask(tmp_path / "p.png")[0].tolist() == [True, True, False]


def test_mask_1_bit_and_colour(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "one.bmp")
    assert read_mask(tmp_path / "one.bmp")[0].tolist() == [True, False]
    rgba = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    rgba.putpixel((0, 0), (255, 255, 255, 0))  # transparency says nothing about a mask
    rgba.save(tmp_path / "rgba.png")
    assert read_mask(tmp_path / "rgba.png")[0].tolist() == [True, False]


def test_read_reduced_reduces_jpeg_but_not_below(tmp_path: Path) -> None:
    gradient = np.tile(np.linspace(0, 255, 640).astype(np.uint8), (480, 1))
    Image.fromarray(gradient).save(tmp_path / "g.jpg", quality=95)
    info, small = read_reduced(tmp_path / "g.jpg", 64)
    assert info == image_info(tmp_path / "g.jpg") and (info.height, info.width) == (480, 640)
    assert 64 <= min(small.shape) < 480 and small.shape[1] * 3 == small.shape[0] * 4
    assert (
        np.abs(np.diff(small.mean(axis=0))).max() < 10 and small[:, 0].max() < 5 and small[:, -1].min() > 250
    )
    Image.fromarray(gradient).save(tmp_path / "g.png")
    assert read_reduced(tmp_path / "g.png", 64)[1].shape == (480, 640)


def test_atomic_write_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    target = tmp_path / "new" / "x.json"
    with atomic_write(target) as temporary:
        assert temporary.suffix == ".json" and temporary.parent == target.parent
        temporary.write_text("first")
    with pytest.raises(RuntimeError), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["x.json"]


def test_what_killed_writers_leave_is_removed(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in (".hidden.png", "a.1-0123abcd.png", ".a.1-0123abc.png", "mask/b.png")]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    other = leave_half_written(tmp_path / "c.png")
    half = [leave_half_written(tmp_path / "mask" / name) for name in ("b.png", "no suffix", "x.y.tar.gz")]
    remove_leftovers(tmp_path / "mask", tmp_path / "no such folder")
    assert other.exists() and not any(path.exists() for path in half)
    remove_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_write_image_round_trips(tmp_path: Path) -> None:
    bgr = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_image(tmp_path / "sub" / "a.png", bgr)
    assert (read_image(tmp_path / "sub" / "a.png") == bgr).all()
    mask = bgr[..., 0] > 100
    write_image(tmp_path / "m.png", mask)
    assert set(np.unique(read_mask_values(tmp_path / "m.png"))) == {0, 255}
    assert (read_mask(tmp_path / "m.png") == mask).all()
    with pytest.raises(ImageError, match=r"a.xyz"):
        write_image(tmp_path / "a.xyz", bgr)
