"""Cross-validation: the same training once for every fold of the data, and one score card for all images together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from lesionseg.errors import LesionsegError
from lesionseg.run_scores import AP_METRICS, score_run
from lesionseg.scorecard import CSV, write_rows
from lesionseg.scoring import read_scores

POOLED = "pooled"


def fold_folder(run: str | Path, fold: int) -> Path:
    """Run folder of one fold: <run>/fold0, <run>/fold1, ..."""
    return Path(run) / f"fold{fold}"


def fold_opts(cfg: CfgNode, fold: int) -> list[str]:
    """KEY VALUE pairs that make a configuration that of one fold: its part of the data, and a run folder of its own.

    isic2018_train becomes isic2018_fold0_train, as tools/prepare_dataset.py --folds names it.

    Raises:
        LesionsegError: data sets that are not named <name>_train, <name>_val.
    """

    def of_fold(name: str) -> str:
        if not re.search(r"_(train|val)$", name):
            raise LesionsegError(
                f"--folds: expected DATASETS named <name>_train and <name>_val, found {name}"
            )
        base, part = name.rsplit("_", 1)
        return f"{base}_fold{fold}_{part}"

    train, test = (tuple(map(of_fold, names)) for names in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST))
    folder = str(fold_folder(cfg.OUTPUT_DIR, fold))
    return ["DATASETS.TRAIN", str(train), "DATASETS.TEST", str(test), "OUTPUT_DIR", folder]


def require_folds(folds: int) -> None:
    """Refuse what is no number of folds.

    Raises:
        LesionsegError: fewer than 2.
    """
    if folds < 2:
        raise LesionsegError(
            f"--folds {folds}: expected 2 or more, as many as the data set was prepared with"
        )


def fold_commands(command: Sequence[str], cfg: CfgNode, folds: int) -> list[list[str]]:
    """The command of every fold: the same without --folds, and with `fold_opts` behind it.

    Raises:
        LesionsegError: fewer than 2 folds; see `fold_opts`.
    """
    require_folds(folds)
    alone = [word for word in command if not word.startswith("--folds=")]
    if "--folds" in alone:
        place = alone.index("--folds")
        del alone[place : place + 2]
    return [[*alone, *fold_opts(cfg, fold)] for fold in range(folds)]


def score_folds(
    run: Path, folds: int, batch_size: int = 1, opts: Sequence[str] = ()
) -> tuple[dict[str, Any], Path]:
    """Score every fold's model on the images that it was not trained on, and pool them: each image is scored once.

    Average precision cannot be pooled over models whose scores differ in scale: its mean over the folds is given.

    Returns:
        The summary of all images, and its folder <run>/pooled.

    Raises:
        LesionsegError: fewer than 2 folds; as `run_scores.score_run`; an image that is in two folds.
    """
    require_folds(folds)
    rows: list[dict[str, Any]] = []
    summaries = []
    for fold in range(folds):
        summary, output = score_run(fold_folder(run, fold), batch_size=batch_size, opts=opts)
        summaries.append(summary)
        rows += read_scores(output / CSV)
    ids = [row["id"] for row in rows]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise LesionsegError(
            f"{run}: {len(twice)} images are in the validation part of two folds, such as {twice[0]}"
        )
    aps = [summary["detection"]["ap"] for summary in summaries]
    means = [summary["metrics"]["threshold_jaccard"]["mean"]["value"] for summary in summaries]
    about = {
        "predictions": f"{folds} models of a cross-validation in {run}",
        "references": ", ".join(summary["references"] for summary in summaries),
        "detection": {
            "ap": {
                task: {name: float(np.mean([ap[task][name] for ap in aps])) for name in AP_METRICS}
                for task in aps[0]
                if all(task in ap for ap in aps)
            },
            "curve": [],
        },
        "leaks": _pooled_leaks(summaries),
        "chosen_by": any(summary["chosen_by"] for summary in summaries),
        "folds": f"thresholded Jaccard of each fold: {', '.join(f'{mean:.3f}' for mean in means)}; AP is the mean over folds.",
    }
    return write_rows(sorted(rows, key=lambda row: row["id"]), run / POOLED, about), run / POOLED


def _pooled_leaks(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The leaks of all folds; one fold with unknown training data leaves the whole unknown."""
    parts = [summary["leaks"] for summary in summaries]
    text = " ".join(f"fold {fold}: {part['text']}" for fold, part in enumerate(parts))
    known = all(part["images"] is not None for part in parts)
    return {
        "text": text,
        "images": sum(part["images"] for part in parts) if known else None,
        "found": [leak for part in parts for leak in part["found"]],
    }
