"""tools/predict_cluster.py and the run behind it, on a Ray cluster of two nodes on this machine."""

from __future__ import annotations

import csv
import os
import runpy
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT, leave_half_written
from tiny_run import make_run

from lesionseg import LesionPredictor
from lesionseg.errors import LesionsegError
from lesionseg.images import read_mask
from lesionseg.predict_run import predict_images
from lesionseg.runs import find_model

ray = pytest.importorskip("ray")
parquet = pytest.importorskip("pyarrow.parquet")

import lesionseg.predict_cluster as predict_cluster_module  # noqa: E402
from lesionseg.outputs import CSV_COLUMNS  # noqa: E402
from lesionseg.predict_cluster import FAILURES, ROWS, ClusterJob, predict_cluster, shards  # noqa: E402
from lesionseg.storage import Folder  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("project") / "output/tiny")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Temporary folder of the workers, who work on two nodes of one core each."""
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("scratch")
    # Ray's sockets lie in a folder of its own: their paths may have 107 characters.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/tmp") as short:
        patch.setenv("RAY_TMPDIR", short)
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        patch.setattr(tempfile, "tempdir", None)
        node = {"num_cpus": 1, "object_store_memory": 100_000_000}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        cluster.add_node(**node)
        ray.init(address=cluster.address, logging_level="WARNING", log_to_driver=False)
        yield folder
        ray.shutdown()
        cluster.shutdown()


def make_images(folder: Path, start: int, stop: int) -> Path:
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    for index in range(start, stop):
        small = np.random.default_rng(index).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        image = cv2.resize(small, (80 + 10 * (index % 3), 60), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / ("sub" if index % 2 else "") / f"im{index:02d}.png"), image)
    return folder


def job_of(run: Path, images: Path | str, output: Path | str) -> ClusterJob:
    return ClusterJob(find_model(run / "model_best.pth"), str(images), str(output))


def parquet_rows(output: Path, folder: str = ROWS) -> list[dict[str, Any]]:
    parts = sorted((output / folder).glob("*.parquet"))
    return [row for part in parts for row in parquet.read_table(part, partitioning=None).to_pylist()]


def assert_same_as_predict(run: Path, images: Path, output: Path, scratch: Path) -> None:
    """Rows and masks are those that tools/predict.py writes."""
    other = scratch / "predict"
    predict_images(LesionPredictor(run), [images], other, ("mask", "csv"), workers=1)
    with open(other / "predictions.csv", newline="") as file:
        expected = list(csv.DictReader(file))
    found = sorted(parquet_rows(output), key=lambda row: (row["file"], row["instance"]))
    expected.sort(key=lambda row: (row["file"], int(row["instance"])))
    assert [(row["file"], str(row["instance"]), row["class"]) for row in found] == [
        (row["file"], row["instance"], row["class"]) for row in expected
    ]
    for ours, theirs in zip(found, expected, strict=True):
        assert tuple(ours) == CSV_COLUMNS
        # Several threads, or one, may round differently in the last bit.
        assert ours["score"] == pytest.approx(float(theirs["score"]), abs=2e-6)
        for column in ("x", "y", "width", "height"):
            assert ours[column] == pytest.approx(float(theirs[column]), abs=0.02)
        assert ours["area_px"] == pytest.approx(int(theirs["area_px"]), abs=2)
    masks = sorted(path.relative_to(other) for path in (other / "mask").rglob("*.png"))
    assert masks == sorted(path.relative_to(output) for path in (output / "mask").rglob("*.png"))
    for mask in masks:
        assert (read_mask(output / mask) == read_mask(other / mask)).mean() > 0.999


def test_shards_keep_their_bounds() -> None:
    files = list("abcdefgh")
    assert list(shards(files, set(), 3)) == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]
    assert list(shards(files, {"a", "b", "c", "e"}, 3)) == [["d", "f"], ["g", "h"]]
    assert list(shards(files, set(files), 3)) == []


def test_mistakes_are_told_before_anything_starts(run: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "imgs", 0, 1)
    for place, message in (
        (tmp_path / "none", "input .*none does not exist"),
        (f"fsspec+file://{tmp_path}/none", "cannot list fsspec"),
        (run, "no image in"),
        ("ftp://host/folder", "expected a folder, or a URI such as s3://bucket/folder"),
    ):
        with pytest.raises(LesionsegError, match=message):
            predict_cluster(job_of(run, place, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out" / ROWS).mkdir(parents=True)
    (tmp_path / "out" / ROWS / "part-1.parquet").write_bytes(b"half a file")
    with pytest.raises(LesionsegError, match="cannot read the Parquet files"):
        predict_cluster(job_of(run, images, tmp_path / "out"))
    with pytest.raises(LesionsegError, match=r"no Ray cluster at 127\.0\.0\.1:1: .*refused"):
        predict_cluster(job_of(run, images, tmp_path / "other"), address="127.0.0.1:1")
    with pytest.raises(LesionsegError, match="number of workers is 1 or more, not 0"):
        predict_cluster(job_of(run, images, tmp_path / "out"), workers=0)


def test_folders_are_read_and_written(tmp_path: Path) -> None:
    """The same through this machine's file system and through one that stands for a store."""
    for place in (str(tmp_path / "a b"), f"fsspec+file://{tmp_path}/c"):
        folder = Folder(place + "/")
        assert folder.read("x/y.txt") is None
        folder.write("x/y.txt", b"one")
        folder.write("x/y.txt", b"two")
        assert folder.read("x/y.txt") == b"two"
        assert folder.fetch("x/y.txt", tmp_path / "scratch").read_bytes() == b"two"
        folder.delete("x")
        folder.delete("x")
        assert folder.read("x/y.txt") is None


def test_workers_that_die_again_and_again_end_the_run(run: Path, tmp_path: Path) -> None:
    """As many as are let die left the shard unfinished."""
    images, output = make_images(tmp_path / "imgs", 0, 2), tmp_path / "out"
    files = ["im00.png", "sub/im01.png"]
    worker = predict_cluster_module.ShardPredictor(job_of(run, images, output))
    tries = output / f"tries/{predict_cluster_module.part_name(files)}.json"
    tries.parent.mkdir(parents=True)
    tries.write_text('{"tries": 29}')
    assert worker({"files": files}) == {"images": 2, "predicted": 2, "without_lesion": 0, "error": ""}
    report = worker({"files": files})
    assert report["predicted"] == 0 and "30 workers died over the same 2 images" in report["error"]


@pytest.mark.slow
@pytest.mark.filterwarnings("error::ray.util.annotations.RayDeprecationWarning")
def test_rows_after_a_killed_worker(run: Path, tmp_path: Path, scratch: Path) -> None:
    images, output = make_images(tmp_path / "imgs", 0, 120), tmp_path / "out"
    killed: list[tuple[int, int]] = []
    over = threading.Event()

    def kill_one() -> None:
        """After the first rows: a worker that is in the middle of a shard, which its temporary folder tells."""
        while not (killed or over.is_set()):
            parts = len(list((output / ROWS).glob("part-*")))
            busy = [path.name.split("-")[1] for path in scratch.glob("lesionseg-*")]
            if parts and busy:
                os.kill(int(busy[0]), signal.SIGKILL)
                killed.append((int(busy[0]), parts))
            time.sleep(0.002)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        summary = predict_cluster(job_of(run, images, output), shard_size=4)
    finally:
        over.set()
        killer.join()
    assert killed and 1 <= killed[0][1] < 30
    # What it had begun is still there: it did not end by itself.
    assert [path.name.split("-")[1] for path in scratch.glob("lesionseg-*")] == [str(killed[0][0])]
    assert (summary.predicted, summary.finished, summary.failed) == (120, 0, [])
    assert_same_as_predict(run, images, output, tmp_path)


@pytest.mark.slow
def test_images_that_kill_their_workers_are_failures(
    run: Path, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system does for want of memory. Two of one shard, and one of which Python itself can tell."""

    class Fatal(predict_cluster_module.ShardPredictor):
        def __init__(self, job: ClusterJob) -> None:
            super().__init__(job)
            read = self.predictor._read

            def fatal_read(record: Any) -> Any:
                if "im03" in str(record) or "im04" in str(record):
                    os.kill(os.getpid(), signal.SIGKILL)
                if "im09" in str(record):
                    raise MemoryError
                return read(record)

            self.predictor._read = fatal_read  # type: ignore[method-assign]

    monkeypatch.setattr(predict_cluster_module, "ShardPredictor", Fatal)
    images, output = make_images(tmp_path / "imgs", 0, 12), tmp_path / "out"
    summary = predict_cluster(job_of(run, images, output), shard_size=20)
    assert summary.predicted == 9
    named = [message.split(":")[0].removeprefix(f"{images}/") for message in summary.failed]
    assert named == ["im04.png", "sub/im03.png", "sub/im09.png"]
    assert all("fits into memory" in message for message in summary.failed)
    assert len(parquet_rows(output, FAILURES)) == 3 and not (output / "tries").exists()
    monkeypatch.undo()
    summary = predict_cluster(job_of(run, images, output), shard_size=20)
    assert (summary.predicted, summary.finished, summary.failed) == (3, 9, [])
    assert_same_as_predict(run, images, output, tmp_path)


@pytest.mark.slow
def test_a_second_start_does_what_is_missing(run: Path, tmp_path: Path, scratch: Path) -> None:
    images, output = make_images(tmp_path / "imgs", 3, 10), tmp_path / "out"
    (images / "sub/broken.png").write_bytes(b"no picture")
    job = job_of(run, images, output)
    summary = predict_cluster(job, shard_size=3)
    assert (summary.predicted, summary.finished) == (7, 0)
    assert (
        len(summary.failed) == 1
        and f"{images}/sub/broken.png: expected a readable image" in summary.failed[0]
    )
    failures = parquet_rows(output, FAILURES)
    assert failures == [{"file": "sub/broken.png", "error": summary.failed[0]}]
    # One part is lost, one image mended, others come in between: other shards than before.
    part = sorted((output / ROWS).iterdir())[0]
    lost = len({row["file"] for row in parquet.read_table(part, partitioning=None).to_pylist()})
    part.unlink()
    (images / "sub/broken.png").write_bytes((images / "sub/im03.png").read_bytes())
    make_images(images, 0, 3)
    leave_half_written(output / "mask/im04_segmentation.png")
    summary = predict_cluster(job, shard_size=3)
    assert (summary.predicted, summary.finished, summary.failed) == (lost + 4, 7 - lost, [])
    assert not (output / FAILURES).exists()
    assert_same_as_predict(run, images, output, tmp_path)
    assert predict_cluster(job, shard_size=3).finished == 11
    with pytest.raises(
        LesionsegError, match=r"(?s)made differently.*LESION.MASK_SELECTION: top then, union now"
    ):
        predict_cluster(replace(job, opts=("LESION.MASK_SELECTION", "union")))


@pytest.mark.slow
def test_tool_with_an_object_store(
    run: Path,
    tmp_path: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """fsspec's file system stands for a store: files are copied to the worker and back."""
    images = make_images(tmp_path / "imgs", 0, 5)
    for name in ("im00_segmentation.png", ".hidden.png", "broken.jpg"):
        (images / name).write_bytes(b"no picture")
    store = f"fsspec+file://{tmp_path}"
    arguments = [
        "--input",
        f"{store}/imgs",
        "--output",
        f"{store}/out",
        "--weights",
        str(run / "model_best.pth"),
    ]
    monkeypatch.setattr(sys, "argv", ["predict_cluster.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "tools/predict_cluster.py"), run_name="__main__")
    assert stop.value.code == 1
    text = capsys.readouterr().out
    assert "5 images predicted, 0 were finished" in text and "1 images failed" in text
    assert f"{store}/imgs/broken.jpg: expected a readable image" in text
    (images / "broken.jpg").unlink()
    assert_same_as_predict(run, images, tmp_path / "out", tmp_path)


@pytest.mark.slow
def test_rows_of_images_without_a_lesion(run: Path, tmp_path: Path, scratch: Path) -> None:
    images, output = make_images(tmp_path / "imgs", 0, 2), tmp_path / "out"
    job = replace(job_of(run, images, output), opts=("LESION.SCORE_THRESHOLD", "1.0"))
    summary = predict_cluster(job)
    assert (summary.predicted, summary.without_lesion) == (2, 2)
    nothing = dict.fromkeys(CSV_COLUMNS[1:])
    assert parquet_rows(output) == [{"file": "im00.png", **nothing}, {"file": "sub/im01.png", **nothing}]
    # A file where a folder is needed stands for every reason not to be able to write.
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mask").touch()
    with pytest.raises(LesionsegError, match=r"cannot go on: .*full/mask.*run the same command again"):
        predict_cluster(replace(job, output=str(tmp_path / "full")))
