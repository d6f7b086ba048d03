"""Score tables as text: for the terminal, for Markdown, and for a LaTeX paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

# How a metric is called in tables, and its unit; "" for a share in [0, 1].
METRIC_NAMES = {
    "jaccard": ("Jaccard index", ""),
    "threshold_jaccard": ("Thresholded Jaccard (0.65)", ""),
    "dice": ("Dice coefficient", ""),
    "accuracy": ("Accuracy", ""),
    "sensitivity": ("Sensitivity", ""),
    "specificity": ("Specificity", ""),
    "precision": ("Precision", ""),
    "boundary_iou_2pct": ("Boundary IoU, 2 % of diagonal", ""),
    "boundary_iou_5px": ("Boundary IoU, 5 px", ""),
    "surface_dice_1pct": ("Surface Dice, 1 % of diagonal", ""),
    "surface_dice_3px": ("Surface Dice, 3 px", ""),
    "hd95_px": ("HD95", "px"),
    "hd95_pct": ("HD95", "% of diagonal"),
    "assd_px": ("Average surface distance", "px"),
    "assd_pct": ("Average surface distance", "% of diagonal"),
    "area_error_pct": ("Area error", "% of area"),
    "centre_error_px": ("Centre error", "px"),
    "centre_error_pct": ("Centre error", "% of diagonal"),
    "failure_rate": ("Failure rate (Jaccard < 0.65)", ""),
}
FORMATS = {"terminal": "simple", "markdown": "github", "latex": "latex_booktabs"}

Table = tuple[list[str], list[list[str]]]


def metric_name(metric: str) -> str:
    """Name with unit, such as "HD95, px"."""
    name, unit = METRIC_NAMES[metric]
    return f"{name}, {unit}" if unit else name


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or value != value else f"{value:.{digits}f}"


def interval_text(interval: dict[str, Any], digits: int = 3) -> str:
    """`0.812 (0.795 to 0.829)`; without bounds where there are none."""
    value = number(interval["value"], digits)
    if interval["low"] is None or interval["low"] != interval["low"]:
        return value
    return f"{value} ({number(interval['low'], digits)} to {number(interval['high'], digits)})"


def digits_of(metric: str) -> int:
    return 3 if METRIC_NAMES[metric][1] == "" else 2


def score_table(summary: dict[str, Any]) -> Table:
    """Header and rows: every metric with mean and median, then failure rate and COCO's average precision."""
    rows = []
    for metric, values in summary["metrics"].items():
        digits = digits_of(metric)
        rows.append(
            [metric_name(metric), *(interval_text(values[kind], digits) for kind in ("mean", "median"))]
        )
    rows.append([metric_name("failure_rate"), interval_text(summary["failure_rate"]), ""])
    precision = (summary.get("detection") or {}).get("ap", {})
    for task, kind in (("segm", "masks"), ("bbox", "boxes")):
        values = precision.get(task)
        if not values:
            continue
        rows += [
            [f"{name} of {kind}, % (COCO)", number(values[name], 2), ""] for name in ("AP", "AP50", "AP75")
        ]
    return ["Metric", "Mean (95 % CI)", "Median (95 % CI)"], rows


def subgroup_rows(summary: dict[str, Any]) -> Table:
    """Header and rows of all subgroups that there are."""
    rows = []
    for division in summary["subgroups"]:
        for index, group in enumerate(division["groups"]):
            title = division["title"] if index == 0 else ""
            scores = [
                interval_text(group[metric]) for metric in ("jaccard", "threshold_jaccard", "failure_rate")
            ]
            rows.append([title, group["name"], str(group["n"]), *scores])
        if division["note"]:
            rows.append(["" if division["groups"] else division["title"], division["note"], "", "", "", ""])
    return ["Images by", "Group", "n", "Jaccard (95 % CI)", "Thresholded Jaccard", "Failure rate"], rows


def render(table: Table, style: str) -> str:
    """A table as text; `style` is one of FORMATS."""
    header, rows = table
    numeric = ["left"] * len(header)
    return tabulate(
        rows,
        headers=header,
        tablefmt=FORMATS[style],
        disable_numparse=True,
        colalign=numeric if rows else None,
    )


def score_text(summary: dict[str, Any], style: str) -> str:
    """Score table, subgroup table and what must be said beside them.

    Args:
        style: "terminal", "markdown" or "latex".
    """
    lines = notes(summary)
    if style == "latex":
        lines = [f"% {line}" for line in lines]
    return "\n".join(
        [
            render(score_table(summary), style),
            "",
            render(subgroup_rows(summary), style),
            "",
            *_spaced(lines, style),
        ]
    )


def _spaced(lines: Sequence[str], style: str) -> list[str]:
    return [f"{line}\n" for line in lines] if style == "markdown" else list(lines)


def notes(summary: dict[str, Any]) -> list[str]:
    """What a table must not be read without: what was scored, how intervals were made, what was missing, known leaks."""
    lines = [
        f"{summary['images']} images, {summary['groups']} independent groups; intervals: {summary['interval']}.",
        f"scored: {summary['predictions']} against {summary['references']}.",
    ]
    if settings := summary.get("settings"):
        lines.append(f"settings: {', '.join(f'{key} {value}' for key, value in settings.items())}.")
    for key, text in (
        ("missing", "without a prediction, scored as empty masks"),
        ("empty", "whose predicted mask is empty"),
    ):
        if names := summary[key]:
            shown = ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
            lines.append(f"{len(names)} images {text}: {shown}.")
    if folds := summary.get("folds"):
        lines.append(f"cross-validation: {folds}")
    if summary.get("chosen_by"):
        lines.append(
            "the checkpoint was chosen by its scores on these images, which are a little optimistic for that."
        )
    if leaks := summary.get("leaks"):
        lines.append(leaks["text"])
    return lines
