"""tools/predict.py, as a user runs it, and the run behind it."""

from __future__ import annotations

import csv
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from conftest import wait_for_end, worker_processes, write_pictures
from PIL import Image
from tiny_run import make_run

from lesionseg import LesionPredictor
from lesionseg.errors import LesionsegError
from lesionseg.images import read_image, read_mask
from lesionseg.inputs import JOURNAL, find_images
from lesionseg.masks import lesion_mask
from lesionseg.predict_run import Writer, open_predictor, predict_images, predict_in_workers, write_in_workers
from lesionseg.runs import find_model
from lesionseg.stream import FailedImage

ROOT = Path(__file__).resolve().parent.parent


def predict(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: str | Path
) -> tuple[int, str, str]:
    """Run the tool's main in this process; returns exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, args)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "tools/predict.py"), run_name="__main__")
    assert isinstance(stop.value.code, int)
    return stop.value.code, *capfd.readouterr()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("project") / "output/tiny")


@pytest.fixture(scope="module")
def predictor(run: Path) -> LesionPredictor:
    return LesionPredictor(run)


def make_images(folder: Path, count: int, seed: int = 0) -> Path:
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        small = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        image = cv2.resize(small, (80 + 10 * (index % 3), 60), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / ("sub" if index % 2 else "") / f"im{index}.png"), image)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


Tool = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tool(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tool:
    return partial(predict, capfd, monkeypatch)


def test_tool_end_to_end(run: Path, tmp_path: Path, tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    imgs = make_images(tmp_path / "imgs", 3)
    (imgs / "im0_segmentation.png").touch()
    (imgs / "broken.jpg").write_bytes(b"no picture")
    monkeypatch.chdir(run.parent.parent)
    code, out_text, _ = tool("--input", imgs, "--workers", "2", "LESION.MASK_SELECTION", "union")
    assert code == 1
    first, *rest = out_text.splitlines()
    assert first == (
        "model: output/tiny/model_best.pth, configuration: output/tiny/config.yaml (newest run under output)"
    )
    assert "3 images predicted, 0 were finished" in rest[0]
    assert "1 images failed" in rest[-2] and "broken.jpg" in rest[-1]
    out = run / "predictions"
    names = ["im0", "im2", "sub/im1"]
    expected = [f"overlay/{name}.jpg" for name in names] + [f"mask/{name}_segmentation.png" for name in names]
    expected += [
        f"{kind}/{name}_{k}.png" for kind in ("crop", "masked_crop") for name in names for k in range(1, 6)
    ]
    assert files(out) == sorted([*expected, JOURNAL, "predictions.csv", "predictions.json"])
    # What is on disk agrees with the Python API.
    predictor = LesionPredictor(run)
    results = json.loads((out / "predictions.json").read_text())
    assert [result["file_name"] for result in results] == [f"{name}.png" for name in names for _ in range(5)]
    for number, name in enumerate(names):
        found = predictor(read_image(imgs / f"{name}.png"))
        written = read_mask(out / f"mask/{name}_segmentation.png")
        assert (written == lesion_mask(found, "union", True)).mean() > 0.999
        for k, result in enumerate(results[number * 5 : number * 5 + 5]):
            assert result["score"] == pytest.approx(float(found.scores[k]), abs=1e-4)
            assert (mask_util.decode(result["segmentation"]) == found.pred_masks[k].numpy()).mean() > 0.999
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [result["file_name"] for result in results]
    assert [int(row["area_px"]) for row in rows] == [int(mask_util.area(r["segmentation"])) for r in results]


def test_foreseeable_mistakes_are_one_line(
    run: Path, tmp_path: Path, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    imgs = make_images(tmp_path / "imgs", 1)
    weights = run / "model_best.pth"
    monkeypatch.chdir(tmp_path)
    code, _, text = tool("--input", imgs)
    assert code == 2 and text.startswith("error: no trained model found")
    for arguments, message in (
        (["--save", "mask,png"], "--save takes overlay, mask, crop, masked_crop, abcd, json, csv"),
        (["--score-threshold", "2"], "LESION.SCORE_THRESHOLD is in [0, 1], not 2"),
        (["NO.KEY", "1"], "NO.KEY"),
    ):
        code, _, text = tool("--input", imgs, "--weights", weights, "--output", tmp_path / "out", *arguments)
        assert code == 2
        assert message in text.rsplit("error: ", 1)[1]


@pytest.mark.parametrize("workers, batch_size", [(1, 1), (3, 1), (2, 4)])
def test_files_do_not_depend_on_workers_and_batches(
    predictor: LesionPredictor, tmp_path: Path, workers: int, batch_size: int
) -> None:
    imgs = make_images(tmp_path / "imgs", 7)
    save = ("mask", "json", "csv")
    one, many = tmp_path / "one", tmp_path / "many"
    predict_images(predictor, [imgs], one, save, batch_size=1, workers=1)
    summary = predict_images(predictor, [imgs], many, save, batch_size=batch_size, workers=workers)
    assert (summary.predicted, summary.finished, summary.failed) == (7, 0, [])
    assert files(one) == files(many)
    # Another batch rounds differently in the last bits: scores and boxes agree to a few units of the last digit given.
    ours, theirs = (json.loads((folder / "predictions.json").read_text()) for folder in (many, one))
    assert [result["file_name"] for result in ours] == [result["file_name"] for result in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a["category_id"] == b["category_id"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
        assert a["bbox"] == pytest.approx(b["bbox"], abs=0.02)
        assert (mask_util.decode(a["segmentation"]) == mask_util.decode(b["segmentation"])).mean() > 0.999


@pytest.mark.parametrize("workers", [1, 3])
def test_both_ways_to_share_the_work_give_the_same_rows(
    predictor: LesionPredictor, tmp_path: Path, workers: int
) -> None:
    """The way for GPUs, tried on the CPU: network here, writing in processes."""
    imgs = make_images(tmp_path / "imgs", 5)
    (imgs / "broken.png").touch()
    items = find_images([imgs])
    rows: list[list[Any]] = []
    for share, folder in ((predict_in_workers, "cpu"), (write_in_workers, "gpu")):
        writer = Writer(predictor.cfg, ["nevus", "melanoma"], tmp_path / folder, ["mask", "crop"])
        rows.append(list(share(predictor, writer, items, 1, workers)))
    assert files(tmp_path / "cpu") == files(tmp_path / "gpu")
    assert isinstance(rows[0][0], FailedImage) and isinstance(rows[1][0], FailedImage)
    assert [row["name"] for row in rows[0][1:]] == [row["name"] for row in rows[1][1:]]
    assert [row["files"] for row in rows[0][1:]] == [row["files"] for row in rows[1][1:]]
    for a, b in zip(rows[0][1:], rows[1][1:], strict=True):
        assert [i["area"] for i in a["instances"]] == pytest.approx(
            [i["area"] for i in b["instances"]], abs=2
        )


def test_rerun_skips_what_is_finished(predictor: LesionPredictor, tmp_path: Path) -> None:
    imgs, out = make_images(tmp_path / "imgs", 4), tmp_path / "out"
    predict_images(predictor, [imgs / "im0.png", imgs / "im2.png"], out, ("mask", "csv"), workers=1)
    stamp = (out / "mask/im0_segmentation.png").stat().st_mtime_ns
    (imgs / "im2.png").write_bytes((imgs / "im0.png").read_bytes())  # another picture under the same name
    summary = predict_images(predictor, [imgs], out, ("mask", "csv"), workers=1)
    assert (summary.predicted, summary.finished) == (3, 1)
    assert (out / "mask/im0_segmentation.png").stat().st_mtime_ns == stamp
    assert len({line.split(",")[0] for line in (out / "predictions.csv").read_text().splitlines()[1:]}) == 4
    summary = predict_images(predictor, [imgs], out, ("overlay", "mask", "csv"), workers=1)
    assert (summary.predicted, summary.finished) == (4, 0)
    summary = predict_images(predictor, [imgs], out, ("mask",), workers=1, overwrite=True)
    assert (summary.predicted, summary.finished) == (4, 0)


class FatalPredictor(LesionPredictor):
    """Reading im2 kills the process, as the system does for want of memory."""

    def _read(self, record: Any) -> Any:
        if "im2" in str(record):
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._read(record)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_image_that_kills_its_process_is_listed(run: Path, tmp_path: Path, batch_size: int) -> None:
    imgs, out = make_images(tmp_path / "imgs", 5), tmp_path / "out"
    summary = predict_images(
        FatalPredictor(run), [imgs], out, ("mask", "csv"), batch_size=batch_size, workers=2
    )
    assert summary.predicted == 4 and len(list((out / "mask").rglob("*.png"))) == 4
    (failed,) = summary.failed
    assert Path(failed.file_name).name == "im2.png" and "fits into memory" in str(failed)
    again = predict_images(LesionPredictor(run), [imgs], out, ("mask", "csv"), workers=1)
    assert (again.predicted, again.finished, again.failed) == (1, 4, [])


BUSY_PARENT = """
import sys
from pathlib import Path
import cv2, numpy as np, torch
from lesionseg import LesionPredictor
from lesionseg.predict_run import predict_images
torch.set_num_threads(4)
np.ones((800, 800)) @ np.ones((800, 800))
run, images, out = sys.argv[1:]
predictor = LesionPredictor(run)
list(predictor.predict([next(Path(images).rglob("*.png"))]))
cv2.connectedComponentsWithStats(np.random.default_rng(0).integers(0, 2, (4000, 4000), dtype=np.uint8))
print(predict_images(predictor, [images], out, ("mask", "csv"), workers=2).predicted)
"""


@pytest.mark.slow
def test_workers_of_a_process_with_threads(run: Path, tmp_path: Path) -> None:
    """OpenCV, BLAS and OpenMP have threads that no forked worker has: one that waits for them stands still."""
    imgs = make_images(tmp_path / "imgs", 6)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", BUSY_PARENT, run, imgs, tmp_path / "out"],
        env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["6"], done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_killed_run_continues(run: Path, tmp_path: Path) -> None:
    imgs, out = make_images(tmp_path / "imgs", 60), tmp_path / "out"
    command = [sys.executable, ROOT / "tools/predict.py", "--input", imgs, "--output", out]
    command += ["--weights", run / "model_best.pth", "--workers", "2", "--save", "mask,json,csv"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen([*map(str, command)], env=environment, stderr=subprocess.DEVNULL)
    journal = out / JOURNAL
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 10):
        time.sleep(0.02)
    workers = worker_processes(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) == 2
    wait_for_end(workers)
    before = journal.read_bytes().count(b"\n") - 1
    assert 0 < before < 60 and not (out / "predictions.csv").exists()
    summary = predict_images(LesionPredictor(run), [imgs], out, ("mask", "json", "csv"), workers=1)
    assert summary.finished >= before - 1 and summary.predicted + summary.finished == 60
    whole = tmp_path / "whole"
    predict_images(LesionPredictor(run), [imgs], whole, ("mask", "json", "csv"), workers=1)
    assert files(out) == files(whole)
    rows = [len((folder / "predictions.csv").read_text().splitlines()) for folder in (out, whole)]
    assert rows[0] == rows[1]


def test_images_without_lesion_are_listed(run: Path, tmp_path: Path, tool: Tool) -> None:
    imgs, out = make_images(tmp_path / "imgs", 2), tmp_path / "out"
    code, text, _ = tool(
        *("--input", imgs, "--weights", run / "model_best.pth", "--output", out, "--workers", "1"),
        *("--score-threshold", "1", "--save", "mask,csv,json"),
    )
    assert code == 0
    assert text.splitlines()[-3:] == ["2 images without a lesion:", "  im0.png", "  sub/im1.png"]
    assert (out / "predictions.csv").read_text().splitlines()[1:] == [
        "im0.png" + "," * 9,
        "sub/im1.png" + "," * 9,
    ]
    assert not read_mask(out / "mask/im0_segmentation.png").any()


def test_kinds_of_files_come_out_the_same(predictor: LesionPredictor, tmp_path: Path) -> None:
    """One picture, stored in every way a camera or a program might: the same lesion in all of them."""
    imgs = tmp_path / "imgs"
    imgs.mkdir()
    rng = np.random.default_rng(3)
    grey = cv2.resize(rng.integers(0, 255, (6, 8), dtype=np.uint8), (80, 60), interpolation=cv2.INTER_CUBIC)
    picture = Image.fromarray(grey).convert("RGB")
    picture.save(imgs / "rgb.png")
    picture.convert("L").save(imgs / "grey.png")
    picture.convert("RGBA").save(imgs / "rgba.png")
    Image.fromarray(grey).convert("P").save(imgs / "palette.png")
    cv2.imwrite(str(imgs / "deep.png"), grey.astype(np.uint16) * 257)
    picture.convert("CMYK").save(imgs / "cmyk.tif")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn a quarter clockwise to view
    picture.rotate(90, expand=True).save(imgs / "turned.png", exif=exif)
    out = tmp_path / "out"
    summary = predict_images(predictor, [imgs], out, ("mask",), workers=1)
    assert (summary.predicted, summary.failed) == (7, [])
    masks = {path.name: read_mask(path) for path in (out / "mask").iterdir()}
    reference = masks.pop("rgb_segmentation.png")
    assert reference.any()
    for name, mask in masks.items():
        assert mask.shape == (60, 80), name
        assert (mask == reference).mean() > 0.97, name


def test_output_that_cannot_be_written(predictor: LesionPredictor, tmp_path: Path) -> None:
    """A file where a folder is needed stands for every reason not to be able to write, a full disk say."""
    imgs, out = make_images(tmp_path / "imgs", 1), tmp_path / "out"
    out.mkdir()
    (out / "mask").touch()
    with pytest.raises(LesionsegError, match=r"cannot write to .*out: .*mask"):
        predict_images(predictor, [imgs], out, ("mask",), workers=1)
    with pytest.raises(LesionsegError, match="cannot write to"):
        predict_images(predictor, [imgs], out / "mask", ("csv",), workers=1)


def test_numbers_are_checked(predictor: LesionPredictor, tmp_path: Path) -> None:
    with pytest.raises(LesionsegError, match="batch size is 1 or more, not 0"):
        predict_images(predictor, [tmp_path], tmp_path / "out", batch_size=0)
    with pytest.raises(LesionsegError, match="number of workers is 1 or more, not -2"):
        predict_images(predictor, [tmp_path], tmp_path / "out", workers=-2)


def test_names_that_no_result_can_have(run: Path, tmp_path: Path) -> None:
    """One too long, one that is no UTF-8: both are listed, and the rest is done."""
    images = tmp_path / "images"
    images.mkdir()
    (good,) = write_pictures(images, [(32, 48)])
    shutil.copy(good, images / f"{'x' * 240}.png")
    shutil.copy(good, os.fsencode(images) + b"/b\xff.png")
    summary = predict_images(
        open_predictor(find_model(config_file=run / "config.yaml")), [images], tmp_path / "out", workers=1
    )
    assert summary.predicted == 1 and len(summary.failed) == 2
    assert all("Rename it" in str(failure).encode().decode() for failure in summary.failed)
