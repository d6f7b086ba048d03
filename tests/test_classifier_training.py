"""Train classifiers on small crops: learns, repeats, continues, scores, classifies, and says what is wrong."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn import metrics

from lesionseg import classifier_loop
from lesionseg.classifier import CropClassifier
from lesionseg.classifier_batch import classify_crops
from lesionseg.classifier_config import classifier_cfg
from lesionseg.classifier_loop import BEST, LAST, train_network
from lesionseg.classifier_network import CropNetwork, load_pretrained
from lesionseg.classifier_training import train_classifier
from lesionseg.config import setup_cfg
from lesionseg.crop_export import export_crops
from lesionseg.errors import LesionsegError
from lesionseg.images import read_image, read_mask
from lesionseg.prepare import prepare
from lesionseg.prepared import PrepareOptions
from lesionseg.synthetic import make_synthetic

ROOT = Path(__file__).resolve().parent.parent
OPTS = [
    "DEVICE",
    "cpu",
    "CLASSIFIER.ARCH",
    "resnet10",
    "CLASSIFIER.WEIGHTS",
    "None",
    "CLASSIFIER.INPUT_SIZE",
    "32",
    "CLASSIFIER.WORKERS",
    "0",
    "CLASSIFIER.EPOCHS",
    "2",
    "CLASSIFIER.BATCH_SIZE",
    "16",
    "CLASSIFIER.LABELS",
    "benign-malignant",
    "LESION.BF16",
    "off",
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """100 drawn lesions of 96 px, prepared with test images, and their crops: <folder>/{images,masks,data,crops}."""
    folder = tmp_path_factory.mktemp("drawn")
    make_synthetic(folder, 100, 96, seed=1, workers=1)
    prepare(
        PrepareOptions(
            images=folder / "images",
            masks=folder / "masks",
            labels=(folder / "labels.csv",),
            out=folder / "data",
            split="0.5/0.2/0.3",
            workers=1,
        )
    )
    assert not export_crops(folder / "data", folder / "crops").failed
    return folder


def make_cfg(folder: Path, crops: Path, *opts: str):
    """A small network on small crops, with further KEY VALUE pairs."""
    base = classifier_cfg()
    base.CLASSIFIER.WEIGHTS = ""
    named = [word for pair in zip(OPTS[::2], OPTS[1::2], strict=True) if pair[1] != "None" for word in pair]
    return setup_cfg(
        "", [*named, "OUTPUT_DIR", str(folder), "CLASSIFIER.CROPS", repr((str(crops),)), *opts], base
    )


@pytest.fixture(scope="module")
def run(drawn, tmp_path_factory) -> Path:
    """A finished run of all routes."""
    folder = tmp_path_factory.mktemp("run")
    train_classifier(make_cfg(folder, drawn / "crops"))
    return folder


def crops_of(cfg, folder: Path):
    from lesionseg.classifier_data import choose_classes, labelled, read_crops

    found, _ = read_crops([folder])
    classes = choose_classes([row for _, row in found], cfg.CLASSIFIER.LABELS)
    crops = labelled(found, classes, cfg.CLASSIFIER.LABELS)
    return [[crop for crop in crops if crop.row["split"] == split] for split in ("train", "val")]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_features_learn_the_drawings_rule(drawn, tmp_path):
    scores = train_classifier(make_cfg(tmp_path, drawn / "crops", "CLASSIFIER.ROUTE", "features"))
    for route in ("features_logistic", "features_boosting"):
        assert scores["test"][route]["balanced_accuracy"]["value"] > 0.9, route
    assert scores["test"]["majority class"]["balanced_accuracy"]["value"] == 0.5
    assert not (tmp_path / BEST).exists()


def test_run_folder(run):
    names = {
        "config.yaml",
        "classifier.json",
        BEST,
        LAST,
        "metrics.json",
        "features.joblib",
        "feature_importance.csv",
    }
    assert names | {"predictions.csv", "scores.json", "scores.md"} <= {path.name for path in run.iterdir()}
    model = json.loads((run / "classifier.json").read_text())
    assert model["classes"] == ["benign", "malignant"]
    assert set(model["routes"]) == {"features_logistic", "features_boosting", "network", "combined"}
    epochs = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert [(row["stage"], row["epoch"]) for row in epochs] == [("all", 1), ("all", 2)]


def test_scores_are_those_of_the_predictions(run):
    scores = json.loads((run / "scores.json").read_text())
    for split in ("val", "test"):
        rows = [row for row in rows_of(run / "predictions.csv") if row["split"] == split]
        truth = [row["true_class"] for row in rows]
        p = np.array([[float(row["p_benign"]), float(row["p_malignant"])] for row in rows])
        assert p.sum(axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-5)
        found = scores["splits"][split][scores["route"]]
        predicted = np.array(["benign", "malignant"])[p.argmax(axis=1)]
        assert found["balanced_accuracy"]["value"] == pytest.approx(
            metrics.balanced_accuracy_score(truth, predicted)
        )
        positive = np.array(truth) == "malignant"
        auc = found["classes"]["malignant"]["auc"]["value"]
        assert auc == pytest.approx(metrics.roc_auc_score(positive, p[:, 1]), abs=0.01)
    threshold = json.loads((run / "classifier.json").read_text())["routes"]["combined"]["abstain_below"]
    for row in rows:
        sure = float(row["probability"]) >= threshold
        assert row["class"] == (
            ("benign", "malignant")[float(row["p_malignant"]) > 0.5] if sure else "uncertain"
        )


def test_a_whole_image_gives_what_its_exported_crop_gives(run, drawn):
    rows = {row["sample_id"]: row for row in rows_of(run / "predictions.csv")}
    classifier = CropClassifier(run)
    for name in sorted(rows)[:4]:
        image = read_image(drawn / "images" / f"{name}.jpg")
        opinion = classifier(image, read_mask(drawn / "masks" / f"{name}_segmentation.png"))
        # The exported features are rounded to six digits, the probabilities as well.
        assert opinion.probabilities["malignant"] == pytest.approx(float(rows[name]["p_malignant"]), abs=1e-3)
        assert opinion.label == rows[name]["class"]


def test_a_finished_run_is_not_trained_again(run, drawn):
    weights, scores = (run / BEST).stat().st_mtime_ns, (run / "scores.json").read_bytes()
    train_classifier(
        make_cfg(run, drawn / "crops", "CLASSIFIER.WORKERS", "1")
    )  # where it runs does not matter
    assert (run / BEST).stat().st_mtime_ns == weights
    assert (run / "scores.json").read_bytes() == scores


def test_another_run_in_the_folder_is_an_error(run, drawn):
    with pytest.raises(LesionsegError, match=r"LR: 0\.5"):
        train_classifier(make_cfg(run, drawn / "crops", "CLASSIFIER.LR", "0.5"))


def test_a_killed_run_continues_to_the_same_weights(drawn, tmp_path, monkeypatch):
    cfg = make_cfg(tmp_path, drawn / "crops", "CLASSIFIER.EPOCHS", "3")
    train, val = crops_of(cfg, drawn / "crops")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_network(cfg, train, val, 2, whole)

    step, steps = classifier_loop._Trainer._step, []

    def interrupted(self, images, indices):
        steps.append(1)
        if len(steps) == 6:  # in the second epoch: 50 crops make 4 steps
            raise KeyboardInterrupt
        return step(self, images, indices)

    with monkeypatch.context() as patch:
        patch.setattr(classifier_loop._Trainer, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_network(cfg, train, val, 2, killed)
    assert torch.load(killed / LAST, weights_only=True)["progress"]["epoch"] == 1
    train_network(cfg, train, val, 2, killed)
    one, other = (torch.load(folder / LAST, weights_only=True) for folder in (whole, killed))
    assert [row["epoch"] for row in other["progress"]["history"]] == [1, 2, 3]
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name


def test_pretrained_networks_start_with_the_head(drawn, tmp_path):
    torch.manual_seed(7)
    weights = tmp_path / "pretrained.pth"
    torch.save(CropNetwork("resnet10", 1000).network.state_dict(), weights)
    opts = ("CLASSIFIER.WEIGHTS", str(weights), "CLASSIFIER.HEAD_EPOCHS", "1", "CLASSIFIER.EPOCHS", "1")
    cfg = make_cfg(tmp_path, drawn / "crops", *opts)
    train, val = crops_of(cfg, drawn / "crops")
    trainer = classifier_loop._Trainer(cfg, train, val, 2, tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    source = torch.load(weights, weights_only=True)
    assert torch.equal(before["network.conv1.weight"], source["conv1.weight"])
    trainer._start_stage("head")
    trainer._epoch("head", 1)
    changed = {n for n, value in trainer.model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"network.fc.weight", "network.fc.bias"}  # batch statistics stay, too
    trainer.run()
    assert [row["stage"] for row in trainer.progress.history] == ["head", "all"]
    assert not torch.equal(trainer.model.state_dict()["network.conv1.weight"], before["network.conv1.weight"])


def test_weights_of_another_run_are_taken(tmp_path):
    """network_best.pth of a run with seven classes, for three: everything but the last layer."""
    torch.manual_seed(3)
    other, model = CropNetwork("resnet10", 7), CropNetwork("resnet10", 3)
    torch.save(other.state_dict(), tmp_path / "network_best.pth")
    head = model.head.weight.clone()
    assert load_pretrained(model, "resnet10", str(tmp_path / "network_best.pth"))
    state = model.state_dict()
    for name, value in other.state_dict().items():
        assert "fc." in name or torch.equal(state[name], value), name
    assert torch.equal(model.head.weight, head)
    with pytest.raises(LesionsegError, match="do not fit"):
        load_pretrained(CropNetwork("resnet18", 3), "resnet18", str(tmp_path / "network_best.pth"))


def test_early_stopping(drawn, tmp_path, monkeypatch):
    cfg = make_cfg(tmp_path, drawn / "crops", "CLASSIFIER.EPOCHS", "6", "CLASSIFIER.PATIENCE", "2")
    train, val = crops_of(cfg, drawn / "crops")
    falling = iter((0.6, 0.7, 0.7, 0.5, 0.9, 0.9))
    monkeypatch.setattr(classifier_loop, "balanced_accuracy", lambda truth, predicted: next(falling))
    train_network(cfg, train[:16], val[:4], 2, tmp_path)
    progress = torch.load(tmp_path / LAST, weights_only=True)["progress"]
    assert (len(progress["history"]), progress["best"], progress["done"]) == (4, 0.7, True)


def test_a_loss_that_is_not_finite_names_the_crops(drawn, tmp_path):
    cfg = make_cfg(tmp_path, drawn / "crops", "CLASSIFIER.LR", "1e30")
    train, val = crops_of(cfg, drawn / "crops")
    with pytest.raises(LesionsegError, match=r"not a finite number.*crops.*\.png"):
        train_network(cfg, train, val, 2, tmp_path)


def test_weights_that_cannot_be_downloaded(monkeypatch, caplog):
    def refuse(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    model = CropNetwork("resnet18", 2)
    assert load_pretrained(model, "resnet18", "imagenet") is False
    assert "training from scratch" in caplog.text
    assert "download.pytorch.org" in caplog.text


@pytest.mark.parametrize(
    "arch", ("resnet10", "resnet18", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny")
)
def test_architectures_end_in_the_classes(arch):
    model = CropNetwork(arch, 5).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, 5)
    model.train_head_only()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == sum(
        p.numel() for p in model.head.parameters()
    )


def test_wrong_architectures_and_weights(tmp_path):
    with pytest.raises(LesionsegError, match="resnet50"):
        CropNetwork("resnet9000", 2)
    with pytest.raises(LesionsegError, match="does not exist"):
        load_pretrained(CropNetwork("resnet10", 2), "resnet10", str(tmp_path / "none.pth"))
    torch.save(CropNetwork("resnet18", 2).network.state_dict(), tmp_path / "other.pth")
    with pytest.raises(LesionsegError, match="do not fit"):
        load_pretrained(CropNetwork("resnet10", 2), "resnet10", str(tmp_path / "other.pth"))


def test_without_validation_crops(drawn, tmp_path):
    crops = tmp_path / "crops"
    shutil.copytree(drawn / "crops", crops)
    rows = [row for row in rows_of(crops / "crops.csv") if row["split"] != "val"]
    with (crops / "crops.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(LesionsegError, match="--split"):
        train_classifier(make_cfg(tmp_path / "run", crops))


def test_classify_crops(run, drawn, tmp_path):
    crops = tmp_path / "crops"
    shutil.copytree(drawn / "crops", crops)
    rows = [row for row in rows_of(crops / "crops.csv") if row["split"] == "test"]
    (crops / rows[0]["file"]).write_bytes(b"no picture")
    summary = classify_crops(CropClassifier(run), [crops], tmp_path / "out.csv", "test")
    assert len(summary.failed) == 1
    assert rows[0]["file"] in summary.failed[0]
    expected = {row["sample_id"]: row["p_malignant"] for row in rows_of(run / "predictions.csv")}
    found = rows_of(tmp_path / "out.csv")
    assert len(found) == len(rows) - 1
    for row in found:
        assert float(row["p_malignant"]) == pytest.approx(float(expected[row["sample_id"]]), abs=1e-5)
    assert json.loads((tmp_path / "out.json").read_text())["splits"]["test"]["combined"]["n"] == len(found)


def test_classify_refuses_crops_cut_otherwise(run, drawn, tmp_path):
    content = json.loads((drawn / "crops/crops.json").read_text())
    shutil.copytree(drawn / "crops", tmp_path / "crops")
    (tmp_path / "crops/crops.json").write_text(json.dumps({**content, "margin": 0.5}))
    with pytest.raises(LesionsegError, match=r"margin=0\.5"):
        classify_crops(CropClassifier(run), [tmp_path / "crops"], tmp_path / "out.csv")


def test_no_run_and_no_route(run, tmp_path):
    with pytest.raises(LesionsegError, match=r"classifier\.json"):
        CropClassifier(tmp_path)
    with pytest.raises(LesionsegError, match="network, combined"):
        CropClassifier(run, "astrology")


@pytest.mark.slow
def test_tools(drawn, tmp_path):
    def tool(name: str, *arguments: object) -> str:
        command = [sys.executable, "-W", "ignore", str(ROOT / "tools" / name), *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "100 crops" in tool(
        "export_crops.py", "--dataset", drawn / "data", "--out", tmp_path / "crops", "--size", 48
    )
    opts = ("OUTPUT_DIR", tmp_path / "run", "CLASSIFIER.CROPS", repr((str(tmp_path / "crops"),)))
    small = ("CLASSIFIER.INPUT_SIZE", 32, "CLASSIFIER.EPOCHS", 1, "CLASSIFIER.LABELS", "benign-malignant")
    config = ("--config-file", "configs/classifier_scratch.yaml")
    assert "balanced accuracy" in tool("train_classifier.py", *config, *opts, *small)
    output = ("--output", tmp_path / "out.csv", "--split", "test", "--route", "features_logistic")
    text = tool("classify.py", "--run", tmp_path / "run", "--crops", tmp_path / "crops", *output)
    assert "route features_logistic" in text
    assert len(rows_of(tmp_path / "out.csv")) == 30
