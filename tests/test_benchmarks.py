"""benchmarks/: what is shared, what is counted, and the tables and chart made of results."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, draw_lesions

from lesionseg.errors import LesionsegError

FOLDER = ROOT / "benchmarks"
MACHINE = {
    "date": "2020-02-29",
    "processor": "Abacus 3000",
    "instructions": ["avx2"],
    "cores": 6,
    "ram_gib": 7,
    "gpu": None,
    "system": "Linux 5",
    "python": "3.11.1",
    "versions": {"torch": "9.8"},
    "detectron2": "0.6",
}


@pytest.fixture
def module(monkeypatch):
    """Import a script of benchmarks/ by name."""
    monkeypatch.syspath_prepend(FOLDER)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def write_json(folder: Path, name: str, figures: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({**figures, "machine": MACHINE}))


@pytest.fixture
def results(tmp_path):
    """A machine's folder: prediction 4 times as fast as the usual way; one other model; a profile of one stage."""
    folder = tmp_path / "results/abacus"
    write_json(
        folder,
        "predict",
        {
            "images": 50,
            "test_size": 512,
            "weights": "trained",
            "backbone": "R50-FPN",
            "images_per_second": {"default_predictor": 2.5, "lesionseg": 10.0},
            "dice": {"default_predictor": 0.8, "lesionseg": 0.9994},
        },
    )
    rates = {"default_predictor": 0.5, "lesionseg": 1.0}
    network = {"test_size": 512, "backbone": "R50-FPN", "weights": "random"}
    write_json(folder, "predict_r50", {"images": 50, **network, "images_per_second": rates, "dice": {}})
    both = {"reading": (2.0, 20.0), "loop": (0.5, 0.75)}
    rates = {
        way: dict(zip(("default_trainer", "lesionseg"), pair, strict=True)) for way, pair in both.items()
    }
    sizes = {"max_size": 512, "input_size": [192]}
    write_json(folder, "train", {"batch": 8, **sizes, "images_per_second": rates})
    forms = {"detectron2 float32": 4.0, "openvino int8": 10.0, "ratio_of_best_to_detectron2_float32": 99.0}
    write_json(
        folder,
        "runtimes",
        {
            "images": 24,
            "all_cores": 6,
            "test_size": 512,
            "backbone": "R50-FPN",
            "rates": {"1 cores": {"detectron2 float32": 2.0, "openvino int8": 7.0}, "6 cores": forms},
            "dice": {"detectron2 float32": 0.9, "openvino int8": 0.89},
        },
    )
    peer = {"name": "Net A", "precision": "bf16", "images_per_second": 3.5, "ratio": 1.75}
    peer |= {"processor_seconds_an_image": 0.625, "parameters_million": 44.0}
    write_json(
        folder,
        "peers",
        {
            "shorter_side": 512,
            "usual": "Net U",
            "peers": [peer],
            "gmac": {"Net A": 81.2},
            "left_out": {"Net B": "b is not installed"},
        },
    )
    stage = {"stage": "RPN", "milliseconds": 30.0, "share": 0.75, "gmac": 6.0, "peak_share": 0.4}
    run = {
        "cores": 6,
        "precision": "float32",
        "peak_gmac_per_second": 500.0,
        "milliseconds": 40.0,
        "gmac": 8.0,
    }
    run |= {"peak_share": 0.4, "limit_milliseconds": 16.0, "stages": [stage]}
    operators = {"float32": [{"operator": "aten::conv", "share": 0.9, "calls": 3, "milliseconds": 36.0}]}
    write_json(folder, "profile", {"runs": [run], "top_operators": operators})
    return folder


def cells(text: str) -> list[list[str]]:
    """The cells of every table row of a Markdown text."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_tables_stand_between_the_markers(module, results, tmp_path):
    table = module("table")
    readme = tmp_path / "README.md"
    readme.write_text(f"# Before\n{table.BEGIN}\nold\n{table.END}\nAfter\n")
    table.write(results.parent, readme)
    text = readme.read_text()
    assert text.startswith(f"# Before\n{table.BEGIN}\n") and text.endswith(f"{table.END}\nAfter\n")
    assert "old" not in text
    rows = cells(text)
    assert any(row[1:5] == ["images/s", "2.50", "10.00", "4.0"] and "0.9994" in row[5] for row in rows)
    assert any(row[1:5] == ["images/s", "0.50", "1.00", "2.0"] and "random" in row[5] for row in rows)
    assert [row[1:5] for row in rows if "training" in row[0]] == [
        ["images/s", "2.00", "20.00", "10.0"],
        ["images/s", "0.50", "0.75", "1.5"],
    ]
    assert any(row[1:5] == ["images/s", "4.00", "10.00", "2.5"] and "openvino int8" in row[0] for row in rows)
    assert ["openvino int8", "7.00", "10.00", "2.5", "0.8900"] in rows
    assert ["Net A", "bf16", "3.50", "0.62", "1.75", "44.0", "81"] in rows
    assert ["6 cores", "float32", "40", "16", "500", "40%"] in rows
    assert ["RPN", "30", "75%", "6.0", "40%"] in rows
    for phrase in (
        "Net B: b is not installed",
        "2020-02-29; Abacus 3000 (avx2), 6 cores",
        "torch 9.8",
        "`conv` 90%",
    ):
        assert phrase in text
    (not_run,) = [line for line in text.splitlines() if line.startswith("Not run here")]
    assert "data_prep" in not_run and "predict" not in not_run
    table.write(results.parent, readme)
    assert readme.read_text() == text


def test_each_machine_has_a_section(module, results, tmp_path):
    """A second one with a GPU, on which prediction alone was measured: 30 times as fast."""
    table, readme = module("table"), tmp_path / "README.md"
    figures = json.loads((results / "predict.json").read_text())
    figures["images_per_second"] = {"default_predictor": 2.0, "lesionseg": 60.0}
    figures["machine"]["gpu"] = "Quipu X1"
    other = tmp_path / "results/quipu-x1"
    other.mkdir()
    (other / "predict.json").write_text(json.dumps({**figures, "device": "cuda"}))
    readme.write_text(f"{table.BEGIN}\n{table.END}\n")
    table.write(results.parent, readme)
    first, second = readme.read_text().split("\n## Quipu X1\n")
    assert "## Abacus 3000, 6 cores" in first and "(results/abacus/chart.png)" in first
    assert "(results/quipu-x1/chart.png)" in second and (other / "chart.png").is_file()
    assert [row[4] for row in cells(first) if "prediction" in row[0]] == ["4.0", "2.0"]
    assert [row[4] for row in cells(second) if "prediction" in row[0]] == ["30.0"]
    assert "Not run here: data_prep, train, predict_r50" in second
    # The processor of a machine that has a GPU, too.
    (other / "predict.json").write_text(json.dumps({**figures, "device": "cpu"}))
    table.write(results.parent, readme)
    assert "## Quipu X1" not in readme.read_text()


def test_results_of_machines_are_kept_apart(module, monkeypatch):
    common = module("common")
    facts = {"gpu": "NVIDIA H100 80GB HBM3", "processor": "AMD EPYC", "cores": 16}
    monkeypatch.setattr(common, "machine", lambda: facts)
    assert common.machine_folder("cuda") == "nvidia-h100-80gb-hbm3"
    assert common.machine_folder("cpu") == "amd-epyc-16-cores"


def test_chart_is_a_picture(module, results, tmp_path):
    path = tmp_path / "chart.png"
    module("table").draw_chart(
        {file.stem: json.loads(file.read_text()) for file in results.glob("*.json")}, path
    )
    chart = cv2.imread(str(path))
    assert min(chart.shape[:2]) > 200
    assert len(np.unique(chart.reshape(-1, 3), axis=0)) > 10


def test_tables_need_results_and_markers(module, results, tmp_path):
    table = module("table")
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(LesionsegError, match="expected the lines"):
        table.write(results.parent, readme)
    assert readme.read_text() == "no markers"
    with pytest.raises(LesionsegError, match="no results yet"):
        table.write(tmp_path / "nothing", readme)


def test_readme_has_the_markers_and_names_every_benchmark(module):
    text = (FOLDER / "README.md").read_text()
    table = module("table")
    assert text.index(table.BEGIN) < text.index(table.END)
    jobs = module("run").all_jobs(Path("data"), 3, "cpu")
    assert list(jobs) == list(table.NAMES)
    for name, job in jobs.items():
        assert f"| `{name}` |" in text
        assert (FOLDER / job.script).is_file()


def test_ways_take_turns_after_a_warming_up_that_is_not_timed(module):
    calls: list[tuple[str, int]] = []
    ways = {name: lambda number, name=name: calls.append((name, number)) for name in "AB"}
    timings = module("common").take_turns(ways, 2)
    assert calls == [("A", 0), ("B", 0), ("A", 1), ("B", 1), ("A", 2), ("B", 2)]
    assert all(len(timings[name].seconds) == len(timings[name].processor) == 2 for name in "AB")


def test_images_are_spread_over_the_folder(module):
    spread = module("common").spread
    items = [Path(str(number)) for number in range(10)]
    assert spread(items, 3) == [Path("0"), Path("3"), Path("6")]
    assert spread(items, 0) == spread(items, 99) == items


def test_what_cannot_run_is_left_out_and_said(module, capfd):
    run = module("run")
    results = Path("nowhere")
    assert run.run("x", run.Job("x.py", (), packages=("no_such_package",)), (), "", results)
    assert "x is left out: not installed: no_such_package" in capfd.readouterr().out
    assert run.run("x", run.Job("x.py", (), model=True), (), "no trained model found", results)
    assert "x is left out: no trained model found" in capfd.readouterr().out
    assert not run.run("x", run.Job("no_such_script.py", ()), (), "", results)


def test_gmac_of_a_convolution(module):
    layer = torch.nn.Conv2d(3, 8, 3, padding=1)

    def predict(image: np.ndarray) -> np.ndarray:
        return layer(torch.from_numpy(image).float().permute(2, 0, 1)[None]).detach().numpy()

    # 16x20 px, each 8 outputs of 3x3x3 products
    assert module("peers").gmac(predict, np.zeros((16, 20, 3), np.uint8)) == pytest.approx(
        16 * 20 * 8 * 27 / 1e9
    )


def test_normalise_brings_every_layer_to_mean_0_and_variance_1(module):
    torch.manual_seed(0)
    block = [torch.nn.Conv2d(3, 3, 3), torch.nn.BatchNorm2d(3, eps=0), torch.nn.Conv2d(3, 3, 3)]
    model = torch.nn.Sequential(*block, torch.nn.BatchNorm2d(3, eps=0)).eval()
    image = 50 * torch.randn(1, 3, 32, 32) + 100
    module("peers").normalise(model, lambda: model(image))
    for end in (2, 4):
        found = model[:end](image)
        assert found.mean().item() == pytest.approx(0, abs=1e-4)
        assert found.var().item() == pytest.approx(1, abs=1e-4)


def test_a_stage_inside_another_counts_for_itself_alone(module):
    profile_predict = module("profile_predict")
    stages = profile_predict.Stages()
    inner = torch.nn.Linear(10, 10)  # 100 multiply-accumulates, 200 operations

    class Outer:
        def inside(self, x: torch.Tensor) -> torch.Tensor:
            return inner(x)

        def outside(self, x: torch.Tensor) -> torch.Tensor:
            return self.inside(x) @ torch.ones(10, 30)

    outer = Outer()
    stages.watch(outer, "inside", "inner", "outer")
    with profile_predict.FlopCounterMode(display=False) as stages.counter:
        stages.call("outer", "", outer.outside, torch.ones(1, 10))
    assert dict(stages.operations) == {"inner": 200, "outer": 600}
    assert stages.seconds["inner"] > 0


@pytest.mark.slow
def test_peers_and_profile_of_tiny_images(tmp_path):
    images = draw_lesions(tmp_path / "drawn", 2) / "images"

    def figures(script: str, *options: str) -> dict:
        out = tmp_path / f"{script}.json"
        command = [
            sys.executable,
            "-W",
            "ignore",
            str(FOLDER / script),
            "--images",
            str(images),
            "--size",
            "32",
        ]
        subprocess.run([*command, *options, "--out", str(out)], check=True, cwd=ROOT)
        return json.loads(out.read_text())

    peers = figures("peers.py", "--rounds", "1")
    assert peers["images"] == 2
    float32 = {peer["name"]: peer for peer in peers["peers"] if peer["precision"] == "float32"}
    assert float32["Detectron2 DefaultPredictor"]["ratio"] == 1
    assert set(float32) >= {"LesionPredictor", "torchvision maskrcnn_resnet50_fpn"}
    assert set(float32) == set(peers["gmac"]) and not set(float32) & set(peers["left_out"])
    assert all(peer["images_per_second"] > 0 for peer in peers["peers"])
    assert 40 < float32["LesionPredictor"]["parameters_million"] < 48
    assert peers["machine"]["versions"]["torch"]

    profile = figures("profile_predict.py", "--limit", "1")
    for run in profile["runs"]:
        assert sum(stage["share"] for stage in run["stages"]) == pytest.approx(1, abs=0.01)
        assert sum(stage["gmac"] for stage in run["stages"]) == pytest.approx(run["gmac"], abs=0.05)
        assert min(stage["milliseconds"] for stage in run["stages"]) >= 0
    assert {"ResNet-50", "FPN", "RPN", "box head"} < {
        stage["stage"] for stage in profile["runs"][0]["stages"]
    }
    assert profile["top_operators"]["float32"]
