"""Predict an archive of images on a Ray cluster: shards of images to workers that each hold a model.

A shard is predicted by one worker, which writes its masks and then its rows, as one Parquet file whose name follows from
the names of its images. So a shard that is done again, because its worker died, takes the place of itself; and a run
that is started again leaves out the images that have rows.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import socket
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pyarrow as pa
import ray
import ray.data
from tqdm import tqdm

from lesionseg.errors import LesionsegError
from lesionseg.images import remove_leftovers
from lesionseg.inputs import Item
from lesionseg.outputs import CSV_COLUMNS, csv_rows
from lesionseg.predict_run import Writer, default_batch, open_predictor
from lesionseg.prediction_journal import differences, fingerprint
from lesionseg.runs import Model
from lesionseg.storage import Folder
from lesionseg.stream import FailedImage, ImageStream
from lesionseg.workers import died

MASKS, ROWS, FAILURES, TRIES, MADE_BY = "mask", "predictions", "failures", "tries", "made_by.json"
_TYPES = {"file": pa.string(), "instance": pa.int32(), "class": pa.string(), "area_px": pa.int64()}
ROW_SCHEMA = pa.schema([(column, _TYPES.get(column, pa.float64())) for column in CSV_COLUMNS])
FAILURE_SCHEMA = pa.schema([("file", pa.string()), ("error", pa.string())])
SHARD = 64  # images; what a worker that dies has to do again, and what it holds copies of at once
TRANSFERS = 8  # files that a worker reads or writes at once beside its network: an object store answers late, but many
# Workers that died over a shard: then it is done image by image, to learn which one is to blame.
CAREFUL_AFTER = 2
DEATHS = 30  # of workers over a shard, after which the run ends; a machine that is lost costs several at once
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterJob:
    """What a worker has to know.

    Attributes:
        model: its files have the same paths on every machine.
        images, output: folders, or URIs of folders, see `lesionseg.storage.Folder`.
        opts: KEY VALUE KEY VALUE ... over the model's configuration.
        device: "cpu" or "cuda"; None for what the cluster has.
        batch_size: images that the network takes at once; None for 8 on a GPU, 2 on a CPU.
    """

    model: Model
    images: str
    output: str
    opts: tuple[Any, ...] = ()
    device: str | None = None
    batch_size: int | None = None

    def anywhere(self) -> ClusterJob:
        """The same from any working directory: a worker has one of its own."""
        model = replace(
            self.model, config=self.model.config.absolute(), weights=self.model.weights.absolute()
        )
        images, output = (
            place if "://" in place else str(Path(place).absolute()) for place in (self.images, self.output)
        )
        return replace(self, model=model, images=images, output=output)

    def open_predictor(self) -> ImageStream:
        """The model, on the job's device, or the CPU."""
        return open_predictor(self.model, [*self.opts, "MODEL.DEVICE", self.device or "cpu"])


@dataclass
class ClusterSummary:
    """What became of the images: how many were predicted now, found finished, have no lesion; and who failed, why."""

    predicted: int = 0
    finished: int = 0
    without_lesion: int = 0
    failed: list[str] = field(default_factory=list)


class Tries:
    """What the workers that died over a shard have left in the output folder, and its next one leaves there.

    Attributes:
        deaths: so many began it and did not end it.
        deadly: images at which one died that went through them one by one.
    """

    def __init__(self, output: Folder, part: str) -> None:
        self._output, self._file = output, f"{TRIES}/{part}.json"
        before = json.loads(output.read(self._file) or b"{}")
        self.deaths: int = before.get("tries", 0)
        self.deadly: list[str] = [*before.get("deadly", []), *filter(None, [before.get("at")])]
        self.at(None)

    def at(self, file: str | None) -> None:
        """Write down which image is next."""
        content = {"tries": self.deaths + 1, "deadly": self.deadly, "at": file}
        self._output.write(self._file, json.dumps(content).encode())


class ShardPredictor:
    """A worker: holds a model and predicts one shard after the other."""

    def __init__(self, job: ClusterJob) -> None:
        self.images, self.output = Folder(job.images), Folder(job.output)
        self.predictor = job.open_predictor()
        if self.predictor.on_cpu:
            self.predictor.use_threads(1)
        self.batch_size = job.batch_size or default_batch(self.predictor)

    def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        """Predict and write {"files": names}; returns {"images", "predicted", "without_lesion", "error"}."""
        files = list(shard["files"])
        report = {"images": len(files), "predicted": 0, "without_lesion": 0, "error": ""}
        # The process is in the name: what a worker that was killed leaves behind can be told from what is in use.
        with TemporaryDirectory(prefix=f"lesionseg-{os.getpid()}-") as scratch:
            try:
                return report | self._predict(files, Path(scratch))
            except (
                OSError,
                LesionsegError,
            ) as error:  # of an exception only its traceback's text would arrive
                return report | {"error": str(error) or repr(error)}
            except MemoryError:
                os._exit(1)  # as if the system had killed it: the shard is tried again

    def _predict(self, files: Sequence[str], scratch: Path) -> dict[str, int]:
        names = self.predictor.metadata.thing_classes
        writer = Writer(self.predictor.cfg, names, scratch / "out", [MASKS])
        rows: list[dict[str, Any]] = []
        failures: list[dict[str, str]] = []
        reasons: dict[str, str] = {}
        masks: list[Future[None]] = []
        tries = Tries(self.output, part_name(files))
        if tries.deaths >= DEATHS:
            raise LesionsegError(
                f"{tries.deaths} workers died over the same {len(files)} images, most likely for lack of memory; try fewer --workers"
            )
        with ThreadPoolExecutor(TRANSFERS) as pool:
            paths = pool.map(partial(self._fetch, folder=scratch / "in", reasons=reasons), files)
            if tries.deaths < CAREFUL_AFTER:
                found: Iterator[tuple[Any, Any]] = self.predictor.detect(paths, self.batch_size)
            else:
                found = self._detect_carefully(files, paths, tries)
            for file, (path, detections) in zip(files, found, strict=True):
                result = writer.write(Item(Path(str(path)), file), detections)
                if isinstance(result, FailedImage):
                    reason = str(result).replace(f"{scratch / 'in'}/", f"{self.images}/")
                    failures.append({"file": file, "error": reasons.get(file, reason)})
                    continue
                rows += csv_rows(result)
                for mask in result["files"][MASKS]:
                    masks.append(pool.submit(self._put, mask, scratch / "out"))
            for written in masks:
                written.result()
        part = part_name(files)
        # Rows last but one: an image with rows is done. Failures last: they are those of the rows' own try.
        if rows:
            self.output.write_rows(f"{ROWS}/{part}", rows, ROW_SCHEMA)
        if failures:
            self.output.write_rows(f"{FAILURES}/{part}", failures, FAILURE_SCHEMA)
        empty = sum("instance" not in row for row in rows)
        return {"predicted": len(files) - len(failures), "without_lesion": empty}

    def _detect_carefully(
        self, files: Sequence[str], paths: Iterator[Path], tries: Tries
    ) -> Iterator[tuple[Any, Any]]:
        for file, path in zip(files, paths, strict=True):
            if file in tries.deadly:
                yield path, FailedImage(file, died(f"{self.images}/{file}"))
            else:
                tries.at(file)
                yield from self.predictor.detect([path], 1)

    def _fetch(self, file: str, folder: Path, reasons: dict[str, str]) -> Path:
        try:
            return self.images.fetch(file, folder)
        except OSError as error:
            reasons[file] = f"{self.images}/{file}: cannot be read: {error}"
            return folder / "missing"

    def _put(self, file: str, folder: Path) -> None:
        self.output.write(file, (folder / file).read_bytes())


def part_name(files: Sequence[str]) -> str:
    """The file name of a shard's rows: the same for the same images."""
    return f"part-{hashlib.sha256(chr(10).join(files).encode()).hexdigest()[:16]}.parquet"


def shards(files: Sequence[str], done: AbstractSet[str], size: int) -> Iterator[list[str]]:
    """What is left to do, in parts of up to `size` images.

    They are cut from all files and then reduced, so that a second start has the shards of the first.
    """
    for start in range(0, len(files), size):
        if todo := [file for file in files[start : start + size] if file not in done]:
            yield todo


def predict_cluster(
    job: ClusterJob, workers: int | None = None, shard_size: int = SHARD, address: str | None = None
) -> ClusterSummary:
    """Predict all images of a folder on a Ray cluster; a run that was stopped continues when called again.

    The output holds mask/<name>_segmentation.png as `lesionseg.outputs.MaskSink` writes it; predictions/*.parquet with the
    columns and rows of predictions.csv, those of an image together and the images in no order; failures/*.parquet with
    file and error; and made_by.json, what the results depend on.

    Args:
        workers: processes, each with a model; by default one a GPU, or one a core where the cluster has no GPU. More
            than GPUs share them.
        shard_size: images that a worker takes at a time.
        address: of the cluster: "auto" for the one that this machine belongs to, HOST:PORT of its head, "local" for this
            machine alone; by default the environment's RAY_ADDRESS, else "local".

    Raises:
        LesionsegError: see `open_predictor` and `Folder.photographs`; the output holds results of another model; it
            cannot be written; no cluster; workers that die again and again.
    """
    for name, number in (
        ("batch size", job.batch_size),
        ("number of workers", workers),
        ("shard", shard_size),
    ):
        if number is not None and number < 1:
            raise LesionsegError(f"the {name} is 1 or more, not {number}")
    job = job.anywhere()
    output = Folder(job.output)
    # Opened here too, on the CPU: a mistake is told before anything starts.
    made_by = fingerprint(replace(job, device="cpu").open_predictor().cfg)
    files = Folder(job.images).photographs(output)
    summary = ClusterSummary()
    try:
        _claim(output, made_by)
        done = {row["file"] for row in output.rows(ROWS, ROW_SCHEMA, ["file"])}
        output.delete(FAILURES)  # they are tried again
        output.delete(TRIES)
        todo = list(shards(files, done, shard_size))
        summary.finished = len(files) - sum(map(len, todo))
        logger.info("%d images, %d of them finished; writing to %s", len(files), summary.finished, output)
        with tqdm(total=len(files), initial=summary.finished, unit="image", disable=None) as progress:
            for report in _run(job, todo, workers, address) if todo else ():
                if report["error"]:
                    raise LesionsegError(f"cannot go on: {report['error']}. {_AGAIN}")
                summary.predicted += report["predicted"]
                summary.without_lesion += report["without_lesion"]
                progress.update(report["images"])
        output.delete(TRIES)
        if output.is_local:
            remove_leftovers(*(Path(output.path, folder) for folder in (MASKS, ROWS, FAILURES)))
        summary.failed = sorted(row["error"] for row in output.rows(FAILURES, FAILURE_SCHEMA, ["error"]))
    except OSError as error:
        raise LesionsegError(f"cannot write to {output}: {error}. {_AGAIN}") from error
    return summary


_AGAIN = "What is finished is kept: run the same command again to continue"


def _claim(output: Folder, made_by: dict[str, str]) -> None:
    """Results of two models, or of two settings, never mix."""
    before = output.read(MADE_BY)
    if before is None:
        output.write(MADE_BY, json.dumps(made_by, indent=2).encode())
    elif changed := differences(json.loads(before), made_by):
        listed = "\n  ".join(changed)
        raise LesionsegError(
            f"{output} holds results that were made differently:\n  {listed}\nChoose another --output, or delete it"
        )


def _connect(address: str | None) -> None:
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"  # with none, Ray would look for a cluster
    host, _, port = address.rpartition(":")
    # A cluster that is started here would report its use to Ray's makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if port.isdigit():  # Ray waits minutes for a head that is not there
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, logging_level=logging.WARNING, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise LesionsegError(
            f"no Ray cluster at {address}: {error}. Start one with `ray start --head`, or give the HOST:PORT it printed"
        ) from error


def _run(
    job: ClusterJob, todo: Sequence[list[str]], workers: int | None, address: str | None
) -> Iterator[dict[str, Any]]:
    """The workers' reports, as the shards are done."""
    _connect(address)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    resources = ray.cluster_resources()
    cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    if job.device == "cpu" or job.model.exported:  # those run on the CPU
        gpus = 0
    if (job.device or "").startswith("cuda") and not gpus:
        raise LesionsegError(
            f"--device {job.device}: "
            + ("an exported model computes on the CPU" if job.model.exported else "the cluster has no GPU")
            + "; leave it out to compute on the CPU"
        )
    workers = min(workers or gpus or cores, len(todo))
    logger.info("%d workers on %d %s", workers, gpus or cores, "GPUs" if gpus else "cores")
    shares = {"num_gpus": 1 / math.ceil(workers / gpus)} if gpus else {"num_cpus": 1}
    reports = ray.data.from_items([{"files": files} for files in todo], override_num_blocks=len(todo)).map(
        cast(Any, ShardPredictor),  # its kind of class is not in the annotations of `map`
        fn_constructor_args=(replace(job, device="cuda" if gpus else "cpu"),),
        compute=ray.data.ActorPoolStrategy(size=workers),
        **shares,
    )
    try:
        yield from reports.iter_rows()
    except ray.exceptions.RayError as error:
        logger.debug("Ray stopped", exc_info=True)
        last = str(error).strip().splitlines()[-1]
        raise LesionsegError(f"the cluster stopped: {last}. {_AGAIN}") from error
