"""Predict many image files into an output folder: in parallel, restartable, one bad file not stopping the rest."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lesionseg.annotations import Annotator
from lesionseg.detections import Detections
from lesionseg.errors import LesionsegError
from lesionseg.images import ImageError, remove_leftovers
from lesionseg.inputs import Item, find_images
from lesionseg.outputs import PICTURES, TABLES, Prediction, default_kinds, describe
from lesionseg.prediction_journal import Journal, fingerprint
from lesionseg.runs import Model
from lesionseg.runtime import PREDICTORS
from lesionseg.stream import FailedImage, ImageStream
from lesionseg.workers import cores, died, in_processes

if TYPE_CHECKING:
    from lesionseg.classifier import CropClassifier

# Images that the network takes at once. PyTorch brings the weights into the processor's own form anew for each batch, so that
# two gain a tenth over one (R18 at 192 px); four gain as much again there, but lose that with R50 at 512 px.
CPU_BATCH, GPU_BATCH = 2, 8
Row = dict[str, Any]
logger = logging.getLogger(__name__)


@dataclass
class Summary:
    """What became of the images: numbers of those predicted now and found finished; names without lesion; failures."""

    predicted: int = 0
    finished: int = 0
    without_lesion: list[str] = field(default_factory=list)
    failed: list[FailedImage] = field(default_factory=list)


def open_predictor(model: Model, opts: Sequence[Any] = ()) -> ImageStream:
    """The predictor for a run's weights or an exported model.

    Args:
        model: see `lesionseg.runs.find_model`.
        opts: KEY VALUE KEY VALUE ... over its configuration.

    Raises:
        LesionsegError: see LesionPredictor and runtime.ExportedPredictor.
    """
    if model.exported:
        return PREDICTORS[model.weights.suffix](model.weights, opts)
    from lesionseg.config import setup_cfg
    from lesionseg.predictor import LesionPredictor  # brings Detectron2, which an exported model does without

    return LesionPredictor(setup_cfg(model.config, opts), model.weights)


def default_batch(predictor: ImageStream) -> int:
    return CPU_BATCH if predictor.on_cpu else GPU_BATCH


def predict_images(
    predictor: ImageStream,
    inputs: Sequence[str | Path],
    output: str | Path,
    save: Sequence[str] | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    classifier: CropClassifier | None = None,
) -> Summary:
    """Predict images and write what `save` names to `output`; a killed run continues when called again.

    Args:
        inputs: see `lesionseg.inputs.find_images`.
        output: folder; besides `save`'s files it holds predictions.jsonl, the journal.
        save: kinds of output, of `lesionseg.outputs.KINDS`; by default all but abcd.
        batch_size: images that the network takes at once; by default 8 on a GPU, 2 on a CPU.
        workers: processes; by default one a core. 1 does everything in this process.
        overwrite: predict finished images again, and delete results of another model.
        classifier: gives every instance its class probabilities, in overlay, JSON and CSV.

    Returns:
        Summary. The tables list this call's images, in the order of `inputs`, finished before or now.

    Raises:
        LesionsegError: see `find_images` and `Journal`; a file cannot be written; a number below 1.
    """
    for name, number in (("batch size", batch_size), ("number of workers", workers)):
        if number is not None and number < 1:
            raise LesionsegError(f"the {name} is 1 or more, not {number}")
    save = default_kinds() if save is None else save
    items = find_images(inputs, output)
    logger.info("%d images; writing to %s", len(items), output)
    wanted = [kind for kind in save if kind in PICTURES]
    summary = Summary()
    annotator = Annotator("abcd" in save, classifier)
    made_by = fingerprint(predictor.cfg) | annotator.fingerprint()
    with _writing_to(output), Journal(output, made_by, overwrite) as journal:
        todo = [item for item in items if overwrite or not _finished(journal, item, wanted, annotator)]
        summary.finished = len(items) - len(todo)
        if summary.finished:
            logger.info("%d are finished already (--overwrite does them again)", summary.finished)
        writer = Writer(predictor.cfg, predictor.metadata.thing_classes, Path(output), wanted, annotator)
        workers = workers or cores()
        share = predict_in_workers if predictor.on_cpu else write_in_workers
        results = share(predictor, writer, todo, batch_size or default_batch(predictor), workers)
        for result in tqdm(results, total=len(todo), unit="image", disable=None):
            if isinstance(result, FailedImage):
                summary.failed.append(result)
            else:
                summary.predicted += 1
                journal.replace(result)
        remove_leftovers(*(journal.folder / kind for kind in wanted))
        _write_tables(journal, items, [kind for kind in save if kind in TABLES], summary, annotator)
    return summary


def _finished(journal: Journal, item: Item, wanted: Sequence[str], annotator: Annotator) -> bool:
    """Whether an image's files are there, and what is asked for of its instances is known."""
    if not journal.finished(item, wanted):
        return False
    row = journal.row(item.name)
    return row is not None and all(key in found for found in row["instances"] for key in annotator.keys)


@contextmanager
def _writing_to(output: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LesionsegError(
            f"cannot write to {output}: {error}. What is finished is kept: run the same command again to continue"
        ) from error


def _write_tables(
    journal: Journal, items: Sequence[Item], kinds: Sequence[str], summary: Summary, annotator: Annotator
) -> None:
    failed = {failure.file_name for failure in summary.failed}
    with ExitStack() as stack:
        tables = [stack.enter_context(TABLES[kind](journal.folder, annotator)) for kind in kinds]
        for item in items:
            row = journal.row(item.name)
            if row is None or str(item.path) in failed:
                continue
            if not row["instances"]:
                summary.without_lesion.append(item.file)
            for table in tables:
                table.write(row)


class Writer:
    """From what was detected in an image to its files and its journal row."""

    def __init__(
        self,
        cfg: Any,
        class_names: Sequence[str],
        folder: Path,
        kinds: Sequence[str],
        annotator: Annotator | None = None,
    ) -> None:
        self.annotator = annotator or Annotator()
        self.cfg = cfg
        self.class_names = class_names
        self.sinks = {kind: PICTURES[kind](folder) for kind in kinds}

    def write(self, item: Item, found: Detections | FailedImage) -> Row | FailedImage:
        """Write one image's files, each lesion by its likeliest class alone; a failed image passes through."""
        if isinstance(found, FailedImage):
            return found
        if item.file != item.file.encode(errors="replace").decode():
            name = str(item.path).encode(errors="replace").decode()
            problem = LesionsegError(
                f"{name}: expected a file name in UTF-8, found other bytes (?). Rename it"
            )
            return FailedImage(str(item.path), problem)
        found = found.best_class_only(self.cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST)
        instances = found.instances(self.cfg.LESION.MASK_THRESHOLD)
        prediction = Prediction(item, instances, self.cfg, self.class_names, self.annotator)
        try:
            files = {kind: sink.write(prediction) for kind, sink in self.sinks.items()}
            return describe(prediction, files)
        except ImageError as error:
            return FailedImage(str(item.path), error)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            problem = LesionsegError(f"{item.path}: its results would have too long a name. Rename it")
            return FailedImage(str(item.path), problem)


@dataclass
class _Tools:
    """What a worker process works with."""

    writer: Writer
    predictor: ImageStream | None = None

    def use_one_thread(self) -> None:
        if self.predictor is not None:
            self.predictor.use_threads(1)


def predict_in_workers(
    predictor: ImageStream, writer: Writer, todo: Sequence[Item], batch_size: int, workers: int
) -> Iterator[Row | FailedImage]:
    """For CPUs: every process does everything for its images, on one core; rows in order.

    That is more than one network on all cores gets done, whose threads wait for each other many times an image.
    """
    tools = _Tools(writer, predictor)
    workers = min(workers, math.ceil(len(todo) / batch_size))
    yield from in_processes(
        *(_predict_and_write, tools, todo, workers, _died),
        together=batch_size,
        start=tools.use_one_thread,
        fork=predictor.forkable,
    )


def _predict_and_write(tools: _Tools, items: list[Item]) -> list[Row | FailedImage]:
    assert tools.predictor is not None
    found = tools.predictor.detect([item.path for item in items], len(items))
    return [tools.writer.write(item, result) for item, (_, result) in zip(items, found, strict=True)]


def write_in_workers(
    predictor: ImageStream, writer: Writer, todo: Sequence[Item], batch_size: int, workers: int
) -> Iterator[Row | FailedImage]:
    """For GPUs: this process decodes (in threads) and predicts, the others write; rows in order."""
    stream = predictor.detect([item.path for item in todo], batch_size)
    found = ((item, detections) for item, (_, detections) in zip(todo, stream, strict=True))
    yield from in_processes(
        *(_write, _Tools(writer), found, min(workers, len(todo))),
        lambda pair: _died(pair[0]),
        fork=predictor.forkable,
    )


def _write(tools: _Tools, found: list[tuple[Item, Detections | FailedImage]]) -> list[Row | FailedImage]:
    return [tools.writer.write(item, detections) for item, detections in found]


def _died(item: Item) -> Row | FailedImage:
    return FailedImage(str(item.path), died(item.path))
