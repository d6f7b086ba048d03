"""The score card of one set of predictions: scores.csv (a row an image), scores.json, scores.md and scores.tex."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lesionseg.cases import Case, cases_from_folders, match_predictions
from lesionseg.images import atomic_write
from lesionseg.score_summary import summarise_scores, write_summary
from lesionseg.scoring import score_cases, write_scores
from lesionseg.tables import score_text

CSV, JSON, MARKDOWN, LATEX = "scores.csv", "scores.json", "scores.md", "scores.tex"


def dataset_cases(dataset: str, root: str | Path = "") -> list[Case]:
    """The cases of a prepared data set, sorted by id, without predictions.

    Args:
        dataset: registered name, such as isic2018_val.
        root: see `lesionseg.register.data_root`.

    Raises:
        LesionsegError: no such data set.
    """
    # Detectron2 and torch take seconds to import, and folders of masks are scored without them.
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from lesionseg.register import read_coco, require

    require([dataset], root)
    metadata = MetadataCatalog.get(dataset)
    folder = Path(metadata.json_file).parent
    coco = read_coco(metadata.json_file)
    masks = {image["id"]: folder / image["mask_file"] for image in coco["images"] if image.get("mask_file")}
    cases = []
    for record in DatasetCatalog.get(dataset):
        annotations = record["annotations"]
        classes = {metadata.thing_classes[annotation["category_id"]] for annotation in annotations}
        cases.append(
            Case(
                id=record["sample_id"],
                reference=tuple(annotation["segmentation"] for annotation in annotations),
                size=(record["height"], record["width"]),
                image=Path(record["file_name"]),
                mask=masks.get(record["image_id"]),
                group=record["group"] or "",
                diagnosis=record["diagnosis"] or "",
                source=coco["info"].get("source_layout", ""),
                reference_class=classes.pop() if len(classes) == 1 else "",
            )
        )
    return sorted(cases, key=lambda case: case.id)


def with_predictions(cases: Sequence[Case], predictions: Path) -> list[Case]:
    """Cases with their predicted masks from a folder; raises as `match_predictions`."""
    found = match_predictions(predictions, [case.id for case in cases])
    return [replace(case, predicted=found[case.id]) for case in cases]


def score_folders(predictions: Path, masks: Path, output: Path) -> dict[str, Any]:
    """Score a folder of mask files against a folder of reference masks; returns the summary.

    Raises:
        LesionsegError: a folder is missing or empty; masks that cannot be read or have another size, all named.
    """
    cases = cases_from_folders(predictions, masks)
    return write_scorecard(cases, output, {"predictions": str(predictions), "references": str(masks)})


def score_dataset(predictions: Path, dataset: str, output: Path, root: str | Path = "") -> dict[str, Any]:
    """Score a folder of mask files against a prepared data set; returns the summary. Raises as `score_folders`."""
    cases = with_predictions(dataset_cases(dataset, root), predictions)
    return write_scorecard(cases, output, {"predictions": str(predictions), "references": dataset})


def write_scorecard(cases: Sequence[Case], output: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Score cases and write all files of the score card to a folder.

    Args:
        about: what the summary says beyond the scores: "predictions" and "references" (str), and for a run its
            "detection" and "leaks".

    Returns:
        The summary, as in scores.json.
    """
    return write_rows(score_cases(cases), output, about)


def write_rows(rows: Sequence[dict[str, Any]], output: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The second half of `write_scorecard`, for rows that are scored already."""
    summary = {**about, **summarise_scores(rows)}
    write_scores(output / CSV, rows)
    for name, style in ((MARKDOWN, "markdown"), (LATEX, "latex")):
        with atomic_write(output / name) as temporary:
            temporary.write_text(score_text(summary, style) + "\n", encoding="utf-8")
    write_summary(output / JSON, summary)
    return summary
