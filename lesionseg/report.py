"""report.html of a run: one self-contained page about training, scores and failures. Reads files, never a model."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

import lesionseg
from lesionseg import report_plots as plots
from lesionseg.errors import LesionsegError
from lesionseg.images import atomic_write
from lesionseg.report_classifier import classifier_part
from lesionseg.report_gallery import gallery
from lesionseg.score_summary import read_summary
from lesionseg.scorecard import CSV, JSON
from lesionseg.scoring import read_scores
from lesionseg.tables import digits_of, interval_text, metric_name, number

INFERENCE = "inference"
REPORT = "report.html"


def make_report(
    run: Path, output: Path | None = None, classifier: Path | None = None, classified: Path | None = None
) -> Path:
    """Write the report of a run folder; every data set that tools/evaluate.py scored for it has a part.

    Args:
        output: by default <run>/report.html.
        classifier: run of tools/train_classifier.py, to be reported too and compared with the run's own classes.
        classified: table of tools/classify.py on crops that were cut by this run's masks, compared too.

    Raises:
        LesionsegError: no run folder, or no scores in it yet.
    """
    if not (run / "config.yaml").is_file():
        raise LesionsegError(f"{run}: expected a run folder with config.yaml, as tools/train_net.py makes it")
    cfg = yaml.safe_load((run / "config.yaml").read_text())
    scored = sorted(path.parent for path in run.glob(f"{INFERENCE}/*/{JSON}"))
    if not scored:
        raise LesionsegError(f"{run}: not scored yet; run tools/evaluate.py --run {run} first")
    # The run's own test sets come first, in their order.
    order = {name: index for index, name in enumerate(cfg["DATASETS"]["TEST"])}
    scored.sort(key=lambda folder: (order.get(folder.name, len(order)), folder.name))
    page = render(
        title=run.resolve().name,
        version=lesionseg.__version__,
        training=training_part(run, cfg),
        datasets=[dataset_part(folder, len(scored)) for folder in scored],
        classifier=classifier_part(classifier, {f: read_scores(f / CSV) for f in scored}, classified)
        if classifier
        else None,
        data=data_parts(run, cfg, scored),
        definitions=DEFINITIONS,
    )
    output = output or run / REPORT
    with atomic_write(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output


def render(**context: Any) -> str:
    """The page's template filled in; whatever stands in names and labels is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lesionseg", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["interval"] = interval_text
    environment.filters["number"] = number
    return environment.get_template("report.html").render(**context)


def training_part(run: Path, cfg: dict[str, Any]) -> dict[str, Any]:
    """Settings, versions and curves of the training."""
    solver, model, lesion = cfg["SOLVER"], cfg["MODEL"], cfg["LESION"]
    schedule = lesion["SCHEDULE"]
    iterations = f"{solver['MAX_ITER']}"
    if schedule["HEADS_ITERS"]:
        iterations = f"{schedule['HEADS_ITERS']} with the backbone frozen, then {iterations}"
    network = f"Mask R-CNN, ResNet-{model['RESNETS']['DEPTH']} FPN"
    settings = {
        "Network": network,
        "Initial weights": model["WEIGHTS"] or "random",
        "Classes": ", ".join(lesion["CLASSES"]) or "lesion",
        "Training data": ", ".join(cfg["DATASETS"]["TRAIN"]),
        "Validation data": ", ".join(cfg["DATASETS"]["TEST"]) or "none",
        "Iterations": iterations,
        "Images per batch": solver["IMS_PER_BATCH"],
        "Optimiser, base rate": f"{lesion['OPTIMIZER']}, {solver['BASE_LR']:g}",
        "Image size in training, px": f"shorter side {_range(cfg['INPUT']['MIN_SIZE_TRAIN'])}, longer side at most {cfg['INPUT']['MAX_SIZE_TRAIN']}",
        "Image size in testing, px": f"shorter side {cfg['INPUT']['MIN_SIZE_TEST']}, longer side at most {cfg['INPUT']['MAX_SIZE_TEST']}",
        "Lesion mask of an image": _mask_rule(lesion),
        "Seed": cfg["SEED"] if cfg["SEED"] >= 0 else "none: the run cannot be repeated exactly",
    }
    versions_file = run / "versions.json"
    log = plots.read_training_log(run)
    return {
        "settings": settings,
        "versions": json.loads(versions_file.read_text()) if versions_file.is_file() else {},
        "loss": plots.loss_plot(log),
        "scores": plots.score_plot(log),
    }


def _range(sizes: Any) -> str:
    sizes = sizes if isinstance(sizes, (list, tuple)) else [sizes]
    return str(sizes[0]) if len(set(sizes)) == 1 else f"{min(sizes)} to {max(sizes)}"


def _mask_rule(lesion: dict[str, Any]) -> str:
    chosen = {"top": "the instance of the highest score", "union": "all instances together"}[
        lesion["MASK_SELECTION"]
    ]
    region = ", largest region without holes" if lesion["ONE_REGION"] else ""
    return f"{chosen}, score {lesion['SCORE_THRESHOLD']:g} or more, mask probability {lesion['MASK_THRESHOLD']:g} or more{region}"


def dataset_part(folder: Path, share: int) -> dict[str, Any]:
    """Tables, plots and gallery of one scored data set.

    Args:
        share: number of data sets in the report, which share the gallery's size.
    """
    summary, rows = read_summary(folder / JSON), read_scores(folder / CSV)
    pictures, problems = gallery(rows, share)
    detection = summary.get("detection") or {"ap": {}, "curve": []}
    return {
        "name": folder.name,
        "summary": summary,
        "table": [
            (
                metric_name(metric),
                *(interval_text(values[kind], digits_of(metric)) for kind in ("mean", "median")),
            )
            for metric, values in summary["metrics"].items()
        ],
        "failure_name": metric_name("failure_rate"),
        "ap": detection["ap"],
        "plots": {
            "jaccard": plots.jaccard_plot([row["jaccard"] for row in rows]),
            "subgroups": plots.subgroup_plot(
                summary["subgroups"], summary["metrics"]["jaccard"]["mean"]["value"]
            ),
            "reliability": plots.reliability_plot(summary["calibration"]),
            "precision_recall": plots.precision_recall_plot(detection["curve"]),
            "confusion": plots.confusion_plot(summary["classes"]),
        },
        "pictures": pictures,
        "problems": problems,
        "failures": sum(row["jaccard"] < 0.65 for row in rows),
    }


def data_parts(run: Path, cfg: dict[str, Any], scored: Sequence[Path]) -> list[dict[str, Any]]:
    """What the run folder knows of every data set in it: number of images, groups, diagnoses, licence."""
    scored_in = {folder.name: folder for folder in scored}
    licences: dict[str, dict[str, str]] = {}
    for folder in scored:
        licences |= read_summary(folder / JSON).get("licences", {})
    names = dict.fromkeys([*cfg["DATASETS"]["TRAIN"], *cfg["DATASETS"]["TEST"], *scored_in])
    parts = []
    for name in names:
        part: dict[str, Any] = {
            "name": name,
            "images": "not recorded",
            "groups": "not known",
            "diagnoses": "not known",
        }
        if rows := _image_rows(run / "data" / f"{name}.csv", scored_in.get(name)):
            diagnoses = Counter(row["diagnosis"] for row in rows if row["diagnosis"])
            part["images"] = len(rows)
            part["groups"] = len({row["group"] for row in rows} - {""}) or "not known"
            part["diagnoses"] = ", ".join(f"{word} {n}" for word, n in diagnoses.most_common()) or "not known"
        parts.append({**part, "licence": licences.get(name, {"name": "not recorded", "url": ""})})
    return parts


def _image_rows(recorded: Path, scored: Path | None) -> list[dict[str, Any]]:
    """A row with "group" and "diagnosis" for each image, from the run's own record or from the scores; [] without both."""
    if recorded.is_file():
        with open(recorded, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    return read_scores(scored / CSV) if scored else []


# What the report says of each metric: how it is made, and where the definition comes from.
DEFINITIONS = [
    (
        "Jaccard index",
        "TP / (TP + FP + FN) over an image's pixels; 1 where both masks are empty.",
        "ISIC 2018 Task 1",
    ),
    (
        "Thresholded Jaccard",
        "The Jaccard index, or 0 where it is below 0.65. The ranking metric of the challenge.",
        "ISIC 2018 Task 1",
    ),
    ("Dice coefficient", "2 TP / (2 TP + FP + FN).", "Dice 1945"),
    (
        "Sensitivity, specificity, precision",
        "TP / (TP + FN), TN / (TN + FP), TP / (TP + FP); 1 where there is nothing to get wrong.",
        "ISIC 2018 Task 1",
    ),
    (
        "Boundary IoU",
        "Jaccard index of the rims, the pixels of each mask within a distance of its outline.",
        "Cheng et al., CVPR 2021",
    ),
    (
        "Surface Dice",
        "Share of both outlines that lies within a tolerance of the other one.",
        "Nikolov et al. 2018",
    ),
    (
        "HD95",
        "Larger of the two directed 95th percentiles of the distance between the outlines; the image diagonal where one mask is empty.",
        "Maier-Hein et al., Nature Methods 2024",
    ),
    (
        "Average surface distance",
        "Mean distance between the outlines, both directions together; the image diagonal where one mask is empty.",
        "Maier-Hein et al., Nature Methods 2024",
    ),
    (
        "Area error, centre error",
        "(Predicted - reference area) / reference area; distance of the centres of mass.",
        "",
    ),
    (
        "AP, AP50, AP75",
        "COCO average precision of all instances: mean over IoU 0.50 to 0.95, at 0.50, at 0.75.",
        "Lin et al., ECCV 2014",
    ),
    (
        "Expected calibration error",
        "Mean distance of score and achieved Jaccard over ten score bins, weighted by images.",
        "Naeini et al., AAAI 2015; Guo et al., ICML 2017",
    ),
    (
        "Skin tone",
        "Individual typology angle arctan((L* - 50) / b*) of the skin around the lesion, from uncalibrated photographs: an estimate.",
        "Chardon et al. 1991; Kinyanjui et al., MICCAI 2020",
    ),
]
