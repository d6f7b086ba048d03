"""Convert many samples on all cores, keeping each result on disk: a killed run continues, and memory stays flat."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
from tqdm import tqdm

from lesionseg.convert import ConvertOptions, Record, convert_sample
from lesionseg.errors import LesionsegError
from lesionseg.sources import Sample
from lesionseg.workers import keep_freed_memory, leave_with_parent

_SAMPLES_A_TASK = 8
_TASKS_A_WORKER = 3  # waiting or running; bounds what is in memory
_STATE_LENGTH = 32
_FEWEST_FOR_A_WORKER = 32  # starting a process costs as much as some tens of images


def file_state(path: Path) -> str:
    """Name, size and time of change: what tells that a file is still the one that was read."""
    try:
        status = path.stat()
    except OSError:  # a link to nowhere: reading it will tell
        return str(path)
    return f"{path}|{status.st_size}|{status.st_mtime_ns}"


def sample_state(sample: Sample) -> str:
    """A short digest of the state of both files of a sample."""
    assert sample.mask is not None
    states = f"{file_state(sample.image)}|{file_state(sample.mask)}"
    return hashlib.sha256(states.encode()).hexdigest()[:_STATE_LENGTH]


class Journal:
    """A folder in the making, with a file of one line a converted sample: its state, and its Record.

    A folder of the same ``key`` (the options that results depend on) is continued: its journal, images/ and masks/ are
    kept. Any other is emptied.
    """

    def __init__(self, folder: Path, key: str) -> None:
        path = folder / "journal"
        self._offsets: dict[str, int] = {}  # where the line of a state is
        self._states: dict[str, str] = {}  # state by sample id
        if self._continue(path, key):
            for file in folder.iterdir():
                if file.is_file() and file != path:
                    file.unlink()
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            path.write_text(json.dumps(key) + "\n")
        self._file = path.open("r+b")
        self._file.seek(0, os.SEEK_END)

    def _continue(self, path: Path, key: str) -> bool:
        if not path.exists():
            return False
        with path.open("rb") as file:
            if file.readline() != (json.dumps(key) + "\n").encode():
                return False
            end = file.tell()
            for line in file:
                if not line.endswith(b"\n"):  # the run was killed while writing it
                    break
                self._offsets[line[:_STATE_LENGTH].decode()] = end
                end += len(line)
        os.truncate(path, end)
        return True

    def close(self) -> None:
        self._file.close()

    def has(self, sample: Sample) -> bool:
        """Whether a sample was converted, its files being as they are now."""
        self._states[sample.id] = sample_state(sample)
        return self._states[sample.id] in self._offsets

    def add(self, record: Record) -> None:
        """Keep the record of a sample that ``has`` was asked about."""
        state = self._states[record.sample_id]
        self._offsets[state] = self._file.seek(0, os.SEEK_END)
        self._file.write(f"{state} {record.to_json()}\n".encode())
        self._file.flush()

    def read(self, sample_id: str) -> Record:
        self._file.seek(self._offsets[self._states[sample_id]])
        return Record.from_json(self._file.readline()[_STATE_LENGTH + 1 :].decode())


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
    cv2.setNumThreads(1)
    leave_with_parent()
    keep_freed_memory()


def _convert_task(samples: Sequence[Sample], options: ConvertOptions) -> list[Record]:
    return [convert_sample(sample, options) for sample in samples]


def _in_parallel(samples: Sequence[Sample], options: ConvertOptions, workers: int) -> Iterator[list[Record]]:
    tasks = [samples[start : start + _SAMPLES_A_TASK] for start in range(0, len(samples), _SAMPLES_A_TASK)]
    if workers == 1:
        for task in tasks:
            yield _convert_task(task, options)
        return
    # Not forked: the parent may hold threads of OpenCV or torch.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        running: set[Future[list[Record]]] = set()
        waiting = iter(tasks)
        try:
            while True:
                for task in islice(waiting, workers * _TASKS_A_WORKER - len(running)):
                    running.add(pool.submit(_convert_task, task, options))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise LesionsegError(
                "a worker process was killed, most likely for want of memory; what is done is kept. Run the same command "
                "again with a smaller --workers."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def convert_all(
    samples: Sequence[Sample], options: ConvertOptions, journal: Journal, workers: int | None = None
) -> list[Record]:
    """Records of all samples in their order, without annotations (these stay in the journal, see ``Journal.read``).

    ``workers``: processes, default one a processor. Shows a progress bar on a terminal.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    missing = [sample for sample in samples if not journal.has(sample)]
    workers = max(1, min(workers or cores, len(missing) // _FEWEST_FOR_A_WORKER))
    with tqdm(total=len(samples), initial=len(samples) - len(missing), unit="pair", disable=None) as bar:
        for records in _in_parallel(missing, options, workers):
            for record in records:
                journal.add(record)
            bar.update(len(records))
    return [replace(journal.read(sample.id), annotations=[]) for sample in samples]
