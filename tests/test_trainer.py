"""Training really trains, repeats, resumes, keeps the best, and stops when told or when it must."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage
from training import training_cfg

from lesionseg.checkpoint import read_best
from lesionseg.errors import LesionsegError
from lesionseg.hooks import validation_loss
from lesionseg.prepare import prepare
from lesionseg.prepared import PrepareOptions
from lesionseg.stages import evaluate_run, train_stages
from lesionseg.synthetic import make_synthetic
from lesionseg.trainer import LesionStep, LesionTrainer


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def run(lesion_root, tmp_path_factory):
    """(cfg, scores before, scores after) of one training of half a minute, shared by the tests that only read it."""
    output = tmp_path_factory.mktemp("run")
    cfg = training_cfg(lesion_root, output, "SOLVER.MAX_ITER", "200", "TEST.EVAL_PERIOD", "100")
    torch.manual_seed(0)
    before = LesionTrainer.test(cfg, LesionTrainer.build_model(cfg))["tiny_val"]
    after = train_stages(cfg, resume=False)["tiny_val"]
    return cfg, before, after


@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
def test_what_is_clipped_is_the_gradient_without_its_scale(lesion_root, tmp_path, optimizer):
    """float16 multiplies the loss, here by 1024; the gradient itself, 0.5, is below the limit, 1."""

    class Weight(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([2.0]))

        def forward(self, data: list) -> dict[str, torch.Tensor]:
            return {"loss": 0.5 * self.weight.sum()}

    cfg = training_cfg(lesion_root, tmp_path, "LESION.OPTIMIZER", optimizer)
    assert cfg.SOLVER.CLIP_GRADIENTS.ENABLED and cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE == 1.0
    model = Weight()
    step = LesionStep(model, [[]], LesionTrainer.build_optimizer(cfg, model), amp=False)
    step.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with EventStorage():
        step.iter = 0
        step.run_step()
    assert model.weight.grad.item() == 0.5
    assert 0 < 2.0 - model.weight.item() < 0.1


@pytest.mark.slow
def test_training_raises_the_scores(run):
    _, before, after = run
    assert before["isic"]["jaccard"] < 0.4
    assert after["isic"]["jaccard"] > 0.7
    assert after["segm"]["AP50"] > 80


@pytest.mark.slow
def test_run_folder_is_complete(run):
    cfg, _, after = run
    folder = Path(cfg.OUTPUT_DIR)
    for name in (
        "config.yaml",
        "versions.json",
        "metrics.json",
        "model_best.pth",
        "model_final.pth",
        "last_checkpoint",
    ):
        assert (folder / name).is_file(), name
    assert list(folder.glob("events.out.tfevents.*"))
    assert not list(folder.rglob("*.tmp"))
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    assert len((folder / "data/tiny_train.csv").read_text().splitlines()) == 1 + 32
    assert len((folder / "inference/tiny_val/isic_scores.csv").read_text().splitlines()) == 1 + 8
    scores = json.loads((folder / "inference/tiny_val/isic_scores.json").read_text())
    assert scores["jaccard"] == after["isic"]["jaccard"] and scores["images"] == 8


@pytest.mark.slow
def test_scores_and_validation_loss_are_logged(run):
    cfg, _, _ = run
    lines = metrics(Path(cfg.OUTPUT_DIR))
    evaluated = [line for line in lines if "tiny_val/isic/jaccard" in line]
    assert {line["iteration"] for line in evaluated} >= {99}
    parts = [key for key in evaluated[0] if key.startswith("tiny_val/loss_")]
    assert evaluated[0]["tiny_val/loss"] == pytest.approx(sum(evaluated[0][key] for key in parts))
    assert {"tiny_val/bbox/AP", "tiny_val/segm/AP50", "tiny_val/isic/threshold_jaccard"} <= evaluated[
        0
    ].keys()


@pytest.mark.slow
def test_best_checkpoint_is_the_best_evaluation_and_evaluates_to_it(run):
    cfg, _, after = run
    best = read_best(cfg.OUTPUT_DIR)
    key = f"tiny_val/{best['metric']}"
    logged = [line[key] for line in metrics(Path(cfg.OUTPUT_DIR)) if key in line]
    assert best["value"] == max([*logged, after["isic"]["threshold_jaccard"]])
    again = evaluate_run(cfg)["tiny_val"]
    assert again["isic"]["threshold_jaccard"] == pytest.approx(best["value"], abs=1e-6)


@pytest.mark.slow
def test_validation_loss_leaves_the_model_as_it_was(run):
    cfg, _, _ = run
    model = LesionTrainer.build_model(cfg)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first = validation_loss(cfg, model, "tiny_val", -1)
    assert torch.equal(state, torch.get_rng_state())
    assert same(before, model.state_dict()) and model.training
    assert validation_loss(cfg, model, "tiny_val", -1) == pytest.approx(first)


@pytest.mark.slow
def test_seeded_runs_repeat_and_other_seeds_differ(lesion_root, tmp_path):
    from lesionseg.launching import seed_process

    def train(name: str, seed: str) -> dict[str, torch.Tensor]:
        cfg = training_cfg(
            lesion_root, tmp_path / name, "SOLVER.MAX_ITER", "4", "SEED", seed, "DATASETS.TEST", "()"
        )
        seed_process(cfg)
        train_stages(cfg, resume=False)
        return weights(tmp_path / name / "model_final.pth")

    first = train("a", "1")
    assert same(first, train("b", "1"))
    assert not same(first, train("c", "2"))


class Killed(Exception):
    pass


def kill_at(monkeypatch: pytest.MonkeyPatch, iteration: int, stage: str = "all") -> None:
    """Training dies at the start of that iteration, as by a power cut."""
    step = LesionTrainer.run_step

    def run_step(self):
        if self.iter == iteration and self.stage == stage:
            raise Killed
        step(self)

    monkeypatch.setattr(LesionTrainer, "run_step", run_step)


@pytest.mark.slow
def test_resume_continues_at_the_right_iteration_and_keeps_the_best(lesion_root, tmp_path, monkeypatch):
    opts = ("SOLVER.MAX_ITER", "8", "SOLVER.CHECKPOINT_PERIOD", "4", "TEST.EVAL_PERIOD", "4")
    cfg = training_cfg(lesion_root, tmp_path, *opts, "LESION.BEST_METRIC", "loss")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 6)
        train_stages(cfg, resume=False)
    # A better model than any that the rest of this run can give: the resumed run must leave it alone.
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    torch.save({**best, "value": -1.0}, tmp_path / "model_best.pth")
    train_stages(cfg, resume=True)
    assert read_best(tmp_path)["value"] == -1.0
    iterations = [line["iteration"] for line in metrics(tmp_path) if "tiny_val/loss" in line]
    assert iterations[0] == 3 and iterations[-1] in (7, 8) and (tmp_path / "model_final.pth").is_file()
    final = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert final["iteration"] == 7 and final["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 8


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(lesion_root, tmp_path):
    cfg = training_cfg(lesion_root, tmp_path, "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()")
    train_stages(cfg, resume=False)
    stamp = (tmp_path / "model_final.pth").stat().st_mtime_ns
    train_stages(cfg, resume=True)
    assert (tmp_path / "model_final.pth").stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_two_stages_freeze_the_backbone_first_and_train_it_then(lesion_root, tmp_path, monkeypatch):
    opts = ("LESION.SCHEDULE.HEADS_ITERS", "4", "SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "4")
    cfg = training_cfg(lesion_root, tmp_path, *opts, "MODEL.RESNETS.NORM", "GN", "LESION.BEST_METRIC", "loss")
    rates = []
    build = LesionTrainer.build_optimizer.__func__

    def build_optimizer(cls, stage_cfg, model):
        frozen = [
            n
            for n, p in model.named_parameters()
            if n.startswith("backbone.bottom_up") and not p.requires_grad
        ]
        rates.append((stage_cfg.SOLVER.BASE_LR, len(frozen) > 0))
        return build(cls, stage_cfg, model)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LesionTrainer, "build_optimizer", classmethod(build_optimizer))
        kill_at(patch, 2, stage="all")
        train_stages(cfg, resume=False)
    assert rates == [(0.002, True), (pytest.approx(0.0002), False)]
    # Killed in stage 2: the resumed run must not repeat stage 1.
    stamp = (tmp_path / "heads/model_final.pth").stat().st_mtime_ns
    train_stages(cfg, resume=True)
    assert (tmp_path / "heads/model_final.pth").stat().st_mtime_ns == stamp
    heads, final = weights(tmp_path / "heads/model_best.pth"), weights(tmp_path / "model_final.pth")
    moved = {key.split(".")[0] for key in final if not torch.equal(heads[key], final[key])}
    assert {"backbone", "proposal_generator", "roi_heads"} <= moved
    assert any(not torch.equal(heads[k], final[k]) for k in final if k.startswith("backbone.bottom_up.res3"))


@pytest.mark.slow
def test_heads_stage_leaves_the_backbone_untouched(lesion_root, tmp_path):
    opts = ("LESION.SCHEDULE.HEADS_ITERS", "3", "SOLVER.MAX_ITER", "1", "LESION.BEST_METRIC", "loss")
    cfg = training_cfg(
        lesion_root, tmp_path, *opts, "MODEL.RESNETS.NORM", "GN", "SOLVER.CHECKPOINT_PERIOD", "1"
    )
    train_stages(cfg, resume=False)
    first = {}
    for path in sorted((tmp_path / "heads").glob("model_0*.pth")):
        first = first or weights(path)
    final = weights(tmp_path / "heads/model_final.pth")
    trunk = [key for key in final if key.startswith("backbone.bottom_up")]
    assert trunk and all(torch.equal(first[key], final[key]) for key in trunk)


@pytest.mark.slow
def test_early_stop(lesion_root, tmp_path):
    # A rate of zero cannot improve anything after the first evaluation.
    opts = (
        "SOLVER.MAX_ITER",
        "40",
        "TEST.EVAL_PERIOD",
        "2",
        "SOLVER.BASE_LR",
        "0.0",
        "LESION.EARLY_STOP_PATIENCE",
        "2",
    )
    cfg = training_cfg(lesion_root, tmp_path, *opts, "LESION.OPTIMIZER", "SGD", "SOLVER.WEIGHT_DECAY", "0.0",
                       "SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "MODEL.RESNETS.NORM", "GN")  # fmt: skip
    train_stages(cfg, resume=False)
    assert torch.load(tmp_path / "model_final.pth", weights_only=False)["iteration"] == 5
    train_stages(cfg, resume=True)  # stays stopped
    assert torch.load(tmp_path / "model_final.pth", weights_only=False)["iteration"] == 5


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_its_images(lesion_root, tmp_path):
    cfg = training_cfg(
        lesion_root, tmp_path, "SOLVER.MAX_ITER", "3", "DATASETS.TEST", "()", "LESION.VAL_LOSS_IMAGES", "0"
    )
    trainer = LesionTrainer(cfg)
    with torch.no_grad():
        trainer.model.roi_heads.box_predictor.bbox_pred.bias.fill_(math.inf)
    with pytest.raises(LesionsegError, match=r"no longer finite at iteration 0(.|\n)*ISIC_99\d{5}\.png"):
        trainer.train()


@pytest.mark.slow
def test_unknown_metric_lists_the_known_ones(lesion_root, tmp_path):
    opts = ("SOLVER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "1", "LESION.BEST_METRIC", "isic/kappa")
    with pytest.raises(LesionsegError, match=r"isic/kappa.*isic/jaccard"):
        train_stages(training_cfg(lesion_root, tmp_path, *opts), resume=False)


@pytest.mark.slow
def test_classes_of_the_data_are_trained_and_scored(tmp_path):
    make_synthetic(tmp_path / "raw", 24, 64, seed=0, workers=1)
    raw = tmp_path / "raw"
    prepare(PrepareOptions(images=raw / "images", masks=raw / "masks", labels=(raw / "labels.csv",),
                           classes="diagnosis", name="tiny", out=tmp_path / "datasets/tiny", workers=1))  # fmt: skip
    # The sampler of isic_mrcnn_diagnosis.yaml.
    opts = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", "0.6",
            "SOLVER.MAX_ITER", "2", "LESION.BEST_METRIC", "loss")  # fmt: skip
    cfg = training_cfg(tmp_path / "datasets", tmp_path / "run", *opts)
    assert set(cfg.LESION.CLASSES) == {"nevus", "melanoma"}
    scores = train_stages(cfg, resume=False)["tiny_val"]
    assert {"AP-nevus", "AP-melanoma"} <= scores["segm"].keys()
    assert weights(tmp_path / "run/model_final.pth")["roi_heads.box_predictor.cls_score.bias"].shape == (3,)


def test_a_run_begun_in_bfloat16_goes_on_in_float16(monkeypatch):
    """As when a job moves to an older GPU: the checkpoint holds no state of a scaler."""
    monkeypatch.setattr("lesionseg.trainer.amp_dtype", lambda device: torch.float16)
    layer = torch.nn.Linear(1, 1)
    step = LesionStep(layer, [], torch.optim.SGD(layer.parameters(), 0.1), amp=True)
    state = step.state_dict()
    assert state["grad_scaler"]["scale"] > 1
    step.load_state_dict({**state, "grad_scaler": {}})
    assert step.state_dict()["grad_scaler"] == state["grad_scaler"]
