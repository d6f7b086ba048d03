from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from lesionseg.convert import ConvertOptions, Record, convert_sample, encode, instances_of, reduced_size
from lesionseg.images import image_info, read_image, read_mask, write_image
from lesionseg.sources import Sample


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(60, 220, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def disc(height: int, width: int, radius: int) -> np.ndarray:
    y, x = np.ogrid[:height, :width]
    return (y - height // 2) ** 2 + (x - width // 2) ** 2 <= radius**2


@pytest.fixture
def pair(tmp_path: Path) -> Sample:
    write_image(tmp_path / "a.jpg", photograph(120, 160))
    write_image(tmp_path / "a.png", disc(120, 160, 30))
    return Sample("a", tmp_path / "a.jpg", tmp_path / "a.png")


def kinds(record: Record) -> list[tuple[str, str]]:
    return [(problem.level, problem.kind) for problem in record.problems]


def test_encode_by_hand() -> None:
    """3 high, 4 wide; columns one after the other: 0 0 0 | 0 1 1 | 1 1 0 | 0 0 0 -> runs 4, 4, 4."""
    mask = np.array([[0, 0, 1, 0], [0, 1, 1, 0], [0, 1, 0, 0]], bool)
    annotation = encode(mask, (slice(0, 3), slice(1, 3)))
    assert annotation["bbox"] == [1, 0, 2, 3] and annotation["area"] == 4 and annotation["iscrowd"] == 0
    runs = coco_mask.frPyObjects({"size": [3, 4], "counts": [4, 4, 4]}, 3, 4)
    assert annotation["segmentation"] == {"size": [3, 4], "counts": runs["counts"].decode()}


def test_encode_keeps_holes_and_every_pixel() -> None:
    mask = disc(50, 60, 20) & ~disc(50, 60, 8)
    mask[0, 0] = mask[-1, -1] = True
    ((_, window),), _ = instances_of(mask, "lesion", 1)
    annotation = encode(mask, window)
    assert (coco_mask.decode(annotation["segmentation"]).astype(bool) == mask).all()
    assert annotation["area"] == mask.sum() and annotation["bbox"] == [0, 0, 60, 50]


def test_instances_one_or_one_a_component() -> None:
    mask = np.zeros((10, 12), bool)
    mask[1:4, 1:4] = True
    mask[2, 2] = False  # a hole
    mask[4, 4] = True  # touches by a corner: the same component
    mask[7:9, 8:12] = True
    mask[9, 0] = True  # a speck
    ((whole, window),), count = instances_of(mask, "lesion", min_area=5)
    assert count == 3 and (whole == mask).all() and window == (slice(1, 10), slice(0, 12))
    parts, count = instances_of(mask, "components", min_area=5)
    assert count == 3 and [int(part.sum()) for part, _ in parts] == [9, 8]
    assert [window for _, window in parts] == [(slice(1, 5), slice(1, 5)), (slice(7, 9), slice(8, 12))]
    assert not parts[0][0][2, 2] and parts[0][0][4, 4]
    assert len(instances_of(mask, "components", min_area=1)[0]) == 3


def test_components_are_counted_alike_in_both_ways() -> None:
    ring = disc(60, 60, 25) & ~disc(60, 60, 15)
    for mask, count in (
        (ring, 1),
        (ring | disc(60, 60, 5), 2),
        (np.eye(9, dtype=bool), 1),
        (np.zeros((9, 9), bool), 0),
    ):
        assert instances_of(mask, "lesion", 1)[1] == instances_of(mask, "components", 1)[1] == count
    noise = np.random.default_rng(0).random((50, 70)) < 0.3
    assert instances_of(noise, "lesion", 1)[1] == instances_of(noise, "components", 1)[1] > 20


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [((600, 800), 400, (300, 400)), ((800, 600), 400, (400, 300)), ((300, 400), 400, (300, 400)),
     ((300, 400), None, (300, 400)), ((1, 4000), 100, (1, 100)), ((479, 640), 320, (240, 320))],
)  # fmt: skip
def test_reduced_size(size: tuple[int, int], limit: int | None, expected: tuple[int, int]) -> None:
    assert reduced_size(*size, limit) == expected


def test_a_good_pair(pair: Sample) -> None:
    record = convert_sample(pair, ConvertOptions())
    mask = disc(120, 160, 30)
    assert record.usable and record.problems == []
    assert (record.height, record.width, record.instances, record.components) == (120, 160, 1, 1)
    assert record.area_share == pytest.approx(mask.sum() / mask.size)
    assert not record.touches_border
    assert (coco_mask.decode(record.annotations[0]["segmentation"]).astype(bool) == mask).all()
    assert Record.from_json(record.to_json()) == record


def test_reduced_copies(pair: Sample, tmp_path: Path) -> None:
    record = convert_sample(pair, ConvertOptions(max_size=80, copies=tmp_path / "out"))
    assert (record.height, record.width, record.image_copy, record.mask_copy) == (
        60,
        80,
        "a.jpg",
        "a_segmentation.png",
    )
    copy = read_image(tmp_path / "out" / "images" / "a.jpg")
    expected = cv2.resize(read_image(pair.image), (80, 60), interpolation=cv2.INTER_AREA)
    assert copy.shape == (60, 80, 3) and np.abs(copy.astype(int) - expected).mean() < 2
    mask = read_mask(tmp_path / "out" / "masks" / "a_segmentation.png")
    full = disc(120, 160, 30)
    assert abs(int(mask.sum()) * 4 - int(full.sum())) < 0.02 * full.sum()
    assert mask.sum() == record.annotations[0]["area"]
    assert (coco_mask.decode(record.annotations[0]["segmentation"]).astype(bool) == mask).all()


def test_small_images_are_not_enlarged_nor_saved_again(pair: Sample, tmp_path: Path) -> None:
    record = convert_sample(pair, ConvertOptions(max_size=500, copies=tmp_path / "out"))
    assert (record.height, record.width) == (120, 160)
    assert (tmp_path / "out" / "images" / "a.jpg").read_bytes() == pair.image.read_bytes()
    bitmap = Sample("b", tmp_path / "b.bmp", pair.mask)
    write_image(bitmap.image, photograph(120, 160))
    assert convert_sample(bitmap, ConvertOptions(max_size=500, copies=tmp_path / "out")).image_copy == "b.jpg"


def test_reduced_mask_takes_pixels_that_are_mostly_lesion(tmp_path: Path) -> None:
    """Halved, each 2 x 2 block with three or four lesion pixels is lesion, one with one is not."""
    mask = np.zeros((40, 40), bool)
    mask[10:21, 10:21] = (
        True  # blocks 5 to 9 full; block 10 holds half along an edge, a quarter at the corner
    )
    mask[30:32, 30:32] = [[True, True], [True, False]]
    write_image(tmp_path / "a.png", mask)
    write_image(tmp_path / "a.jpg", photograph(40, 40))
    sample = Sample("a", tmp_path / "a.jpg", tmp_path / "a.png")
    convert_sample(sample, ConvertOptions(max_size=20, copies=tmp_path / "out"))
    reduced = read_mask(tmp_path / "out" / "masks" / "a_segmentation.png")
    assert reduced[5:10, 5:10].all() and reduced[15, 15] and not reduced[10, 10]
    assert not reduced[:5].any() and not reduced[11:15].any()


def test_16_bit_needs_copies_and_comes_out_8_bit(tmp_path: Path) -> None:
    values = cv2.cvtColor(photograph(64, 64), cv2.COLOR_BGR2GRAY)
    cv2.imwrite(str(tmp_path / "a.tif"), values.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "a.png"), disc(64, 64, 10).astype(np.uint16) * 65535)
    sample = Sample("a", tmp_path / "a.tif", tmp_path / "a.png")
    record = convert_sample(sample, ConvertOptions())
    assert kinds(record) == [("error", "pixel format")] and "--max-size" in record.problems[0].remedy
    assert record.annotations == []
    record = convert_sample(sample, ConvertOptions(max_size=64, copies=tmp_path / "out"))
    assert record.problems == [] and record.image_copy == "a.jpg"
    copy = read_image(tmp_path / "out" / "images" / "a.jpg")
    assert np.abs(copy[..., 0].astype(int) - values).max() < 8


def test_exif_rotated_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photograph(60, 100)).save(tmp_path / "a.jpg", exif=exif)
    write_image(tmp_path / "a.png", disc(100, 60, 20))
    sample = Sample("a", tmp_path / "a.jpg", tmp_path / "a.png")
    record = convert_sample(sample, ConvertOptions())
    assert kinds(record) == [("warning", "EXIF-rotated image")]
    assert (record.height, record.width) == (100, 60)
    record = convert_sample(sample, ConvertOptions(max_size=100, copies=tmp_path / "out"))
    assert record.problems == []
    info = image_info(tmp_path / "out" / "images" / "a.jpg")
    assert (info.height, info.width, info.orientation) == (100, 60, 1)


def test_problems_of_both_files_are_listed_together(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    (tmp_path / "a.png").write_bytes(b"nothing")
    record = convert_sample(Sample("a", tmp_path / "a.jpg", tmp_path / "a.png"), ConvertOptions())
    assert kinds(record) == [("error", "unreadable file")] * 2 and not record.usable
    assert [Path(problem.file).name for problem in record.problems] == ["a.jpg", "a.png"]
    assert {problem.sample_id for problem in record.problems} == {"a"}


def test_truncated_image_is_found_though_it_is_read_reduced(pair: Sample) -> None:
    whole = pair.image.read_bytes()
    pair.image.write_bytes(whole[: len(whole) * 3 // 4])
    assert kinds(convert_sample(pair, ConvertOptions())) == [("error", "unreadable file")]


def test_lesions_that_are_too_small(pair: Sample, tmp_path: Path) -> None:
    options = ConvertOptions(instances="components", min_area=5000)
    assert kinds(convert_sample(pair, options)) == [("error", "lesion too small")]
    speck = np.zeros((120, 160), bool)
    speck[5, 5] = True
    assert pair.mask is not None
    write_image(pair.mask, speck)
    record = convert_sample(pair, ConvertOptions(max_size=40, copies=tmp_path / "out"))
    assert kinds(record) == [("error", "lesion too small")] and "vanishes" in record.problems[0].found


def test_palette_masks_of_ham10000(shared_data: Path) -> None:
    """ISIC_0024320's mask stores white as index 0: its lesion must be the middle of the picture, not the rim."""
    folder = shared_data / "ham10000_256"
    masks = sorted((folder / "masks").iterdir())
    palettes = [path for path in masks[:200] if Image.open(path).mode == "P"]
    assert palettes
    for path in palettes[:5]:
        name = path.stem.removesuffix("_segmentation")
        record = convert_sample(Sample(name, folder / "images" / f"{name}.jpg", path), ConvertOptions())
        image = read_image(folder / "images" / f"{name}.jpg").mean(axis=2)
        mask = coco_mask.decode(record.annotations[0]["segmentation"]).astype(bool)
        assert image[mask].mean() < image[~mask].mean()  # a lesion is darker than the skin around it
