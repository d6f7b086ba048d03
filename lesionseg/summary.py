"""summary.json of a prepared data set, and what the tool tells the user of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lesionseg import __version__
from lesionseg.prepared import LICENSES, Prepared, PrepareOptions, category_of
from lesionseg.validate import Problem


def _quartiles(values: Iterable[float]) -> dict[str, float]:
    """min, quartiles and max, rounded to 6 digits behind the point."""
    points = np.percentile(list(values), [0, 25, 50, 75, 100])
    return {
        name: round(float(point), 6)
        for name, point in zip(("min", "q1", "median", "q3", "max"), points, strict=True)
    }


def summarise(
    prepared: Prepared, options: PrepareOptions, problems: list[Problem], unused_labels: int
) -> dict[str, Any]:
    """The content of summary.json: counts, sizes, lesion area share, components, duplicates, class balance."""
    records = [prepared.records[sample.id] for sample in prepared.samples]
    splits = {}
    for name, samples in prepared.splits().items():
        splits[name] = {
            "images": len(samples),
            "instances": sum(prepared.records[sample.id].instances for sample in samples),
            "groups": len({sample.group for sample in samples} - {None}),
            "classes": dict(
                sorted(Counter(category_of(sample, options.classes) for sample in samples).items())
            ),
            "diagnoses": dict(sorted(Counter(sample.diagnosis or "unknown" for sample in samples).items())),
        }
    hashes = Counter(record.fingerprint.sha256 for record in records if record.fingerprint)
    return {
        "name": options.dataset_name,
        "version": __version__,
        "source_layout": prepared.layout,
        "license": LICENSES[prepared.layout][0],
        "seed": options.seed,
        "instances": options.instances,
        "min_area": options.min_area,
        "max_size": options.max_size,
        "classes": prepared.categories,
        "splits": splits,
        "width_px": _quartiles(record.width for record in records),
        "height_px": _quartiles(record.height for record in records),
        "lesion_area_share": _quartiles(record.area_share for record in records),
        "components": {
            "one": sum(record.components == 1 for record in records),
            "several": sum(record.components > 1 for record in records),
            "most": max(record.components for record in records),
        },
        "touching_border": sum(record.touches_border for record in records),
        "duplicates": {
            "groups": len(set(prepared.duplicates.values())),
            "images": len(prepared.duplicates),
            "images_with_identical_file": sum(count for count in hashes.values() if count > 1),
        },
        "problems": dict(sorted(Counter(f"{problem.level}: {problem.kind}" for problem in problems).items())),
        "skipped_images": len({problem.sample_id for problem in problems if problem.level == "error"} - {""}),
        "labels_without_image": unused_labels,
    }


def describe(summary: Mapping[str, Any], options: PrepareOptions) -> list[str]:
    """The lines that tell a user what was made of the data, and what to type next."""
    lines = []
    for part, counts in summary["splits"].items():
        classes = ", ".join(f"{count} {name}" for name, count in counts["classes"].items())
        lines.append(
            f"{summary['name']}_{part}: {counts['images']} images, {counts['instances']} instances ({classes})"
        )
    duplicates = summary["duplicates"]
    lines.append(f"duplicates: {duplicates['images']} images in {duplicates['groups']} groups")
    lines += [f"{kind}: {count}" for kind, count in summary["problems"].items()]
    if options.labels:
        lines.append(f"labels without an image: {summary['labels_without_image']}")
    written = f"written to {options.out}" + (", with problems.csv" if summary["problems"] else "")
    train, *others = (f"{summary['name']}_{part}" for part in summary["splits"])
    validation = [name for name in others if name.endswith("val")]
    if not validation:
        advice = (
            "there is no validation part, and the best model must not be chosen by test images: to train, prepare again "
            "with --split, which takes one from the training images"
        )
        return [*lines, written, advice]
    config = "isic_mrcnn_diagnosis.yaml" if len(summary["classes"]) > 1 else "isic_mrcnn.yaml"
    return [
        *lines,
        written,
        f"next: python tools/train_net.py --config-file configs/{config} \\",
        f"""    DATASETS.TRAIN '("{train}",)' DATASETS.TEST '("{validation[0]}",)'""",
    ]
