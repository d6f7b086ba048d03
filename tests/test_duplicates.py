from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from lesionseg.duplicates import (
    Clusters,
    Fingerprint,
    duplicate_groups,
    duplicate_pairs,
    exact_pairs,
    fingerprint,
    near_pairs,
)
from lesionseg.images import read_image, read_reduced, write_image


def picture(seed: int) -> np.ndarray:
    """Smooth random colours, 120 x 160."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (160, 120), interpolation=cv2.INTER_CUBIC)


def print_of(path: Path) -> Fingerprint:
    return fingerprint(path, read_reduced(path, 128)[1])


def test_sha256_is_that_of_the_file(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture(0))
    expected = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert print_of(tmp_path / "a.png").sha256 == expected


def test_exact_and_near_duplicates_are_found_and_others_are_not(tmp_path: Path) -> None:
    for seed in range(40):
        write_image(tmp_path / f"{seed:02}.png", picture(seed))
    write_image(tmp_path / "a_same.png", picture(3))  # byte for byte
    write_image(tmp_path / "b_saved_again.jpg", picture(5), quality=60)
    write_image(tmp_path / "c_smaller.png", cv2.resize(picture(7), (80, 60), interpolation=cv2.INTER_AREA))
    write_image(tmp_path / "d_brighter.png", cv2.convertScaleAbs(picture(9), alpha=0.8, beta=30))
    paths = sorted(tmp_path.iterdir())
    names = [path.stem for path in paths]
    prints = [print_of(path) for path in paths]
    named = [(names[one], names[other]) for one, other in exact_pairs(prints)]
    assert named == [("03", "a_same")]
    named = sorted((names[one], names[other]) for one, other in near_pairs(prints))
    assert named == [
        ("03", "a_same"),
        ("05", "b_saved_again"),
        ("07", "c_smaller"),
        ("09", "d_brighter"),
    ]


def test_a_like_hash_alone_is_not_enough() -> None:
    """Two pictures of the same perceptual hash whose thumbnails have nothing in common."""
    generator = np.random.default_rng(0)
    prints = [Fingerprint("a", "00ff00ff00ff00ff", generator.bytes(1024)) for _ in range(2)]
    assert near_pairs(prints) == []
    alike = prints[0].thumbnail
    prints = [Fingerprint("a", "00ff00ff00ff00ff", alike), Fingerprint("b", "00ff00ff00ff0000", alike)]
    assert near_pairs(prints) == [(0, 1)]  # 8 bits differ
    prints[1] = Fingerprint("b", "00ff00ff00ff0f00", alike)  # 12 bits differ
    assert near_pairs(prints) == []


def test_near_pairs_of_many_equal_a_plain_loop() -> None:
    """Block boundaries and the matrix form of the Hamming distance, against bit counting in Python."""
    generator = np.random.default_rng(1)
    base = [int(value) for value in generator.integers(0, 2**63, 60)]
    hashes = [base[index % 60] ^ (1 << int(generator.integers(0, 63))) for index in range(1100)]
    thumbnail = generator.bytes(1024)
    prints = [Fingerprint(str(index), f"{value:016x}", thumbnail) for index, value in enumerate(hashes)]
    expected = [
        (one, other)
        for one in range(len(hashes))
        for other in range(one + 1, len(hashes))
        if bin(hashes[one] ^ hashes[other]).count("1") <= 10
    ]
    assert sorted(near_pairs(prints)) == expected and len(expected) > 9000


def test_pictures_without_contrast_do_not_match_everything() -> None:
    even = [Fingerprint(str(value), "0" * 16, bytes([value]) * 1024) for value in (0, 255)]
    assert near_pairs(even) == []
    assert near_pairs(even[:1]) == [] and near_pairs([]) == []


def test_groups_are_closed_over_chains_and_named_after_the_first_id() -> None:
    ids = ["d", "c", "b", "a", "e"]
    assert duplicate_groups(ids, [(0, 1), (1, 2)]) == {"d": "b", "c": "b", "b": "b"}


def test_copies_of_near_duplicates_are_one_group() -> None:
    """Files 0, 2, 4 are one, 1 and 5 another that looks the same; 3 looks different."""
    alike, other = np.random.default_rng(0).bytes(1024), np.random.default_rng(1).bytes(1024)
    kinds = [("a", "0" * 16, alike), ("b", "0" * 15 + "1", alike), ("c", "f" * 16, other)]
    prints = [Fingerprint(*kinds[kind]) for kind in (0, 1, 0, 2, 0, 1)]
    groups = duplicate_groups(list("uvwxyz"), duplicate_pairs(prints))
    assert groups == dict.fromkeys("uvwyz", "u")
    assert duplicate_pairs(prints[3:4]) == [] and duplicate_pairs([]) == []


def test_clusters() -> None:
    clusters = Clusters()
    for one, other in [(1, 2), (3, 4), (2, 3)]:
        clusters.join(one, other)
    assert len({clusters.root(key) for key in (1, 2, 3, 4)}) == 1
    assert clusters.root(5) == 5


def test_known_near_duplicates_of_isic_2018(shared_data: Path) -> None:
    """Found by eye: identical, and the same picture with its colours changed; ISIC_0000000 and _0000001 are other lesions."""
    names = ["ISIC_0012290", "ISIC_0013594", "ISIC_0000519", "ISIC_0011295", "ISIC_0000000", "ISIC_0000001"]
    folder = shared_data / "isic2018_task1_512" / "images"
    prints = [print_of(folder / f"{name}.jpg") for name in names]
    assert near_pairs(prints) == [(0, 1), (2, 3)]
    assert exact_pairs(prints) == []


def test_real_picture_reduced_is_found_again(shared_data: Path, tmp_path: Path) -> None:
    original = shared_data / "isic2017_originals" / "images" / "ISIC_0000003.jpg"
    pixels = read_image(original)
    reduced = cv2.resize(pixels, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    write_image(tmp_path / "reduced.jpg", reduced, quality=80)
    assert near_pairs([print_of(original), print_of(tmp_path / "reduced.jpg")]) == [(0, 1)]
