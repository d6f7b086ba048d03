"""Convert many samples on all cores, keeping each result on disk: a killed run continues, and memory stays flat."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from lesionseg.convert import ConvertOptions, Record, convert_sample
from lesionseg.sources import Sample
from lesionseg.validate import Problem
from lesionseg.workers import DIED, cores, each, in_processes, keep_freed_memory

_TOGETHER = 8  # samples that a worker process is sent at once
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


def convert_all(
    samples: Sequence[Sample], options: ConvertOptions, journal: Journal, workers: int | None = None
) -> list[Record]:
    """Records of all samples in their order, without annotations (these stay in the journal, see ``Journal.read``).

    ``workers``: processes, default one a processor. Shows a progress bar on a terminal.
    """
    missing = [sample for sample in samples if not journal.has(sample)]
    workers = max(1, min(workers or cores(), len(missing) // _FEWEST_FOR_A_WORKER))
    died: dict[str, Record] = {}  # not for the journal: with more memory they may do

    def lost(sample: Sample) -> None:
        remedy = "Reduce the image and its mask, or leave the pair out"
        file = str(sample.image)
        problem = Problem(
            "error", "process died", file, "a pair that fits into memory", DIED, remedy, sample.id
        )
        died[sample.id] = Record(sample.id, [problem])

    convert: Callable[[Sample], Record | None] = partial(convert_sample, options=options)
    # Nothing that converting calls needs a thread of this process. On macOS, though, the system's libraries do.
    fork = sys.platform == "linux"
    records = in_processes(
        each, convert, missing, workers, lost, together=_TOGETHER, start=keep_freed_memory, fork=fork
    )
    with tqdm(total=len(samples), initial=len(samples) - len(missing), unit="pair", disable=None) as bar:
        for record in records:
            if record is not None:
                journal.add(record)
            bar.update()
    ids = [sample.id for sample in samples]
    return [died.get(name) or replace(journal.read(name), annotations=[]) for name in ids]
