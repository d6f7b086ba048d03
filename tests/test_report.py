"""report.html: what it says, that it stands alone, and that it works in a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from conftest import ROOT

from lesionseg import report_plots as plots
from lesionseg.errors import LesionsegError
from lesionseg.images import read_mask, write_image
from lesionseg.report import make_report
from lesionseg.report_gallery import LONG_SIDE, choose, outline_path, picture
from lesionseg.scorecard import dataset_cases, with_predictions, write_scorecard
from lesionseg.scoring import read_scores, write_scores

CONFIG = """
DATASETS: {TRAIN: [tiny_train], TEST: [tiny_val]}
INPUT: {MIN_SIZE_TRAIN: [64], MAX_SIZE_TRAIN: 128, MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 128}
LESION: {CLASSES: [lesion], MASK_SELECTION: top, ONE_REGION: true, SCORE_THRESHOLD: 0.3, MASK_THRESHOLD: 0.5,
  OPTIMIZER: ADAMW, SCHEDULE: {HEADS_ITERS: 0}}
MODEL: {WEIGHTS: '', RESNETS: {DEPTH: 18}}
SEED: 42
SOLVER: {MAX_ITER: 40, IMS_PER_BATCH: 4, BASE_LR: 0.002}
"""
CURVE = [
    {"threshold": t, "precision50": 0.9, "recall50": 1 - t, "precision75": None, "recall75": 0.0}
    for t in (0.1, 0.5)
]


@pytest.fixture(scope="module")
def run(lesion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as training and evaluation leave it; predictions are reference masks moved by two px, one is empty."""
    folder = tmp_path_factory.mktemp("runs") / "<b>bold & run"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "versions.json").write_text('{"torch": "2.15.0"}')
    log = [{"iteration": i, "total_loss": 3 / (1 + i)} for i in range(0, 40, 10)]
    log += [{"iteration": 39, "tiny_val/isic/jaccard": 0.8, "tiny_val/loss": 0.5}]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, log)) + '\n{"iterat')
    output = folder / "inference/tiny_val"
    for index, case in enumerate(dataset_cases("tiny_val", lesion_root)):
        assert case.mask
        mask = np.roll(read_mask(case.mask), 2, axis=1) & (index > 0)
        write_image(output / "masks" / f"{case.id}_segmentation.png", mask)
    cases = with_predictions(dataset_cases("tiny_val", lesion_root), output / "masks")
    about = {
        "predictions": "model_best.pth",
        "references": "tiny_val",
        "detection": {"ap": {"segm": {"AP": 50.0, "AP50": 91.25, "AP75": 60.0}}, "curve": CURVE},
        "leaks": {"text": "leaks: none found.", "images": 0, "found": []},
        "licences": {"tiny_val": {"name": "CC0", "url": "https://example.org/cc0"}},
    }
    write_scorecard(cases, output, about)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return make_report(run).read_text(encoding="utf-8")


def test_it_says_what_was_scored(run: Path, page: str) -> None:
    summary = json.loads((run / "inference/tiny_val/scores.json").read_text())
    mean = summary["metrics"]["jaccard"]["mean"]
    for text in (
        f"{mean['value']:.3f}",
        "91.2 %",
        "Research software, no medical device",
        "tiny_train",
        "torch",
        "CC0",
        "Leaks: none found.",
        "Limits and intended use",
        "the data set has no diagnoses: prepare it with --labels",
        "the detector has one class",
        "there are no detection scores",
    ):
        assert text in page, text


def test_data_are_counted_from_scores_where_the_run_has_no_record(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    table = copy / "inference/tiny_val/scores.csv"
    rows = read_scores(table)
    for index, row in enumerate(rows):
        row["group"], row["diagnosis"] = f"g{index // 4}", ("nevus", "nevus", "melanoma")[index % 3]
    write_scores(table, rows)
    page = make_report(copy).read_text(encoding="utf-8")
    data = re.findall(r"<td[^>]*>([^<]*)</td>", page[page.index('id="data"') :])
    assert data[:3] == ["not recorded", "not known", "not known"]  # tiny_train
    assert any(data[i : i + 3] == ["8", "2", "nevus 6, melanoma 2"] for i in range(len(data)))


def test_names_are_escaped(page: str) -> None:
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold &amp; run" in page


def test_it_needs_no_network(page: str) -> None:
    assert not re.findall(r'(?:src|href)="(?!data:|#|https://example\.org/cc0)', page)
    assert "url(" not in page and "@import" not in page


def test_every_picture_has_its_score_and_outlines(page: str) -> None:
    assert len(re.findall(r"<li data-kind=", page)) == 8
    assert len(re.findall(r'<path class="reference" d="M[\d.]+ [\d.]+L', page)) == 8
    assert page.count('<path class="predicted" d=""') == page.count('data-kind="missed"') == 1


def test_runs_without_scores_are_explained(tmp_path: Path) -> None:
    with pytest.raises(LesionsegError, match="expected a run folder"):
        make_report(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    with pytest.raises(LesionsegError, match=r"not scored yet; run tools/evaluate\.py --run"):
        make_report(tmp_path)


def test_images_that_are_gone_are_explained(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    table = copy / "inference/tiny_val/scores.csv"
    table.write_text(re.sub(r"[^,\n]*drawn/images", "gone", table.read_text()))
    page = make_report(copy).read_text()
    assert "No images are shown: " in page and "no such file" in page


def rows(jaccards: list[float]) -> list[dict[str, Any]]:
    return [{"id": f"i{index:03d}", "jaccard": jaccard} for index, jaccard in enumerate(jaccards)]


def test_choice_of_images() -> None:
    chosen = choose(rows([0.0] * 30 + [index / 1000 for index in range(1, 971)]))
    kinds = {
        kind: [row["jaccard"] for k, row in chosen if k == kind]
        for kind in ("missed", "worst", "median", "best")
    }
    assert kinds["missed"] == [0.0] * 24
    assert kinds["worst"] == [index / 1000 for index in range(1, 41)]
    assert kinds["best"] == [index / 1000 for index in range(951, 971)]
    assert len(kinds["median"]) == 20 and kinds["median"][0] < 0.47 <= kinds["median"][-1]
    assert len({row["id"] for _, row in chosen}) == len(chosen)


@pytest.mark.parametrize("count", [1, 2, 3, 19, 25, 50, 90])
def test_few_images_are_all_shown_once(count: int) -> None:
    chosen = choose(rows(np.linspace(0, 1, count).tolist()))
    assert len({row["id"] for _, row in chosen}) == len(chosen)
    assert len(chosen) == min(count, len(chosen)) and len(chosen) >= min(count, 40)


def test_outline_path_follows_the_mask() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:50] = True
    assert outline_path(mask, 60, 40) == "M30.5 10.5L30.5 19.5L49.5 19.5L49.5 10.5Z"
    assert outline_path(mask, 30, 20) == "M15.5 5.5L15.5 9.5L24.5 9.5L24.5 5.5Z"
    assert outline_path(np.zeros((4, 4), bool), 8, 8) == ""


def browser() -> str:
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
        None,
    )
    if found is None:
        pytest.skip("no Chromium to render the report in (Debian: apt-get install chromium)")
    return found


# What a reader does; each finding is noted in an attribute that --dump-dom shows.
VISIT = """
<script>
(function () {
  var note = document.documentElement.dataset, items = function () { return Array.from(document.querySelectorAll(".gallery li")); };
  var shown = function () { return items().filter(function (item) { return !item.hidden; }); };
  var values = function () { return items().map(function (item) { return Number(item.dataset.jaccard); }); };
  var rising = function (list) { return list.every(function (value, i) { return !i || list[i - 1] <= value; }); };
  note.first = rising(values());
  var select = document.querySelector(".sort");
  select.value = "-jaccard"; select.dispatchEvent(new Event("change"));
  note.falling = rising(values().reverse()) && !rising(values());
  document.querySelector('[data-show="missed"]').click();
  note.filtered = shown().length + " " + shown().every(function (item) { return item.dataset.kind === "missed"; });
  document.querySelector('[data-show=""]').click();
  var dialog = document.querySelector("dialog");
  shown()[0].querySelector("button").click();
  note.open = dialog.open && dialog.querySelector("p").textContent.includes(shown()[0].dataset.id);
  dialog.querySelector('[data-step="1"]').click();
  note.next = dialog.querySelector("p").textContent.includes(shown()[1].dataset.id);
  document.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
  note.back = dialog.querySelector("p").textContent.includes(shown()[0].dataset.id);
  dialog.querySelector(".close").click();
  note.closed = !dialog.open;
  note.images = Array.from(document.images).every(function (image) { return image.complete && image.naturalWidth > 0; });
  note.narrow = document.documentElement.scrollWidth <= window.innerWidth;
}());
</script>
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1280])  # headless Chromium has no narrower window
def test_it_works_in_a_browser(run: Path, page: str, tmp_path: Path, width: int) -> None:
    visited = tmp_path / "visited.html"
    late = VISIT.replace("(function () {", "window.addEventListener('load', function () {", 1).replace(
        "}());", "});"
    )
    visited.write_text(page.replace("</body>", late + "</body>"), encoding="utf-8")
    result = subprocess.run(
        [
            *(
                browser(),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--enable-logging=stderr",
                f"--window-size={width},900",
            ),
            *(
                f"--user-data-dir={tmp_path / 'profile'}",
                "--virtual-time-budget=5000",
                "--dump-dom",
                visited.as_uri(),
            ),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "CONSOLE" not in result.stderr, result.stderr
    found = dict(re.findall(r'data-(\w+)="([^"]*)"', result.stdout[: result.stdout.index("<head")]))
    missed = page.count('data-kind="missed"')
    wanted = dict.fromkeys(("first", "falling", "open", "next", "back", "closed", "images", "narrow"), "true")
    assert found == {**wanted, "filtered": f"{missed} true"}


@pytest.mark.slow
def test_a_thousand_images_make_a_small_page(run: Path, tmp_path: Path) -> None:
    """Noise is the worst that JPEG can be given; 1000 rows share 104 photographs of it."""
    copy = tmp_path / "big"
    shutil.copytree(run, copy)
    table = copy / "inference/tiny_val/scores.csv"
    header, *lines = table.read_text().splitlines()
    columns = header.split(",")
    rng = np.random.default_rng(0)
    noise = cv2.resize(
        rng.integers(60, 220, (200, 200, 3)).astype(np.uint8), (800, 800), interpolation=cv2.INTER_LINEAR
    )
    cv2.imwrite(str(copy / "photograph.jpg"), noise)
    write_image(copy / "mask.png", cv2.circle(np.zeros((800, 800), np.uint8), (400, 400), 200, 255, -1))
    many = []
    for index in range(1000):
        cells = dict(zip(columns, lines[index % len(lines)].split(","), strict=True))
        cells |= {"id": f"ISIC_{index:07d}", "jaccard": str(index / 1000), "image": "../../photograph.jpg"}
        many.append(
            ",".join({**cells, "reference": "../../mask.png", "predicted": "../../mask.png"}.values())
        )
    table.write_text("\n".join([header, *many]) + "\n")
    report = make_report(copy)
    assert report.stat().st_size < 15e6
    assert report.read_text().count("<li data-kind=") > 80


def test_pictures_are_reduced(run: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.full((1000, 2000, 3), 128, np.uint8))
    write_image(tmp_path / "m.png", np.ones((1000, 2000), bool))
    row = {
        "id": "a",
        "jaccard": 0.5,
        "score": 0.9,
        "reference_area_pct": 100.0,
        "hd95_px": 1.0,
        "diagnosis": "",
    }
    files = {"image": tmp_path / "a.png", "reference": tmp_path / "m.png", "predicted": None}
    entry = picture("worst", {**row, **files})
    assert (entry.width, entry.height) == (LONG_SIDE, LONG_SIDE // 2)
    assert entry.predicted == "" and entry.jpeg.startswith("data:image/jpeg;base64,")


def test_tool(run: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "tools/make_report.py"),
        "--run",
        str(run),
        "--output",
        str(tmp_path / "r.html"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "r.html").is_file() and "written to" in result.stdout


def svg(uri: str | None) -> str:
    assert uri is not None and uri.startswith("data:image/svg+xml;base64,")
    text = base64.b64decode(uri.split(",", 1)[1]).decode()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    return text


def test_plots_show_what_they_are_given() -> None:
    """Matplotlib notes every text that it draws in a comment."""
    matrix = {"names": ["melanoma", "nevus"], "matrix": [[7, 2, 1], [3, 41, 0]]}
    drawn = svg(plots.confusion_plot(matrix))
    assert all(f"<!-- {text} -->" in drawn for text in ("melanoma", "nevus", "no detection", "7", "41"))
    bins = [{"low": 0.8, "high": 0.9, "n": 17, "score": 0.85, "jaccard": 0.7}]
    assert "<!-- 17 -->" in svg(plots.reliability_plot({"bins": bins}))
    assert "<!-- mask IoU 0.5 -->" in svg(plots.precision_recall_plot(CURVE))
    group = {"name": "nevus", "n": 8, "jaccard": {"value": 0.7, "low": None, "high": None}}
    division = {"title": "Diagnosis", "note": "", "groups": [group]}
    assert "<!-- nevus  (n=8) -->" in svg(plots.subgroup_plot([division], 0.75))
    assert "<!-- median 0.500 -->" in svg(plots.jaccard_plot([0.0, 0.5, 1.0]))


def test_nothing_to_plot() -> None:
    nothing = {"names": [], "matrix": [], "bins": [], "groups": []}
    assert (
        plots.confusion_plot(nothing)
        is plots.reliability_plot(nothing)
        is plots.subgroup_plot([nothing], 0.5)
        is None
    )
    assert plots.loss_plot([]) is plots.score_plot([]) is plots.precision_recall_plot([]) is None


def test_both_stages_are_on_one_axis(tmp_path: Path) -> None:
    (tmp_path / "heads").mkdir()
    for folder, count in ((tmp_path / "heads", 10), (tmp_path, 20)):
        lines = [json.dumps({"iteration": i, "total_loss": 1.0}) for i in range(count)]
        (folder / "metrics.json").write_text("\n".join(lines))
    stages = plots.read_training_log(tmp_path)
    x, _, ends = plots._series(stages, "total_loss")
    assert x == list(range(30)) and ends == [10]
