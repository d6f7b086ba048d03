"""Divide samples into train, val and test so that nothing of one person or picture is on two sides."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from lesionseg.duplicates import Clusters
from lesionseg.errors import LesionsegError
from lesionseg.sources import Sample

SPLITS = ("train", "val", "test")
DEFAULT_SHARES = {"train": 0.8, "val": 0.2}

logger = logging.getLogger(__name__)


def parse_split(text: str) -> dict[str, float]:
    """'0.8/0.2' to {train: 0.8, val: 0.2}; '0.7/0.1/0.2' adds test. LesionsegError when it is neither or not 1 in sum."""
    try:
        shares = [float(part) for part in text.split("/")]
    except ValueError:
        shares = []
    if len(shares) not in (2, 3) or any(not share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise LesionsegError(
            f"--split {text}: expected train/val or train/val/test, all above 0 and adding up to 1, such as 0.8/0.2 or 0.7/0.1/0.2."
        )
    return dict(zip(SPLITS, shares, strict=False))  # two shares: no test


def clusters_of(samples: Sequence[Sample], duplicates: Mapping[str, str]) -> list[list[Sample]]:
    """Samples that must stay together: one patient or lesion, and duplicates (id to name of its duplicate group)."""
    union = Clusters()
    for sample in samples:
        union.root(("id", sample.id))
        if sample.group is not None:
            union.join(("group", sample.group), ("id", sample.id))
        if sample.id in duplicates:
            union.join(("duplicate", duplicates[sample.id]), ("id", sample.id))
    members: dict[Hashable, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: sample.id):
        members[union.root(("id", sample.id))].append(sample)
    return list(members.values())


def _stratum(cluster: Sequence[Sample]) -> str:
    """Diagnosis of a cluster: that of most of its samples, the first in the alphabet on a tie."""
    names = sorted(sample.diagnosis or "" for sample in cluster)
    return max(dict.fromkeys(names), key=names.count)


def assign(clusters: Sequence[Sequence[Sample]], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Sample id to part, for parts with the given shares (adding up to 1); the same for the same input and seed.

    Diagnosis by diagnosis, in random order but large clusters first, each cluster goes to the part that lacks most in
    proportion to its share; what is left over carries on to the next diagnosis. So every diagnosis, and the whole, comes
    near to the shares, and large clusters do not all end in the largest part. Raises LesionsegError when there are fewer clusters than parts.
    """
    if len(clusters) < len(shares):
        raise LesionsegError(
            f"expected at least {len(shares)} independent groups of images for the parts {', '.join(shares)}, found "
            f"{len(clusters)} (images of one patient, one lesion, or duplicates count as one). Add images or split into fewer parts."
        )
    generator = random.Random(seed)
    strata: dict[str, list[Sequence[Sample]]] = defaultdict(list)
    for cluster in clusters:
        strata[_stratum(cluster)].append(cluster)
    parts: dict[str, list[Sequence[Sample]]] = {name: [] for name in shares}
    room = dict.fromkeys(shares, 0.0)
    for _, stratum in sorted(strata.items()):
        for name, share in shares.items():
            room[name] += share * sum(map(len, stratum))
        generator.shuffle(stratum)
        for cluster in sorted(stratum, key=len, reverse=True):
            # The part where this cluster lessens the sum of (room^2 / share) most: chi-squared against the shares.
            name = max(room, key=lambda name: (room[name] - len(cluster) / 2) / shares[name])
            parts[name].append(cluster)
            room[name] -= len(cluster)
    for members in parts.values():  # few images: no part may stay empty
        if not members:
            largest = max(parts.values(), key=len)
            smallest = min(largest, key=len)
            largest.remove(smallest)
            members.append(smallest)
    return {sample.id: name for name, members in parts.items() for cluster in members for sample in cluster}


def split_samples(
    samples: Sequence[Sample], duplicates: Mapping[str, str], shares: Mapping[str, float] | None, seed: int
) -> dict[str, str]:
    """Sample id to train, val or test; ``shares`` None is ``DEFAULT_SHARES``.

    Where samples come from two or more official folders, these are kept. With explicit ``shares`` of train and val, and
    official folders without val (ISIC 2016), val is taken from the official train.

    Raises LesionsegError when only some samples are in official folders, or as ``assign`` does.
    """
    official = {sample.id: sample.split for sample in samples if sample.split is not None}
    names = sorted(set(official.values()))
    if len(names) < 2:
        return assign(clusters_of(samples, duplicates), shares or DEFAULT_SHARES, seed)
    outside = [sample for sample in samples if sample.split is None]
    if outside:
        raise LesionsegError(
            f"{outside[0].image}: expected every image in a folder named train, val or test since others are "
            f"({', '.join(names)}), found {len(outside)} outside. Move them, or give only one folder to --images."
        )
    if shares is None:
        return official
    if names == ["test", "train"] and "test" not in shares:
        train = [sample for sample in samples if sample.split == "train"]
        return official | assign(clusters_of(train, duplicates), shares, seed)
    logger.warning(
        "--split is not used: the images are in folders for %s, which are kept as given", ", ".join(names)
    )
    return official


def split_into_folds(
    samples: Sequence[Sample], duplicates: Mapping[str, str], folds: int, seed: int
) -> dict[str, str]:
    """Sample id to fold0, fold1, ... of equal size; an official test folder stays test, train and val are pooled."""
    test = {sample.id: "test" for sample in samples if sample.split == "test"}
    if len(test) == len(samples):
        test = {}  # one folder alone is no split
    rest = [sample for sample in samples if sample.id not in test]
    shares = {f"fold{number}": 1 / folds for number in range(folds)}
    return test | assign(clusters_of(rest, duplicates), shares, seed)


def leaks(parts: Mapping[str, str], clusters: Sequence[Sequence[Sample]]) -> list[list[str]]:
    """Ids of clusters that are on more than one side; only official folders can bring that about."""
    ids = [[sample.id for sample in cluster] for cluster in clusters]
    return [cluster for cluster in ids if len({parts[member] for member in cluster}) > 1]
