"""tools/train_net.py as a user types it: one process, two gloo processes, evaluation, mistakes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import ROOT
from training import training_opts


def train_net(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools/train_net.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)


def scratch(*arguments: str) -> tuple[str, ...]:
    return ("--config-file", str(ROOT / "configs/isic_mrcnn_scratch.yaml"), *arguments)


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(lesion_root, tmp_path):
    opts = training_opts(lesion_root, tmp_path / "run", "SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "2",
                         "MODEL.RESNETS.NORM", "GN", "LESION.BEST_METRIC", "loss")  # fmt: skip
    done = train_net(*scratch("--num-gpus", "2", "--dist-url", "auto", *opts))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning:" not in done.stderr
    run = tmp_path / "run"
    # SOLVER.REFERENCE_WORLD_SIZE 1: two processes mean twice the batch and half the iterations.
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    evaluated = [line for line in lines if "tiny_val/isic/jaccard" in line]
    assert evaluated[-1]["iteration"] in (1, 2)
    # Every image is scored once, whichever process had it.
    rows = (run / "inference/tiny_val/isic_scores.csv").read_text().splitlines()[1:]
    ids = [row.split(",")[0] for row in rows]
    assert len(ids) == 8 == len(set(ids))
    assert (run / "log.txt.rank1").is_file() and (run / "model_best.pth").is_file()
    # One process gives the same scores to the same weights.
    again = train_net(
        *scratch("--num-gpus", "0", "--eval-only", *opts, "MODEL.WEIGHTS", str(run / "model_final.pth"))
    )
    assert again.returncode == 0, again.stderr[-3000:]
    scores = json.loads((run / "inference/tiny_val/isic_scores.json").read_text())
    assert scores["jaccard"] == pytest.approx(evaluated[-1]["tiny_val/isic/jaccard"], abs=1e-6)
    # The run is there now: starting it again must not destroy it.
    refused = train_net(*scratch("--num-gpus", "0", *opts))
    assert refused.returncode == 2 and "--resume" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--num-gpus", "64"), "--num-gpus 64"),
        (
            ("--num-gpus", "0", "DATASETS.TRAIN", "('nowhere_train',)"),
            "data set nowhere_train, isic2018_val not found",
        ),
        (
            ("--num-gpus", "2", "MODEL.DEVICE", "cpu", "DATASETS.TRAIN", "('nowhere_train',)"),
            "data set nowhere_train, isic2018_val not found",
        ),
        (("--num-gpus", "0", "SOLVER.BASE_RATE", "1"), "BASE_RATE"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(tmp_path, arguments, expected):
    opts = ("OUTPUT_DIR", str(tmp_path / "run"), "LESION.DATA_ROOT", str(tmp_path))
    arguments = (*arguments, *opts)
    done = train_net(*scratch(*arguments))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and expected in last
