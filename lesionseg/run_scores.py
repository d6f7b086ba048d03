"""Scores of a run: its model over a prepared data set once, then the same scoring as for any folder of masks."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from tqdm import tqdm

from lesionseg.checkpoint import BEST
from lesionseg.config import available_device, setup_cfg
from lesionseg.detection_curve import detection_curve
from lesionseg.errors import LesionsegError
from lesionseg.evaluation import INFERENCE_FOLDER
from lesionseg.images import atomic_write, write_image
from lesionseg.journal import file_state
from lesionseg.leaks import find_leaks, leak_summary, read_rows
from lesionseg.masks import configured_lesion_mask
from lesionseg.prediction_journal import fingerprint
from lesionseg.predictor import LesionPredictor
from lesionseg.register import read_coco, require
from lesionseg.runs import CONFIG, find_model
from lesionseg.scorecard import dataset_cases, write_scorecard
from lesionseg.stages import HEADS_FOLDER
from lesionseg.stream import FailedImage

logger = logging.getLogger(__name__)

MASKS = "masks"
INFERENCE = "inference.json"  # what was found in each image, and by which model; written last
COCO_RESULTS = "coco_instances_results.json"  # COCOEvaluator's name
_SETTINGS = ("weights", "INPUT.", "LESION.")  # of inference.json's "made_by", what scores.json repeats
_RESULTS_DIGEST = "coco_results (SHA-256)"
AP_METRICS = ("AP", "AP50", "AP75")


def score_run(
    run: Path,
    dataset: str | None = None,
    output: Path | None = None,
    batch_size: int = 1,
    opts: Sequence[str] = (),
) -> tuple[dict[str, Any], Path]:
    """Score a trained model on a prepared data set; inference that is already done with the same model is not repeated.

    Args:
        dataset: registered name; by default the run's first test set.
        output: by default <run>/inference/<dataset>.
        opts: KEY VALUE pairs over the run's configuration.

    Returns:
        The summary (see scorecard.write_scorecard), and the output folder with the score card, `masks/`,
        `coco_instances_results.json` and `inference.json`.

    Raises:
        LesionsegError: no such run or data set, classes that do not fit, images that cannot be read.
    """
    model = find_model(config_file=run / CONFIG)
    logger.info("%s", model)
    cfg = setup_cfg(model.config, opts)
    cfg.MODEL.WEIGHTS = str(model.weights)
    cfg.MODEL.DEVICE = available_device(cfg.MODEL.DEVICE)
    if not dataset and not cfg.DATASETS.TEST:
        raise LesionsegError(f"{model.config}: DATASETS.TEST is empty; name a data set with --dataset")
    dataset = dataset or cfg.DATASETS.TEST[0]
    output = output or run / INFERENCE_FOLDER / dataset
    cases = dataset_cases(dataset, cfg.LESION.DATA_ROOT)
    found = infer(cfg, dataset, output, batch_size)
    cases = [
        replace(
            case,
            predicted=_mask_file(output, case.id),
            score=math.nan
            if found["images"][case.id]["score"] is None
            else found["images"][case.id]["score"],
            predicted_class=found["images"][case.id]["class"],
        )
        for case in cases
    ]
    curve = detection_curve(Path(MetadataCatalog.get(dataset).json_file), output / COCO_RESULTS)
    about = {
        "predictions": f"{model.weights}",
        "references": dataset,
        "settings": {key: text for key, text in found["made_by"].items() if key.startswith(_SETTINGS)},
        "detection": {"ap": found["ap"], "curve": curve},
        "leaks": run_leaks(run, cfg, dataset),
        "chosen_by": model.weights.stem == BEST and dataset in cfg.DATASETS.TEST[:1],
        "licences": licences([*cfg.DATASETS.TRAIN, dataset]),
    }
    return write_scorecard(cases, output, about), output


def infer(cfg: CfgNode, dataset: str, output: Path, batch_size: int = 1) -> dict[str, Any]:
    """Run a model over a registered data set: lesion masks, COCO results and average precision.

    Average precision is that of all instances from MODEL.ROI_HEADS.SCORE_THRESH_TEST on, as in training; the lesion mask of
    an image is made by cfg.LESION as everywhere.

    Returns:
        Content of inference.json: "made_by" (see prediction_journal.fingerprint), "images" {id: {"score", "class", "classes"}}:
        the best detection in the lesion mask (null and "" where there is none) and the highest score of every class that was
        detected at all; "ap" {"segm": {"AP", "AP50", "AP75"}, "bbox": ...} in %; and the digest of the COCO results.

    Raises:
        LesionsegError: classes of model and data differ; images that cannot be read, all named.
    """
    dataset_json = Path(MetadataCatalog.get(dataset).json_file)
    states = "\n".join(file_state(Path(record["file_name"])) for record in DatasetCatalog.get(dataset))
    made_by = {
        **fingerprint(cfg),
        dataset: _digest(dataset_json),
        "images": hashlib.sha256(states.encode(errors="surrogateescape")).hexdigest(),
    }
    done = output / INFERENCE
    if (found := _finished(output, made_by)) is not None:
        logger.info(
            "%s: these images were predicted by this model before; only the scoring is done again", output
        )
        return found
    done.unlink(missing_ok=True)
    classes = class_names_of(cfg, dataset)
    records = sorted(DatasetCatalog.get(dataset), key=lambda record: record["sample_id"])
    all_instances = cfg.clone()
    all_instances.LESION.SCORE_THRESHOLD = min(
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.LESION.SCORE_THRESHOLD
    )
    predictor = LesionPredictor(all_instances)
    evaluator = COCOEvaluator(dataset, tasks=("bbox", "segm"), output_dir=str(output), use_fast_impl=False)
    evaluator.reset()
    images, failed = {}, []
    stream = predictor.predict(records, batch_size)
    for record, result in tqdm(stream, desc="predicting", total=len(records), unit="image", disable=None):
        if isinstance(result, FailedImage):
            failed.append(str(result))
            continue
        evaluator.process([record], [{"instances": result}])
        mask = configured_lesion_mask(cfg, result)
        write_image(_mask_file(output, record["sample_id"]), mask)
        best = len(result) > 0 and float(result.scores[0]) >= cfg.LESION.SCORE_THRESHOLD
        images[record["sample_id"]] = {
            "score": float(result.scores[0]) if best else None,
            "class": classes[int(result.pred_classes[0])] if best else "",
            "classes": class_scores(result.pred_classes, result.scores, classes),
        }
    if failed:
        raise LesionsegError(
            f"{len(failed)} images cannot be scored, so there is no score:\n  " + "\n  ".join(failed)
        )
    scores = evaluator.evaluate() or {}
    ap = {
        task: {name: float(values[name]) for name in AP_METRICS} for task, values in scores.items() if values
    }
    found = {
        "made_by": made_by,
        "images": images,
        "ap": ap,
        _RESULTS_DIGEST: _digest(output / COCO_RESULTS),
    }
    with atomic_write(done) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _finished(output: Path, made_by: dict[str, str]) -> dict[str, Any] | None:
    """What inference.json says, where it was made so and what belongs to it is still there; else None."""
    try:
        found: dict[str, Any] = json.loads((output / INFERENCE).read_text())
        masks = [_mask_file(output, name) for name in found["images"]]
        # Training and train_net.py --eval-only write COCO results to this folder, too.
        whole = found["made_by"] == made_by and found[_RESULTS_DIGEST] == _digest(output / COCO_RESULTS)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if whole and all(mask.is_file() for mask in masks) else None


def _mask_file(output: Path, sample_id: str) -> Path:
    return output / MASKS / f"{sample_id}_segmentation.png"


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def class_scores(found: Iterable[Any], scores: Iterable[Any], classes: Sequence[str]) -> dict[str, float]:
    """The highest score of each class that an image's detections name.

    Args:
        found: class index of each detection.
        scores: in [0, 1], of each detection.
    """
    best: dict[str, float] = {}
    for index, score in zip(found, scores, strict=True):
        name = classes[int(index)]
        best[name] = max(float(score), best.get(name, 0.0))
    return best


def class_names_of(cfg: CfgNode, dataset: str) -> list[str]:
    """The classes of a registered data set.

    Raises:
        LesionsegError: the model has others.
    """
    classes, known = list(MetadataCatalog.get(dataset).thing_classes), list(cfg.LESION.CLASSES)
    if known and classes != known:
        raise LesionsegError(
            f"the model tells {', '.join(known)} apart, {dataset} has {', '.join(classes)}: prepare the data set with "
            "the --classes that the model was trained with"
        )
    return classes


def run_leaks(run: Path, cfg: CfgNode, dataset: str) -> dict[str, Any]:
    """Images of a data set that the run, or one whose weights it started from, was trained on, see `lesionseg.leaks`."""
    ids = {record["sample_id"] for record in DatasetCatalog.get(dataset)}
    split_csv = Path(MetadataCatalog.get(dataset).json_file).parent / "split.csv"
    recorded, missing = _training_records(run, cfg.DATASETS.TRAIN)
    if not split_csv.is_file():
        missing.append(split_csv)
    if missing:
        return {
            "text": f"leaks: not known, since {missing[0]} does not record the images.",
            "images": None,
            "found": [],
        }
    train = [row for path in recorded for row in read_rows(path)]
    test = [row for row in read_rows(split_csv) if row["id"] in ids]
    leaks = find_leaks(train, test, _training_files(cfg), _files(dataset))
    return leak_summary(leaks, len(train), len(test))


def _training_records(run: Path, datasets: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The files that record what a run, and every run whose weights it started from, was trained on; and what is not recorded.

    Weights from the network and .pkl files are those of Detectron2's model zoo, which has seen no dermoscopy.
    """
    recorded: list[Path] = []
    missing: list[Path] = [] if datasets else [run / "data"]
    weights = setup_cfg(run / CONFIG).MODEL.WEIGHTS
    seen: set[Path] = set()
    while run not in seen:
        seen.add(run)
        for name in datasets:
            path = run / "data" / f"{name}.csv"
            (recorded if path.is_file() else missing).append(path)
        if not weights or "://" in weights or weights.endswith(".pkl"):
            break
        folder = Path(weights).parent
        run = folder.parent if folder.name == HEADS_FOLDER else folder
        if not (run / CONFIG).is_file():
            missing.append(Path(weights))
            break
        cfg = setup_cfg(run / CONFIG)
        datasets, weights = cfg.DATASETS.TRAIN, cfg.MODEL.WEIGHTS
    return recorded, missing


def licences(datasets: Sequence[str]) -> dict[str, dict[str, str]]:
    """{data set: {"name", "url"}} of the data sets that are registered."""
    found = {}
    for dataset in datasets:
        if dataset in DatasetCatalog.list():
            licence = read_coco(MetadataCatalog.get(dataset).json_file)["licenses"][0]
            found[dataset] = {"name": licence["name"], "url": licence["url"]}
    return found


def _files(dataset: str) -> dict[str, Path]:
    return {record["sample_id"]: Path(record["file_name"]) for record in DatasetCatalog.get(dataset)}


def _training_files(cfg: CfgNode) -> dict[str, Path]:
    """Image files of the training data by id; {} where the data sets are no longer at hand."""
    try:
        require(cfg.DATASETS.TRAIN, cfg.LESION.DATA_ROOT)
    except LesionsegError:
        return {}
    return {name: path for dataset in cfg.DATASETS.TRAIN for name, path in _files(dataset).items()}
