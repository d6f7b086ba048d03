"""What a run is made of: epochs into iterations, stages, processes, and refusals."""

from __future__ import annotations

import csv
import json

import pytest
import torch
import yaml
from conftest import ROOT
from training import training_cfg

from lesionseg import LesionPredictor
from lesionseg.checkpoint import require_weights
from lesionseg.config import setup_cfg
from lesionseg.errors import LesionsegError
from lesionseg.launching import processes
from lesionseg.stages import (
    check_output,
    complete_cfg,
    evaluate_run,
    stage_cfgs,
    train_stages,
    write_run_record,
)

# The data set `tiny` has 32 training images.


def test_epochs_become_iterations_of_the_data_and_batch_at_hand(lesion_root, tmp_path):
    opts = (
        "LESION.SCHEDULE.ALL_EPOCHS",
        "3.0",
        "LESION.SCHEDULE.HEADS_EPOCHS",
        "0.5",
        "LESION.SCHEDULE.EVAL_EPOCHS",
        "1.0",
    )
    cfg = training_cfg(lesion_root, tmp_path, *opts, "SOLVER.IMS_PER_BATCH", "4")
    assert cfg.SOLVER.MAX_ITER == 3 * 32 / 4
    assert cfg.LESION.SCHEDULE.HEADS_ITERS == 0.5 * 32 / 4
    assert cfg.TEST.EVAL_PERIOD == 32 / 4


def test_two_processes_double_batch_and_rate_and_halve_iterations(lesion_root, tmp_path):
    # SOLVER.REFERENCE_WORLD_SIZE is 1 in our configs; the linear rule is Detectron2's own.
    opts = (
        *("SOLVER.MAX_ITER", "100", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.BASE_LR", "0.002"),
        *("LESION.OPTIMIZER", "SGD"),
    )
    cfg = training_cfg(lesion_root, tmp_path, *opts, world_size=2)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (8, 0.004, 50)
    epochs = training_cfg(lesion_root, tmp_path, *opts, "LESION.SCHEDULE.ALL_EPOCHS", "2.0", world_size=2)
    assert epochs.SOLVER.MAX_ITER == 2 * 32 / 8


def test_a_completed_cfg_read_back_stays_as_it_is(lesion_root, tmp_path):
    cfg = training_cfg(lesion_root, tmp_path, "LESION.SCHEDULE.ALL_EPOCHS", "3.0")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = complete_cfg(setup_cfg(tmp_path / "config.yaml"), 1)
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


def test_classes_come_from_the_data(lesion_root, tmp_path):
    cfg = training_cfg(lesion_root, tmp_path, "MODEL.ROI_HEADS.NUM_CLASSES", "7")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1 and tuple(cfg.LESION.CLASSES) == ("lesion",)


def test_stages_of_the_main_config(lesion_root, tmp_path):
    opts = [
        "LESION.DATA_ROOT",
        str(lesion_root),
        "DATASETS.TRAIN",
        "('tiny_train',)",
        "DATASETS.TEST",
        "('tiny_val',)",
    ]
    cfg = complete_cfg(setup_cfg(ROOT / "configs/isic_mrcnn.yaml", [*opts, "OUTPUT_DIR", str(tmp_path)]), 1)
    (heads_name, heads), (all_name, everything) = stage_cfgs(cfg)
    assert (heads_name, all_name) == ("heads", "all")
    assert heads.MODEL.BACKBONE.FREEZE_AT == 5 and everything.MODEL.BACKBONE.FREEZE_AT == 2
    assert heads.SOLVER.MAX_ITER == 4 * 32 / 8 and everything.SOLVER.MAX_ITER == 20 * 32 / 8
    assert everything.SOLVER.BASE_LR == pytest.approx(heads.SOLVER.BASE_LR / 10)
    assert everything.MODEL.WEIGHTS == str(tmp_path / "heads/model_best.pth")
    assert heads.OUTPUT_DIR == str(tmp_path / "heads") and everything.OUTPUT_DIR == str(tmp_path)


def test_both_stages_on_all_images_there_are(lesion_root, tmp_path):
    """None is left for validation, as for a challenge's last submission: each stage ends with its last weights."""
    opts = ("DATASETS.TEST", "()", "LESION.SCHEDULE.HEADS_ITERS", "1", "SOLVER.MAX_ITER", "1")
    assert train_stages(training_cfg(lesion_root, tmp_path, *opts), resume=False) is None
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("model_*")) == [
        "heads/model_final.pth",
        "model_final.pth",
    ]
    assert LesionPredictor(tmp_path).metadata.thing_classes == ["lesion"]


def test_from_scratch_there_is_one_stage_at_the_full_rate(lesion_root, tmp_path):
    cfg = training_cfg(lesion_root, tmp_path)
    ((name, stage),) = stage_cfgs(cfg)
    assert name == "all" and stage.SOLVER.BASE_LR == cfg.SOLVER.BASE_LR


def test_a_batch_that_cannot_be_divided(lesion_root, tmp_path):
    with pytest.raises(LesionsegError, match=r"IMS_PER_BATCH 5 .* 2 processes"):
        training_cfg(
            lesion_root,
            tmp_path,
            "SOLVER.IMS_PER_BATCH",
            "5",
            "SOLVER.REFERENCE_WORLD_SIZE",
            "0",
            world_size=2,
        )


def test_an_existing_run_is_not_overwritten(tmp_path):
    check_output(tmp_path, resume=False)
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads/last_checkpoint").write_text("model_0000001.pth")
    with pytest.raises(LesionsegError, match="--resume"):
        check_output(tmp_path, resume=False)
    check_output(tmp_path, resume=True)


def test_evaluating_nothing_says_what_is_missing(lesion_root, tmp_path):
    with pytest.raises(LesionsegError, match=r"model_best\.pth"):
        evaluate_run(training_cfg(lesion_root, tmp_path))


def test_run_record(lesion_root, tmp_path):
    write_run_record(training_cfg(lesion_root, tmp_path))
    with open(tmp_path / "data/tiny_val.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and {row["split"] for row in rows} == {"val"}
    assert all(len(row["sha256"]) == 64 for row in rows)
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert versions["torch"] == torch.__version__.split("+")[0] and versions["detectron2"].startswith(
        "Detectron2 0.6"
    )


def test_weights_that_are_missing_or_out_of_reach(monkeypatch, tmp_path):
    with pytest.raises(LesionsegError, match=r"nowhere\.pth"):
        require_weights(str(tmp_path / "nowhere.pth"))
    # A proxy that nobody answers stands for a site without network.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    url = "https://dl.fbaipublicfiles.com/detectron2/COCO-InstanceSegmentation/absent/model_final_0.pkl"
    with pytest.raises(LesionsegError) as error:
        require_weights("detectron2://COCO-InstanceSegmentation/absent/model_final_0.pkl")
    assert url in str(error.value)
    assert "MODEL.WEIGHTS /path/to/model_final_0.pkl" in str(error.value)
    assert "isic_mrcnn_scratch.yaml" in str(error.value)


def test_processes_and_device():
    assert processes("cpu", 1) == ("cpu", 1)
    assert processes("cpu", 2) == ("cpu", 2)
    assert processes("cuda", 0) == ("cpu", 1)
    found = torch.cuda.device_count()
    assert processes("cuda", 1) == ("cuda" if found else "cpu", 1)
    with pytest.raises(LesionsegError, match=rf"--num-gpus {found + 2}: this machine has {found} CUDA"):
        processes("cuda", found + 2)


def test_more_processes_warm_up_as_long_and_shorten_both_stages(lesion_root, tmp_path):
    opts = (
        "LESION.SCHEDULE.HEADS_ITERS",
        "400",
        "SOLVER.MAX_ITER",
        "800",
        "LESION.SCHEDULE.WARMUP_SHARE",
        "0.05",
    )
    (_, heads), (_, everything) = stage_cfgs(training_cfg(lesion_root, tmp_path, *opts, world_size=4))
    assert (heads.SOLVER.MAX_ITER, everything.SOLVER.MAX_ITER) == (100, 200)
    assert (heads.SOLVER.WARMUP_ITERS, everything.SOLVER.WARMUP_ITERS) == (20, 40)  # as alone
    (_, heads), _ = stage_cfgs(training_cfg(lesion_root, tmp_path, *opts, world_size=16))
    assert heads.SOLVER.WARMUP_ITERS == round(25 / 3)


def test_many_processes_leave_no_stage_out(lesion_root, tmp_path):
    cfg = training_cfg(lesion_root, tmp_path, "LESION.SCHEDULE.HEADS_ITERS", "4", world_size=16)
    assert [name for name, _ in stage_cfgs(cfg)] == ["heads", "all"]


def test_the_rate_of_adamw_grows_with_the_root_of_the_batch(lesion_root, tmp_path):
    opts = ("LESION.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", "0.001", "SOLVER.IMS_PER_BATCH", "4")
    cfg = training_cfg(lesion_root, tmp_path, *opts, world_size=4)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR) == (16, pytest.approx(0.002))


def test_one_gpu_by_number_is_not_several():
    with pytest.raises(LesionsegError, match=r"MODEL\.DEVICE cuda:1 names one GPU, --num-gpus 2"):
        processes("cuda:1", 2)


def test_thresholds_tuned_after_training_survive_a_resume(lesion_root, tmp_path):
    opts = ("LESION.SCHEDULE.HEADS_ITERS", "0", "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()")
    cfg = training_cfg(lesion_root, tmp_path, *opts)
    train_stages(cfg, resume=False)
    text = (tmp_path / "config.yaml").read_text() + "# tuned\n"
    (tmp_path / "config.yaml").write_text(text)
    train_stages(cfg, resume=True)
    assert (tmp_path / "config.yaml").read_text() == text


def test_a_run_is_not_resumed_with_another_model(lesion_root, tmp_path):
    opts = ("LESION.SCHEDULE.HEADS_ITERS", "0", "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()")
    train_stages(training_cfg(lesion_root, tmp_path, *opts), resume=False)
    text = (tmp_path / "config.yaml").read_text()
    other = training_cfg(lesion_root, tmp_path, *opts, "MODEL.RESNETS.DEPTH", "34")
    with pytest.raises(LesionsegError, match="another network"):
        train_stages(other, resume=True)
    assert (tmp_path / "config.yaml").read_text() == text


def test_a_checkpoint_that_is_gone_is_named(lesion_root, tmp_path):
    opts = ("LESION.SCHEDULE.HEADS_ITERS", "0", "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()")
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    with pytest.raises(LesionsegError, match=r"model_0000001\.pth: no such file"):
        train_stages(training_cfg(lesion_root, tmp_path, *opts), resume=True)


def test_a_misspelt_metric_is_refused_at_once(lesion_root, tmp_path):
    with pytest.raises(
        LesionsegError, match=r"isic/jacard, which the evaluation does not give; choose one of isic/"
    ):
        train_stages(training_cfg(lesion_root, tmp_path, "LESION.BEST_METRIC", "isic/jacard"), resume=False)
