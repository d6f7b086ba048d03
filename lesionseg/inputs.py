"""The images that a command's --input means: folders, files, globs and lists of files."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lesionseg.errors import LesionsegError
from lesionseg.images import IMAGE_SUFFIXES

JOURNAL = "predictions.jsonl"  # marks a folder as output of a prediction
# Files that lie beside the photographs in ISIC, HAM10000 and PH2 folders and are none.
_NO_PHOTOGRAPH = re.compile(
    r"(_(segmentation|superpixels|attribute_\w+)\.png|_(lesion|R\d+_Label\d+)\.bmp)$", re.IGNORECASE
)
_SHOWN = 10  # lines of a message, at most
_MAGIC = re.compile(r"[*?\[]")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """An image to predict: the file, and its name relative to the input it came from, with sub-folders and suffix."""

    path: Path
    file: str

    @property
    def name(self) -> str:
        """What outputs are called: `file` without suffix, with forward slashes."""
        return str(PurePosixPath(self.file).with_suffix(""))


def find_images(inputs: Sequence[str | Path], output: str | Path | None = None) -> list[Item]:
    """The images of all inputs, in order; those of a folder sorted by name.

    Args:
        inputs: folders (searched with all sub-folders), image files, globs (`**` reaches into sub-folders) and .txt
            files that list images, one a line, relative to the list's own folder; `#` begins a comment.
        output: a folder whose content is left out. So are hidden files and folders, folders that hold the results of
            another prediction, and masks and superpixels beside ISIC, HAM10000 and PH2 images; these are counted in
            the log. An image named twice is taken once.

    Raises:
        LesionsegError: an input does not exist, there is no image, or two images would have the same outputs.
    """
    return choose_photographs((found for text in map(str, inputs) for found in _expand(text, output)), inputs)


def choose_photographs(found: Iterable[tuple[Path, str]], inputs: Sequence[str | Path]) -> list[Item]:
    """Items of the image files found, each once, without the masks and superpixels among them.

    Args:
        found: (path, name relative to its input) of files with IMAGE_SUFFIXES.
        inputs: where they were looked for.

    Raises:
        LesionsegError: there is no image, or two images would have the same outputs.
    """
    items: dict[Path, Item] = {}
    others = 0
    for path, file in found:
        if _NO_PHOTOGRAPH.search(path.name):
            others += 1
        else:
            items.setdefault(path.resolve(), Item(path, PurePosixPath(*Path(file).parts).as_posix()))
    if others:
        logger.info("left out %d mask and superpixel files beside the images", others)
    if not items:
        raise LesionsegError(
            f"no image in {', '.join(map(str, inputs))}: expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
            + (f"; {others} mask and superpixel files do not count" if others else "")
        )
    _refuse_shared_names(items.values())
    return list(items.values())


def _refuse_shared_names(items: Iterable[Item]) -> None:
    seen: dict[str, Item] = {}
    clashes = []
    for item in items:
        first = seen.setdefault(item.name, item)
        if first is not item:
            clashes.append(f"{first.path} and {item.path}")
    if clashes:
        raise LesionsegError(
            f"{len(clashes)} pairs of images would write the same output files; rename one of each, or predict them "
            "into different --output folders:\n  " + "\n  ".join(_first(clashes))
        )


def _first(lines: list[str]) -> list[str]:
    """As many as one reads in a message, and how many more there are."""
    rest = len(lines) - _SHOWN
    return lines if rest <= 0 else [*lines[:_SHOWN], f"... and {rest} more"]


def _expand(text: str, output: str | Path | None) -> Iterator[tuple[Path, str]]:
    """(path, name relative to the input) of every image that one input stands for."""
    path = Path(text)
    if path.is_dir():
        if output is not None and path.resolve() == Path(output).resolve():
            raise LesionsegError(f"{path} is both --input and --output; results need a folder of their own")
        yield from ((found, os.path.relpath(found, path)) for found in _walk(path, output))
    elif path.suffix.lower() == ".txt" and path.is_file():
        yield from _listed(path)
    elif path.is_file():
        if output is not None and path.parent.resolve() == Path(output).resolve():
            raise LesionsegError(f"{path} lies in --output {output}; results need a folder of their own")
        yield path, path.name
    elif _MAGIC.search(text):
        parts = path.parts
        fixed = next(index for index, part in enumerate(parts) if _MAGIC.search(part))
        base = Path(*parts[:fixed])
        try:
            matches = sorted(base.glob("/".join(parts[fixed:])))
        except ValueError as error:
            raise LesionsegError(f"input {text} is no glob: {error}") from error
        for match in matches:
            if not _inside_output(match, output):
                files = _walk(match, output) if match.is_dir() else [match]
                images = (file for file in files if file.suffix.lower() in IMAGE_SUFFIXES)
                yield from ((file, os.path.relpath(file, base)) for file in images)
    else:
        raise LesionsegError(
            f"input {text} does not exist: expected a folder, an image, a glob or a .txt list"
            + ("; KEY VALUE pairs go behind a -- of their own" if text.isupper() and "." in text else "")
        )


def _inside_output(path: Path, output: str | Path | None) -> bool:
    own = Path(output).resolve() if output is not None else None
    return any(folder == own or (folder / JOURNAL).exists() for folder in path.resolve().parents)


def _walk(folder: Path, output: str | Path | None) -> Iterator[Path]:
    own = Path(output).resolve() if output is not None else None
    seen = set()

    def refuse(error: OSError) -> None:
        raise LesionsegError(f"cannot look into the folder {error.filename}: {error.strerror}") from error

    for where, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = Path(where).resolve()
        results = JOURNAL in files
        if results and real != own:
            logger.warning("%s is left out: it holds the results of a prediction (%s)", where, JOURNAL)
        if real == own or real in seen or results:
            folders.clear()
            continue
        seen.add(real)  # a link to a folder above would go round for ever
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(where, name)


def _listed(path: Path) -> Iterator[tuple[Path, str]]:
    missing = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise LesionsegError(
            f"{path}: expected a text file in UTF-8 with one image a line: {error}"
        ) from error
    for number, line in enumerate(lines, start=1):
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        image = path.parent / text  # an absolute path stays as it is
        if not image.is_file():
            missing.append(f"line {number}: {text}")
        inside = not Path(text).is_absolute() and ".." not in Path(text).parts
        yield image, text if inside else image.name
    if missing:
        raise LesionsegError(
            f"{path} lists {len(missing)} images that do not exist relative to {path.parent.absolute()}:\n  "
            + "\n  ".join(_first(missing))
        )
