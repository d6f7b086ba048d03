from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from lesionseg.errors import LesionsegError
from lesionseg.sources import Sample
from lesionseg.split import clusters_of, leaks, parse_split, split_samples

SHARES = {"train": 0.8, "val": 0.2}


def sample(
    name: str, group: str | None = None, diagnosis: str | None = None, split: str | None = None
) -> Sample:
    return Sample(name, Path(f"{name}.jpg"), Path(f"{name}.png"), split, group, diagnosis)


def test_parse_split() -> None:
    assert parse_split("0.8/0.2") == {"train": 0.8, "val": 0.2}
    assert parse_split("0.7/0.1/0.2") == {"train": 0.7, "val": 0.1, "test": 0.2}


@pytest.mark.parametrize("text", ["0.8", "0.8/0.3", "1/0", "a/b", "0.5/0.2/0.2/0.1", "", "1.2/-0.2", "80/20"])
def test_parse_split_refuses(text: str) -> None:
    with pytest.raises(LesionsegError, match="--split"):
        parse_split(text)


def test_shares_are_met_exactly_and_seeds_differ() -> None:
    samples = [sample(f"{number:03}") for number in range(100)]
    parts = split_samples(samples, {}, SHARES, seed=42)
    assert Counter(parts.values()) == {"train": 80, "val": 20}
    assert parts == split_samples(random.sample(samples, 100), {}, SHARES, seed=42)  # order does not matter
    assert parts != split_samples(samples, {}, SHARES, seed=43)
    three = split_samples(samples, {}, {"train": 0.7, "val": 0.1, "test": 0.2}, seed=0)
    assert Counter(three.values()) == {"train": 70, "val": 10, "test": 20}


def test_each_diagnosis_is_divided_by_the_shares() -> None:
    samples = [sample(f"n{number}", diagnosis="nevus") for number in range(200)]
    samples += [sample(f"m{number}", diagnosis="melanoma") for number in range(40)]
    samples += [sample(f"d{number}", diagnosis="dermatofibroma") for number in range(5)]
    parts = split_samples(samples, {}, SHARES, seed=1)
    counts = Counter((item.diagnosis, parts[item.id]) for item in samples)
    assert (
        counts["nevus", "val"] == 40
        and counts["melanoma", "val"] == 8
        and counts["dermatofibroma", "val"] == 1
    )


def test_many_rare_diagnoses_do_not_empty_a_part() -> None:
    samples = [sample(f"{number}", diagnosis=f"rare {number}") for number in range(20)]
    assert Counter(split_samples(samples, {}, SHARES, seed=1).values()) == {"train": 16, "val": 4}


def test_groups_stay_together_and_large_ones_are_on_both_sides() -> None:
    generator = random.Random(0)
    samples = []
    for group in range(300):
        diagnosis = generator.choice(["nevus", "nevus", "nevus", "melanoma"])
        samples += [sample(f"{group}_{k}", f"L{group}", diagnosis) for k in range(generator.randint(1, 5))]
    parts = split_samples(samples, {}, SHARES, seed=7)
    sides = defaultdict(set)
    for item in samples:
        sides[item.group].add(parts[item.id])
    assert all(len(side) == 1 for side in sides.values())
    for diagnosis in ("nevus", "melanoma"):
        mine = [item for item in samples if item.diagnosis == diagnosis]
        share = sum(parts[item.id] == "val" for item in mine) / len(mine)
        assert abs(share - 0.2) < 0.02
    sizes = Counter(item.group for item in samples)
    large = [group for group, size in sizes.items() if size == 5]
    assert 0.1 < sum(sides[group] == {"val"} for group in large) / len(large) < 0.3


def test_duplicates_tie_groups_together() -> None:
    """a1-a2 are one lesion, b1-b2 another; a2 and b1 are duplicates: all four are one cluster, c is alone."""
    samples = [sample("a1", "A"), sample("a2", "A"), sample("b1", "B"), sample("b2", "B"), sample("c")]
    clusters = clusters_of(samples, {"a2": "a2", "b1": "a2"})
    assert sorted(sorted(item.id for item in cluster) for cluster in clusters) == [
        ["a1", "a2", "b1", "b2"],
        ["c"],
    ]


def test_a_group_named_like_an_image_or_a_duplicate_group_is_another_thing() -> None:
    samples = [sample("a", "b"), sample("b"), sample("c")]
    assert len(clusters_of(samples, {"c": "b"})) == 3


def test_no_part_stays_empty() -> None:
    samples = [sample(str(number)) for number in range(3)]
    parts = split_samples(samples, {}, {"train": 0.9, "val": 0.05, "test": 0.05}, seed=0)
    assert sorted(parts.values()) == ["test", "train", "val"]
    with pytest.raises(LesionsegError, match=r"at least 2 independent groups .* found 1"):
        split_samples([sample("a", "P"), sample("b", "P")], {}, SHARES, seed=0)


def test_official_folders_are_kept_and_leaks_are_named() -> None:
    samples = [sample("a", split="train"), sample("b", split="val"), sample("c", split="test")]
    expected = {"a": "train", "b": "val", "c": "test"}
    assert split_samples(samples, {}, None, seed=0) == expected
    assert split_samples(samples, {}, SHARES, seed=0) == expected
    clusters = clusters_of(samples, {"a": "a", "c": "a"})
    assert leaks(expected, clusters) == [["a", "c"]]
    with pytest.raises(LesionsegError, match=r"out.jpg.*found 1 outside"):
        split_samples([*samples, sample("out")], {}, None, seed=0)


def test_official_train_and_test_with_a_wish_for_val() -> None:
    samples = [sample(f"{number}", split="train") for number in range(10)] + [sample("t", split="test")]
    assert set(split_samples(samples, {}, None, seed=0).values()) == {"train", "test"}
    parts = split_samples(samples, {}, SHARES, seed=0)
    assert parts["t"] == "test" and Counter(parts.values()) == {"train": 8, "val": 2, "test": 1}


def test_one_official_folder_alone_is_split() -> None:
    samples = [sample(f"{number}", split="train") for number in range(10)]
    assert Counter(split_samples(samples, {}, None, seed=0).values()) == {"train": 8, "val": 2}
