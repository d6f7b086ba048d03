"""The record of a prediction run: which images are done, with what model, and what was found in them.

`predictions.jsonl` holds a header line (what made the results) and one line an image, added after the image's files
were written. So a killed run continues, and results of two models never mix unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lesionseg.errors import LesionsegError
from lesionseg.images import atomic_write
from lesionseg.inputs import JOURNAL, Item

VERSION = 1
logger = logging.getLogger(__name__)


def fingerprint(cfg: Any) -> dict[str, str]:
    """Everything that results depend on: the weights' SHA-256, and settings as {KEY: text}.

    Device, batch size and number of workers are not in it: results do not depend on them beyond rounding.
    """
    weights = hashlib.sha256(Path(cfg.MODEL.WEIGHTS).read_bytes()).hexdigest()
    settings: dict[str, Any] = {"weights (SHA-256)": weights, "MODEL": cfg.MODEL}
    settings["TEST.DETECTIONS_PER_IMAGE"] = cfg.TEST.DETECTIONS_PER_IMAGE
    for key in ("FORMAT", "MIN_SIZE_TEST", "MAX_SIZE_TEST"):
        settings[f"INPUT.{key}"] = cfg.INPUT[key]
    for key in (
        "CLASSES",
        "SCORE_THRESHOLD",
        "MASK_THRESHOLD",
        "MASK_SELECTION",
        "ONE_REGION",
        "CROP_MARGIN",
        "BF16",
    ):
        settings[f"LESION.{key}"] = cfg.LESION[key]
    settings["LESION.TTA"] = cfg.LESION.TTA
    flat = _flat(settings)
    return {key: text for key, text in flat.items() if key not in ("MODEL.WEIGHTS", "MODEL.DEVICE")}


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """How two fingerprints differ, a line a setting."""
    return [
        f"{key}: {before.get(key)} then, {now.get(key)} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = str(list(value) if isinstance(value, tuple) else value)
    return flat


class Journal:
    """`predictions.jsonl` of an output folder; a context manager.

    Rows are dicts as `lesionseg.outputs.describe` makes them. Only their positions are held in memory.
    """

    def __init__(self, folder: str | Path, made_by: dict[str, str], overwrite: bool = False) -> None:
        """Open the journal, or begin one.

        Args:
            made_by: see `fingerprint`.
            overwrite: throw away results that something else made, with their files, instead of raising.

        Raises:
            LesionsegError: the folder holds results of another model or other settings; names the differences.
        """
        self.folder = Path(folder)
        self.path = self.folder / JOURNAL
        self._offsets: dict[str, int] = {}
        if not self.path.exists():
            self._begin(made_by)
        changed = self._read(made_by)
        self._file = open(self.path, "ab+")  # noqa: SIM115 - closed by __exit__
        if changed and self._offsets and not overwrite:
            raise LesionsegError(
                f"{self.folder} holds {len(self._offsets)} results that were made differently:\n  "
                + "\n  ".join(changed)
                + "\nChoose another --output, or add --overwrite to delete them and start again"
            )
        if changed:
            if self._offsets:
                logger.warning("deleting %d results in %s made differently", len(self._offsets), self.folder)
            for name in list(self._offsets):
                row = self.row(name) or {"files": {}}
                self._delete(file for files in row["files"].values() for file in files)
            self._file.close()
            self._begin(made_by)
            self._file = open(self.path, "ab+")  # noqa: SIM115

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _begin(self, made_by: dict[str, str]) -> None:
        self._offsets = {}
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps({"version": VERSION, "made_by": made_by}) + "\n")

    def _read(self, made_by: dict[str, str]) -> list[str]:
        """Note where rows are; returns how `made_by` differs from the header's."""
        try:
            with open(self.path, "rb+") as file:
                header = json.loads(file.readline())
                if header["version"] != VERSION:
                    raise ValueError(f"version {header['version']} instead of {VERSION}")
                before = header["made_by"]
                while (line := file.readline()).endswith(b"\n"):
                    self._offsets[json.loads(line)["name"]] = file.tell() - len(line)
                file.truncate(file.tell() - len(line))  # a kill while writing leaves half a line
        except (ValueError, KeyError, TypeError) as error:
            raise LesionsegError(
                f"{self.path} is not a record of predictions that this version reads ({error}); choose another "
                "--output, or delete it and the files beside it"
            ) from error
        return differences(before, made_by)

    def row(self, name: str) -> dict[str, Any] | None:
        """The latest row of an image, or None."""
        if name not in self._offsets:
            return None
        self._file.seek(self._offsets[name])
        return json.loads(self._file.readline())

    def replace(self, row: dict[str, Any]) -> None:
        """Add a finished image in place of an earlier row of its name.

        Files of the earlier row that were not written anew stay when the image is still the same (they are right, and
        were asked for once), and are deleted when it is another.
        """
        earlier = self.row(row["name"])
        if earlier is not None:
            same = all(earlier[key] == row[key] for key in ("bytes", "modified"))
            new = {file for files in row["files"].values() for file in files}
            for kind, files in earlier["files"].items():
                if same and kind not in row["files"]:
                    row["files"][kind] = files
                elif not same:
                    self._delete(file for file in files if file not in new)
        self._file.seek(0, os.SEEK_END)
        self._offsets[row["name"]] = self._file.tell()
        self._file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
        self._file.flush()

    def _delete(self, files: Iterable[str]) -> None:
        for relative in files:
            (self.folder / relative).unlink(missing_ok=True)

    def finished(self, item: Item, wanted: Sequence[str]) -> bool:
        """Whether an image has a row made from the same file, and all of its `wanted` output files are there.

        Raises:
            LesionsegError: the name is taken by another image file.
        """
        row = self.row(item.name)
        if row is None:
            return False
        if [row["bytes"], row["modified"]] != identity(item.path):
            if Path(row["source"]) != item.path.absolute():
                raise LesionsegError(
                    f"{self.folder} holds results for {item.name} made from {row['source']}, not from {item.path}: "
                    "choose another --output, or add --overwrite"
                )
            return False
        files = row["files"]
        return all(kind in files for kind in wanted) and all(
            (self.folder / relative).is_file() for kind in wanted for relative in files[kind]
        )


def identity(path: Path) -> list[int]:
    """[size in bytes, time of last change in ns]: what tells that a file is still the same."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
