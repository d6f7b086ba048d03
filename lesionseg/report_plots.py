"""The report's plots, each as one SVG; colours are those of Okabe and Ito, which colour-blind readers tell apart."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lesionseg.metrics import JACCARD_THRESHOLD

BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#595959",
)
WIDTH, HEIGHT = 5.0, 3.3  # inches: at a phone's width its text is still read without zooming
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "lesionseg",
}


class Plot(list[str]):
    """Filled by `figure` with one data URI."""


@contextmanager
def figure(height: float = HEIGHT) -> Iterator[tuple[Figure, Axes, Plot]]:
    """A figure with one axes; when the block ends, the list that it yields holds the picture as a data URI."""
    result = Plot()
    with matplotlib.rc_context(_STYLE):
        fig = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(fig)
        yield fig, fig.add_subplot(), result
        buffer = io.BytesIO()
        fig.savefig(buffer, format="svg", metadata={"Date": None})
    result.append("data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode())


def read_training_log(run: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """(stage, records) of metrics.json of each stage that there is, heads first; half a line at the end is left out."""
    stages = []
    for stage, path in (("heads", run / "heads" / "metrics.json"), ("all layers", run / "metrics.json")):
        if not path.is_file():
            continue
        records = []
        for line in path.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
        stages.append((stage, records))
    return stages


def _series(
    stages: Sequence[tuple[str, list[dict[str, Any]]]], key: str
) -> tuple[list[float], list[float], list[int]]:
    """Iterations (counted on through the stages), values, and the iterations where a stage ends."""
    xs: list[float] = []
    ys: list[float] = []
    ends: list[int] = []
    offset = 0
    for _, records in stages:
        last = 0
        for record in records:
            last = max(last, record.get("iteration", 0))
            if key in record and np.isfinite(record[key]):
                xs.append(offset + record["iteration"])
                ys.append(record[key])
        offset += last + 1
        ends.append(offset)
    return xs, ys, ends[:-1]


def loss_plot(stages: Sequence[tuple[str, list[dict[str, Any]]]]) -> str | None:
    """Training and validation loss over iterations; None where there is no record."""
    train_x, train_y, ends = _series(stages, "total_loss")
    if not train_x:
        return None
    keys = sorted(
        {key for _, records in stages for record in records for key in record if key.endswith("/loss")}
    )
    with figure() as (_, axes, result):
        axes.plot(train_x, train_y, color=BLUE, linewidth=1, label="training, 20-iteration median")
        for key in keys[:1]:
            x, y, _ = _series(stages, key)
            axes.plot(x, y, color=VERMILION, marker="o", markersize=3, label="validation")
        _mark_stages(axes, ends)
        axes.set(xlabel="iteration", ylabel="total loss", ylim=(0, None))
        axes.legend()
    return result[0]


def score_plot(stages: Sequence[tuple[str, list[dict[str, Any]]]]) -> str | None:
    """Validation scores over iterations; None where there were no evaluations."""
    wanted = {"isic/jaccard": "Jaccard", "isic/threshold_jaccard": "thresholded Jaccard", "isic/dice": "Dice"}
    keys = {key for _, records in stages for record in records for key in record}
    found = [
        (next((key for key in sorted(keys) if key.endswith(end)), None), name) for end, name in wanted.items()
    ]
    if not any(key for key, _ in found):
        return None
    with figure() as (_, axes, result):
        for (key, name), color, marker in zip(found, (BLUE, ORANGE, GREEN), "osD", strict=True):
            if key:
                x, y, ends = _series(stages, key)
                axes.plot(x, y, color=color, marker=marker, markersize=3.5, label=name)
                _mark_stages(axes, ends)
        axes.set(xlabel="iteration", ylabel="mean over validation images", ylim=(None, 1))
        axes.legend()
    return result[0]


def _mark_stages(axes: Axes, ends: Sequence[float]) -> None:
    for end in ends:
        axes.axvline(end, color=GREY, linestyle=":", linewidth=1)


def jaccard_plot(jaccards: Sequence[float]) -> str:
    """Histogram of the Jaccard index over images, with the limit of failure."""
    with figure() as (_, axes, result):
        counts, edges = np.histogram(jaccards, bins=20, range=(0, 1))
        colours = [ORANGE if left < JACCARD_THRESHOLD - 1e-9 else BLUE for left in edges[:-1]]
        axes.bar(
            edges[:-1], counts, width=0.05, align="edge", color=colours, edgecolor="white", linewidth=0.5
        )
        axes.axvline(JACCARD_THRESHOLD, color=GREY, linewidth=1)
        place: dict[str, Any] = {
            "xytext": (-4, 0),
            "textcoords": "offset points",
            "ha": "right",
            "va": "top",
            "color": GREY,
        }
        axes.annotate("failure limit 0.65", (JACCARD_THRESHOLD, float(counts.max())), **place)
        median = float(np.median(jaccards))
        axes.axvline(median, color=VERMILION, linestyle="--", linewidth=1.2, label=f"median {median:.3f}")
        axes.set(xlabel="Jaccard index of an image", ylabel="images", xlim=(0, 1))
        axes.legend(loc="upper left")
    return result[0]


def subgroup_plot(subgroups: Sequence[dict[str, Any]], overall: float) -> str | None:
    """Mean Jaccard of every subgroup with its interval; None where there are no subgroups."""
    lines: list[tuple[str, dict[str, Any] | None, int]] = []
    for division in subgroups:
        if division["groups"]:
            lines.append((division["title"], None, 0))
            lines += [(group["name"], group["jaccard"], group["n"]) for group in division["groups"]]
    if not lines:
        return None
    with figure(height=0.6 + 0.2 * len(lines)) as (_, axes, result):
        positions = -np.arange(len(lines))
        for y, (_, jaccard, _) in zip(positions, lines, strict=True):
            if jaccard is None:
                continue
            if jaccard["low"] is not None:
                axes.plot(
                    [jaccard["low"], jaccard["high"]], [y, y], color=BLUE, linewidth=2, solid_capstyle="butt"
                )
            axes.plot(jaccard["value"], y, "o", color=BLUE, markersize=5)
        axes.axvline(overall, color=GREY, linewidth=1, linestyle="--")
        axes.set_yticks(
            positions, [name if jaccard is None else f"{name}  (n={n})" for name, jaccard, n in lines]
        )
        for label, (_, jaccard, _) in zip(axes.get_yticklabels(), lines, strict=True):
            label.set(fontweight="bold" if jaccard is None else "normal", fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="mean Jaccard index", xlim=(None, 1), ylim=(positions[-1] - 0.7, 0.7))
    return result[0]


def reliability_plot(calibration: dict[str, Any]) -> str | None:
    """Achieved Jaccard over predicted score in bins, sizes by number of images; None without scores."""
    bins = [b for b in calibration["bins"] if b["n"]]
    if not bins:
        return None
    with figure() as (_, axes, result):
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="score = Jaccard")
        x, y, n = ([b[key] for b in bins] for key in ("score", "jaccard", "n"))
        axes.plot(x, y, color=BLUE, linewidth=1)
        axes.scatter(
            x, y, s=20 + 160 * np.array(n) / max(n), color=BLUE, alpha=0.8, label="images of a score bin"
        )
        for b in bins:
            axes.annotate(
                str(b["n"]),
                (b["score"], b["jaccard"]),
                xytext=(0, -15 if b["jaccard"] > 0.1 else 9),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=GREY,
            )
        axes.set(
            xlabel="detection score, mean of bin",
            ylabel="achieved Jaccard, mean of bin",
            xlim=(0, 1.02),
            ylim=(0, 1.02),
        )
        axes.legend(loc="upper left")
    return result[0]


def precision_recall_plot(curve: Sequence[dict[str, Any]]) -> str | None:
    """Precision over recall at mask IoU 0.5 and 0.75; None without detections."""
    lines = {}
    for iou in ("50", "75"):
        points = [(point[f"recall{iou}"], point[f"precision{iou}"], point["threshold"]) for point in curve]
        if points := [point for point in points if None not in point]:
            lines[iou] = points
    if not lines:
        return None
    with figure() as (_, axes, result):
        for (iou, points), color in zip(lines.items(), (BLUE, ORANGE), strict=False):
            axes.plot(
                [point[0] for point in points],
                [point[1] for point in points],
                color=color,
                label=f"mask IoU 0.{iou}".rstrip("0"),
            )
            for x, y, threshold in points:
                if threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
                    axes.plot(x, y, "o", color=color, markersize=4)
                    axes.annotate(
                        f"{threshold:g}", (x, y), (5, 4), textcoords="offset points", fontsize=7, color=GREY
                    )
        axes.set(xlabel="recall (lesions found)", ylabel="precision (detections right)")
        seen = [point[:2] for points in lines.values() for point in points]
        axes.set(
            xlim=_from_tenth(min(recall for recall, _ in seen)),
            ylim=_from_tenth(min(value for _, value in seen)),
        )
        axes.legend(loc="lower left", title="numbers: score threshold", title_fontsize=8)
    return result[0]


def _from_tenth(smallest: float) -> tuple[float, float]:
    """Axis limits for shares: from the tenth below the smallest one to 1 and a little."""
    return max(0.0, math.floor(smallest * 10 - 0.5) / 10), 1.02


def confusion_plot(classes: dict[str, Any]) -> str | None:
    """Confusion matrix: shares of each reference class by colour, counts as numbers; None with one class."""
    if not classes["names"]:
        return None
    matrix = np.array(classes["matrix"], dtype=float)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    with figure(height=1.6 + 0.34 * len(matrix)) as (fig, axes, result):
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (i, j), count in np.ndenumerate(matrix):
            axes.text(
                j,
                i,
                f"{count:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share[i, j] > 0.55 else "black",
            )
        axes.set_xticks(
            range(matrix.shape[1]),
            [*classes["names"], "no detection"][: matrix.shape[1]],
            rotation=35,
            ha="right",
            fontsize=8,
        )
        axes.set_yticks(range(len(matrix)), classes["names"], fontsize=8)
        axes.grid(visible=False)
        axes.set(xlabel="predicted", ylabel="reference")
        fig.colorbar(image, ax=axes, label="share of the reference class")
    return result[0]
