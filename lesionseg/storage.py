"""A folder on this machine or in an object store, through pyarrow.fs: what prediction on a cluster reads and writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from lesionseg.errors import LesionsegError
from lesionseg.images import IMAGE_SUFFIXES, atomic_write
from lesionseg.inputs import choose_photographs, find_images


class Folder:
    """A folder by its path or URI: s3://bucket/folder, gs://..., abfs://..., file:///..., fsspec+<protocol>://...

    Credentials come from the environment, as the store's own tools take them. A file appears whole or not at all:
    object stores promise that, and on this machine's file systems it is written under another name first.
    """

    def __init__(self, place: str | Path) -> None:
        """
        Raises:
            LesionsegError: a URI that pyarrow cannot read, or of a kind of store that it does not know.
        """
        scheme, separator, _ = str(place).partition("://")
        try:
            if separator:
                self.filesystem, path = FileSystem.from_uri(str(place))
            else:
                self.filesystem, path = LocalFileSystem(), str(Path(place).absolute())
        except (pa.ArrowException, OSError, ImportError, ValueError) as error:
            raise LesionsegError(
                f"{place}: expected a folder, or a URI such as s3://bucket/folder: {error}"
            ) from error
        self.path = path.rstrip("/")
        # A URI may hold credentials, which do not belong in messages.
        self.name = self.path if self.is_local else f"{scheme}://{self.path}"

    def __str__(self) -> str:
        return self.name

    @property
    def is_local(self) -> bool:
        """On a file system of this machine (a network's, if it is mounted)."""
        return isinstance(self.filesystem, LocalFileSystem)

    def photographs(self, output: Folder) -> list[str]:
        """Image files with all sub-folders, relative and sorted; see `lesionseg.inputs.find_images` for what is left out.

        Args:
            output: a folder whose content is left out, too.

        Raises:
            LesionsegError: no such folder, no image in it, or two images would have the same outputs.
        """
        if self.is_local:
            if not Path(self.path).is_dir():
                raise LesionsegError(f"input {self} does not exist: expected a folder, or the URI of one")
            return [item.file for item in find_images([self.path], output.path if output.is_local else None)]
        try:
            found = self.filesystem.get_file_info(FileSelector(self.path, recursive=True))
        except OSError as error:
            raise LesionsegError(f"cannot list {self}: {error}") from error
        files = (info.path[len(self.path) + 1 :] for info in found if info.type == FileType.File)
        images = [(Path(file), file) for file in sorted(files) if _may_be_image(file)]
        return [item.file for item in choose_photographs(images, [self.name])]

    def fetch(self, file: str, scratch: Path) -> Path:
        """Where a file can be read on this machine: in its place, or as a copy in the folder `scratch`.

        Raises:
            OSError: it cannot be read.
        """
        if self.is_local:
            return Path(self.path, file)
        copy = scratch / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        with self.filesystem.open_input_stream(f"{self.path}/{file}") as source, open(copy, "wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
        return copy

    def read(self, file: str) -> bytes | None:
        """The content of a file; None where there is no such file."""
        if self.filesystem.get_file_info(f"{self.path}/{file}").type != FileType.File:
            return None
        with self.filesystem.open_input_stream(f"{self.path}/{file}") as source:
            return source.read()

    def write(self, file: str, content: bytes) -> None:
        """Write a file, in place of one that is there.

        Raises:
            OSError: it cannot be written.
        """
        if self.is_local:
            with atomic_write(Path(self.path, file)) as temporary:
                temporary.write_bytes(content)
            return
        path = f"{self.path}/{file}"
        try:
            stream = self.filesystem.open_output_stream(path)
        except FileNotFoundError:  # where folders are real
            self.filesystem.create_dir(str(PurePosixPath(path).parent))
            stream = self.filesystem.open_output_stream(path)
        with stream:
            stream.write(content)

    def write_rows(self, file: str, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
        """Write a Parquet file; missing keys become nulls."""
        buffer = pa.BufferOutputStream()
        pyarrow.parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer)
        self.write(file, buffer.getvalue().to_pybytes())

    def rows(self, folder: str, schema: pa.Schema, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Some columns of all Parquet files in a sub-folder, which need not exist.

        Raises:
            LesionsegError: a file that is not Parquet, or has other columns.
        """
        path = f"{self.path}/{folder}"
        if self.filesystem.get_file_info(path).type != FileType.Directory:
            return
        try:
            parts = pyarrow.dataset.dataset(path, schema, "parquet", self.filesystem)
            for batch in parts.to_batches(columns=list(columns)):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise LesionsegError(
                f"{self}/{folder}: cannot read the Parquet files that an earlier start wrote: {error}. Delete those "
                "that are damaged: their images are done again"
            ) from error

    def delete(self, folder: str) -> None:
        """Delete a sub-folder with all it holds, if it is there."""
        path = f"{self.path}/{folder}"
        if self.filesystem.get_file_info(path).type == FileType.Directory:
            self.filesystem.delete_dir(path)


def _may_be_image(file: str) -> bool:
    path = PurePosixPath(file)
    return path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.parts)
