"""Two or more runs on the same images: paired differences with intervals and tests, and the images that changed most."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from lesionseg.cases import some
from lesionseg.errors import LesionsegError
from lesionseg.images import atomic_write, read_image, read_mask, write_image
from lesionseg.intervals import bootstrap, holm, wilcoxon_p
from lesionseg.metrics import JACCARD_THRESHOLD
from lesionseg.scorecard import CSV
from lesionseg.scoring import read_scores
from lesionseg.tables import Table, digits_of, interval_text, metric_name, number, render

logger = logging.getLogger(__name__)

Row = dict[str, Any]
METRICS = (
    "jaccard",
    "threshold_jaccard",
    "dice",
    "boundary_iou_2pct",
    "surface_dice_1pct",
    "hd95_pct",
    "failure_rate",
)
CHANGED = 12  # images shown of those that a run is better at, and as many of those that it is worse at
_PANEL = 320  # px
# BGR of report.html's outlines: reference sky blue, prediction yellow; Okabe and Ito's palette for the colour-blind.
_REFERENCE, _PREDICTED = (233, 180, 86), (66, 228, 240)


class Scored(NamedTuple):
    """A run's rows of scores.csv by image id."""

    name: str
    rows: dict[str, Row]


def load_runs(folders: Sequence[Path], dataset: str | None = None) -> list[Scored]:
    """Scores of runs, or of folders that tools/evaluate.py wrote with --output.

    Args:
        dataset: which data set's scores of a run; needed where a run was scored on several.

    Raises:
        LesionsegError: a folder without scores, or with scores of several data sets.
    """
    scored = []
    for folder in folders:
        rows = read_scores(_scores_file(folder, dataset))
        scored.append(Scored(_name(folder, folders), {row["id"]: row for row in rows}))
    return scored


def _scores_file(folder: Path, dataset: str | None) -> Path:
    if (folder / CSV).is_file():
        return folder / CSV
    if dataset:
        return folder / "inference" / dataset / CSV
    found = sorted(folder.glob(f"inference/*/{CSV}"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.parent.name for path in found) or "none"
    raise LesionsegError(
        f"{folder}: expected the scores of one data set, found {names}. "
        + ("Choose one with --dataset" if found else f"Make them with tools/evaluate.py --run {folder}")
    )


def _name(folder: Path, folders: Sequence[Path]) -> str:
    """The folder's last part, or its whole path where two runs share that."""
    names = [other.resolve().name for other in folders]
    name = folder.resolve().name
    return name if names.count(name) == 1 else str(folder)


def common_ids(runs: Sequence[Scored]) -> list[str]:
    """Ids of the images that all runs scored, sorted; says in a warning which ones are left out.

    Raises:
        LesionsegError: the runs have no image in common, or scored one against different masks.
    """
    shared = set.intersection(*(set(run.rows) for run in runs))
    if not shared:
        raise LesionsegError("the runs have no image in common: score them on the same data set")
    columns = ("height", "width", "reference_area_px")
    for name in sorted(shared):
        references = [tuple(run.rows[name][column] for column in columns) for run in runs]
        if len(set(references)) > 1:
            found = ", ".join(
                f"{h:.0f}x{w:.0f} px with a lesion of {area:.0f} px" for h, w, area in references
            )
            raise LesionsegError(
                f"{name} was scored against different reference masks, {found}: score all runs on one prepared data set"
            )
    if left_out := sorted(set.union(*(set(run.rows) for run in runs)) - shared):
        logger.warning(
            "%d images were not scored in all runs and are left out: %s", len(left_out), some(left_out)
        )
    return sorted(shared)


def _values(run: Scored, ids: Sequence[str], metric: str) -> np.ndarray:
    if metric == "failure_rate":
        return np.array([float(run.rows[name]["jaccard"] < JACCARD_THRESHOLD) for name in ids])
    return np.array([run.rows[name][metric] for name in ids])


def compare(runs: Sequence[Scored]) -> list[dict[str, Any]]:
    """Every run against the first one, metric by metric.

    Differences are paired: the same image in both runs. Their intervals are bootstrapped over lesions or patients, p is
    Wilcoxon's signed-rank test, corrected by Holm for all tests of the comparison (see lesionseg.intervals).

    Returns:
        [{"run", "metric", "first", "other" (means), "difference" (Interval as dict), "p", "p_holm"}, ...]
    """
    ids = common_ids(runs)
    groups = [runs[0].rows[name]["group"] for name in ids]
    results: list[dict[str, Any]] = []
    for run in runs[1:]:
        for metric in METRICS:
            first, other = _values(runs[0], ids, metric), _values(run, ids, metric)
            difference = bootstrap(other - first, groups)._asdict()
            means = {"first": float(first.mean()), "other": float(other.mean())}
            p = wilcoxon_p(other - first, groups)
            results.append({"run": run.name, "metric": metric, **means, "difference": difference, "p": p})
    for result, p in zip(results, holm([result["p"] for result in results]), strict=True):
        result["p_holm"] = p
    return results


def comparison_table(runs: Sequence[Scored], results: Sequence[dict[str, Any]]) -> Table:
    """Header and rows for `lesionseg.tables.render`."""
    rows = []
    for result in results:
        digits = digits_of(result["metric"])
        means = (number(result[key], digits) for key in ("first", "other"))
        p = "< 0.0001" if result["p_holm"] < 1e-4 else number(result["p_holm"], 4)
        rows.append(
            [
                result["run"],
                metric_name(result["metric"]),
                *means,
                interval_text(result["difference"], digits),
                p,
            ]
        )
    return [
        "Run",
        "Metric",
        f"{runs[0].name} (first)",
        "This run",
        "Difference (95 % CI)",
        "p (Wilcoxon, Holm)",
    ], rows


def changed_most(runs: Sequence[Scored]) -> list[tuple[str, float]]:
    """(id, change of the Jaccard index) of the images that the last run is most better and most worse at than the first."""
    ids = common_ids(runs)
    change = _values(runs[-1], ids, "jaccard") - _values(runs[0], ids, "jaccard")
    order = [int(index) for index in np.argsort(change, kind="stable")]
    worse = [index for index in order[:CHANGED] if change[index] < 0]
    better = [index for index in order[::-1][:CHANGED] if change[index] > 0]
    return [(ids[index], float(change[index])) for index in (*better, *worse)]


def side_by_side(runs: Sequence[Scored], name: str) -> np.ndarray:
    """One image with the outline of every run, uint8 BGR: reference sky blue, prediction yellow, captions with the Jaccard.

    Raises:
        LesionsegError: image or masks cannot be read, or are not recorded.
    """
    panels = []
    for run in runs:
        row = run.rows[name]
        if row["image"] is None or row["reference"] is None:
            raise LesionsegError(
                f"{name}: image not recorded in the scores of {run.name}: score it with --dataset"
            )
        image, reference = read_image(row["image"]), read_mask(row["reference"])
        predicted = read_mask(row["predicted"]) if row["predicted"] else np.zeros_like(reference)
        scale = _PANEL / image.shape[1]
        size = _PANEL, max(1, round(image.shape[0] * scale))
        panel = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        for mask, colour in ((reference, _REFERENCE), (predicted, _PREDICTED)):
            small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            contours = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0]
            cv2.drawContours(panel, contours, -1, (0, 0, 0), 3, cv2.LINE_AA)
            cv2.drawContours(panel, contours, -1, colour, 1, cv2.LINE_AA)
        caption = np.full((26, _PANEL, 3), 255, np.uint8)
        text = f"{run.name[:24]}: {row['jaccard']:.3f}"
        cv2.putText(caption, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.48, (30, 30, 30), 1, cv2.LINE_AA)
        panels.append(np.vstack([caption, panel]))
    return np.hstack(panels)


def write_comparison(runs: Sequence[Scored], output: Path) -> str:
    """Write comparison.csv (a row an image), comparison.md, comparison.tex and changed/<id>.jpg; returns the terminal's table."""
    ids = common_ids(runs)
    with (
        atomic_write(output / "comparison.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "group", *(f"jaccard {run.name}" for run in runs)])
        for name in ids:
            writer.writerow([name, runs[0].rows[name]["group"], *(run.rows[name]["jaccard"] for run in runs)])
    table = comparison_table(runs, compare(runs))
    for suffix, style in ((".md", "markdown"), (".tex", "latex")):
        with atomic_write(output / f"comparison{suffix}") as temporary:
            temporary.write_text(render(table, style) + "\n", encoding="utf-8")
    try:
        for name, _ in changed_most(runs):
            write_image(output / "changed" / f"{name}.jpg", side_by_side(runs, name))
    except LesionsegError as error:
        logger.warning("images that changed most are not drawn: %s", error)
    lines = [f"{name}  {change:+.3f}" for name, change in changed_most(runs)]
    changed = f"Jaccard changed most, {runs[-1].name} against {runs[0].name}:\n  " + "\n  ".join(
        lines or ["in no image"]
    )
    return f"{render(table, 'terminal')}\n\n{len(ids)} images in all runs.\n{changed}"
