"""The PNG reader and writer for masks against Pillow, OpenCV and lines filtered by hand."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lesionseg.grey_png import decode_grey_png, encode_grey_png


def png(
    width: int, height: int, lines: bytes, kind: tuple[int, ...] = (8, 0, 0, 0, 0), extra: bytes = b""
) -> bytes:
    """A PNG file of filtered lines, made chunk by chunk."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    packed = zlib.compress(lines)
    half = len(packed) // 2  # content may come in several chunks
    data = chunk(b"IDAT", packed[:half]) + chunk(b"IDAT", packed[half:])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *kind))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + chunk(b"IEND", b"")


def blob() -> np.ndarray:
    rng = np.random.default_rng(1)
    noise = cv2.GaussianBlur(rng.normal(size=(90, 131)), (0, 0), 9)
    return np.where(noise > 0, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (90, 131)])
def test_others_read_what_is_written(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = encode_grey_png(pixels)
    opened = Image.open(io.BytesIO(data))
    assert opened.mode == "L" and np.array_equal(np.asarray(opened), pixels)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), pixels)
    assert np.array_equal(decode_grey_png(data), pixels)


def test_every_filter_by_hand() -> None:
    """Filter type byte, then differences; each line is 10 20 40 in the end."""
    none, sub, up = [0, 10, 20, 40], [1, 10, 10, 20], [2, 0, 0, 0]
    average = [
        3,
        10 - 5,
        20 - (10 + 20) // 2,
        40 - (20 + 40) // 2,
    ]  # of the one on the left and the one above
    # Paeth: left + above - above left, the nearest of the three to it; (0, 10, 0) -> 10, (10, 20, 10) -> 20, (20, 40, 20) -> 40
    paeth = [4, 0, 0, 0]
    expected = [[10, 20, 40]] * 5
    for order in (
        [none, sub, up, average, paeth],
        [sub, average, average, paeth, up],
        [none, paeth, paeth, none, average],
    ):
        found = decode_grey_png(png(3, 5, bytes(value for line in order for value in line)))
        assert found is not None and found.tolist() == expected
    wrapped = decode_grey_png(png(2, 2, bytes([1, 255, 1, 2, 0, 255])))  # sums are modulo 256
    assert wrapped is not None and wrapped.tolist() == [[255, 0], [255, 255]]


def test_first_line_with_a_filter_that_looks_up() -> None:
    for kind, expected in (
        (2, [10, 20, 40]),
        (3, [10, 25, 52]),
        (4, [10, 30, 70]),
    ):  # above the first line are zeros
        data = png(3, 1, bytes([kind, 10, 20, 40]))
        found = decode_grey_png(data)
        assert found is not None and found.tolist() == [expected]
        assert np.asarray(Image.open(io.BytesIO(data))).tolist() == [expected]


@pytest.mark.parametrize(
    "filters",
    ["IMWRITE_PNG_FILTER_SUB", "IMWRITE_PNG_FILTER_UP", "IMWRITE_PNG_FILTER_AVG", "IMWRITE_PNG_FILTER_PAETH", "IMWRITE_PNG_ALL_FILTERS"],
)  # fmt: skip
def test_files_of_opencv(filters: str) -> None:
    if not hasattr(cv2, filters):
        pytest.skip(f"this OpenCV has no {filters}")
    _, data = cv2.imencode(".png", blob(), [cv2.IMWRITE_PNG_FILTER, getattr(cv2, filters)])
    assert np.array_equal(decode_grey_png(data.tobytes()), blob())


def test_real_masks(shared_data: Path) -> None:
    files = sorted((shared_data / "isic2017_originals" / "masks").glob("*.png"))[:12]
    assert files
    for file in files:
        found = decode_grey_png(file.read_bytes())
        assert found is not None and np.array_equal(found, np.asarray(Image.open(file)))


def test_what_is_left_to_pillow() -> None:
    """Other kinds of pixels, transparency, EXIF, what is no PNG, and whatever is wrong in a file."""
    whole = png(2, 2, bytes([0, 1, 2, 0, 3, 4]))
    assert decode_grey_png(whole) is not None
    transparent = struct.pack(">I", 2) + b"tRNS\0\1" + struct.pack(">I", zlib.crc32(b"tRNS\0\1"))
    others = {
        "16 bits": png(1, 2, bytes([0, 1, 2, 0, 3, 4]), (16, 0, 0, 0, 0)),
        "palette": png(2, 2, bytes([0, 1, 2, 0, 3, 4]), (8, 3, 0, 0, 0)),
        "interlaced": png(2, 2, bytes([0, 1, 2, 0, 3, 4]), (8, 0, 0, 0, 1)),
        "transparent": png(2, 2, bytes([0, 1, 2, 0, 3, 4]), extra=transparent),
        "too few lines": png(2, 3, bytes([0, 1, 2, 0, 3, 4])),
        "too many lines": png(2, 1, bytes([0, 1, 2, 0, 3, 4])),
        "unknown filter": png(2, 2, bytes([0, 1, 2, 9, 3, 4])),
        "no pixels": png(0, 2, bytes([0, 0])),
        "cut": whole[:-5],
        "cut before its pixels": whole[:40],
        "a changed byte": whole[:50] + bytes([whole[50] ^ 1]) + whole[51:],
        "empty": b"",
        "JPEG": cv2.imencode(".jpg", blob())[1].tobytes(),
    }
    for name, data in others.items():
        assert decode_grey_png(data) is None, name


def test_bombs_are_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    assert decode_grey_png(png(2, 2, bytes([0, 1, 2, 0, 3, 4]))) is None
