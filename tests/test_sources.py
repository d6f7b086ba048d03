from __future__ import annotations

from pathlib import Path

import pytest

from lesionseg.errors import LesionsegError
from lesionseg.sources import Listing, find_samples


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def pairs(listing: Listing) -> dict[str, str | None]:
    return {sample.id: sample.mask.name if sample.mask else None for sample in listing.samples}


def test_isic_2018_as_downloaded(tmp_path: Path) -> None:
    images = touch(
        tmp_path / "ISIC2018_Task1-2_Training_Input",
        "ISIC_0000001.jpg",
        "ISIC_0000000.jpg",
        "ISIC_0000000_superpixels.png",
        "ATTRIBUTION.txt",
        "LICENSE.txt",
        "._ISIC_0000000.jpg",
    )
    masks = touch(
        tmp_path / "ISIC2018_Task1_Training_GroundTruth",
        "ISIC_0000000_segmentation.png",
        "ISIC_0000001_segmentation.png",
        "ISIC_0000001_attribute_globules.png",
        "LICENSE.txt",
    )
    listing = find_samples(images, masks)
    assert listing.layout == "isic2018"
    assert pairs(listing) == {
        "ISIC_0000000": "ISIC_0000000_segmentation.png",
        "ISIC_0000001": "ISIC_0000001_segmentation.png",
    }
    assert [sample.split for sample in listing.samples] == [None, None]
    assert listing.orphan_masks == [] and listing.same_id == []
    assert listing.ignored == {".txt": 3}


def test_isic_2017_one_folder_with_official_splits(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "ISIC-2017_Training_Data/ISIC_0000000.jpg",
        "ISIC-2017_Training_Data/ISIC_0000000_superpixels.png",
        "ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png",
        "ISIC-2017_Validation_Data/ISIC_0001769.jpg",
        "ISIC-2017_Validation_Part1_GroundTruth/ISIC_0001769_segmentation.png",
        "ISIC-2017_Test_v2_Data/ISIC_0012086.jpg",
        "ISIC-2017_Test_v2_Part1_GroundTruth/ISIC_0012086_segmentation.png",
    )
    listing = find_samples(tmp_path, tmp_path)
    assert listing.layout == "isic2017"
    assert {sample.id: sample.split for sample in listing.samples} == {
        "ISIC_0000000": "train",
        "ISIC_0001769": "val",
        "ISIC_0012086": "test",
    }
    assert None not in pairs(listing).values() and listing.orphan_masks == []


def test_isic_2016(tmp_path: Path) -> None:
    images = touch(tmp_path / "ISBI2016_ISIC_Part1_Training_Data", "ISIC_0000000.jpg")
    masks = touch(tmp_path / "ISBI2016_ISIC_Part1_Training_GroundTruth", "ISIC_0000000_Segmentation.png")
    listing = find_samples(images, masks)
    assert listing.layout == "isic2016" and pairs(listing) == {
        "ISIC_0000000": "ISIC_0000000_Segmentation.png"
    }


def test_isic_names_without_a_year(tmp_path: Path) -> None:
    touch(tmp_path, "photos/ISIC_0000000.jpg", "truth/ISIC_0000000_segmentation.png")
    assert find_samples(tmp_path / "photos", tmp_path / "truth").layout == "isic"
    assert find_samples(tmp_path / "photos", tmp_path / "truth", layout="isic2018").layout == "isic2018"


def test_ham10000_in_two_parts(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "images/HAM10000_images_part_1/ISIC_0024306.jpg",
        "images/HAM10000_images_part_2/ISIC_0034320.jpg",
        "HAM10000_segmentations_lesion_tschandl/ISIC_0024306_segmentation.png",
        "HAM10000_segmentations_lesion_tschandl/ISIC_0034320_segmentation.png",
    )
    listing = find_samples(tmp_path / "images", tmp_path / "HAM10000_segmentations_lesion_tschandl")
    assert listing.layout == "ham10000" and len(pairs(listing)) == 2 and None not in pairs(listing).values()


def test_ph2(tmp_path: Path) -> None:
    root = "PH2 Dataset images/IMD002/IMD002"
    touch(
        tmp_path,
        f"{root}_Dermoscopic_Image/IMD002.bmp",
        f"{root}_lesion/IMD002_lesion.bmp",
        f"{root}_roi/IMD002_R1_Label3.bmp",
        "PH2_dataset.txt",
    )
    listing = find_samples(tmp_path, tmp_path)
    assert listing.layout == "ph2" and pairs(listing) == {"IMD002": "IMD002_lesion.bmp"}
    assert listing.orphan_masks == []


def test_plain_folders_match_by_stem_or_usual_ending(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.jpg", "b.TIFF", "deep/c.png", "d_mask.jpg")
    masks = touch(tmp_path / "m", "a.png", "b_mask.png", "C_Segmentation.bmp", "d_mask.png")
    listing = find_samples(images, masks)
    assert listing.layout == "plain"
    assert pairs(listing) == {
        "a": "a.png",
        "b": "b_mask.png",
        "c": "C_Segmentation.bmp",
        "d_mask": "d_mask.png",
    }


@pytest.mark.parametrize("masks", ["data", "data/masks"])
def test_plain_pairs_in_one_folder_or_nested(tmp_path: Path, masks: str) -> None:
    touch(tmp_path / "data", "images/a.jpg", "masks/a_mask.png")
    listing = find_samples(tmp_path / "data", tmp_path / masks)
    assert pairs(listing) == {"a": "a_mask.png"} and listing.orphan_masks == []


def test_train_and_test_folders_of_a_plain_set(tmp_path: Path) -> None:
    touch(tmp_path, "i/train/a.jpg", "i/test/b.jpg", "m/train/a.png", "m/test/b.png")
    samples = find_samples(tmp_path / "i", tmp_path / "m").samples
    assert {sample.id: sample.split for sample in samples} == {"a": "train", "b": "test"}


def test_what_does_not_pair_is_kept_for_the_report(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "alone.jpg", "twice.jpg", "TWICE.png", "x.jpg")
    masks = touch(tmp_path / "m", "twice.png", "orphan.png", "x.png", "x_mask.png")
    listing = find_samples(images, masks)
    assert pairs(listing) == {"alone": None}
    assert [path.name for path in listing.orphan_masks] == ["orphan.png"]
    assert [sorted(path.name for path in paths) for paths in listing.same_id] == [
        ["TWICE.png", "twice.jpg", "twice.png"],
        ["x.jpg", "x.png", "x_mask.png"],
    ]


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "store/a.jpg", "m/a.png", "i/b.jpg", "m/b.png")
    (tmp_path / "i" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "i" / "loop").symlink_to(tmp_path / "i")
    assert set(pairs(find_samples(tmp_path / "i", tmp_path / "m"))) == {"a", "b"}


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    masks = touch(tmp_path / "m", "a.png")
    with pytest.raises(LesionsegError, match=r"--images .*nowhere.*expected a folder"):
        find_samples(tmp_path / "nowhere", masks)
    with pytest.raises(LesionsegError, match=r"found none \(1 \.dcm\)"):
        find_samples(touch(tmp_path / "i", "a.dcm"), masks)


def test_real_folders(shared_data: Path) -> None:
    for name, layout, count in [
        ("isic2018_task1_512", "isic2018", 2594),
        ("isic2017_originals", "isic2017", 50),
        ("ham10000_256", "ham10000", 4615),
    ]:
        listing = find_samples(shared_data / name / "images", shared_data / name / "masks")
        assert (listing.layout, len(listing.samples)) == (layout, count)
        assert None not in pairs(listing).values() and not listing.orphan_masks and not listing.same_id
