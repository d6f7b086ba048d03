"""PNG files of 8-bit grey pixels, the format of masks, several times as fast as image libraries read and write them.

A mask is long runs of 0 and 255; nearly all of the time goes into zlib. ISA-L does its work in a fifth of the time, but
no image library uses it. So the chunks of the file (PNG specification, third edition, sections 5 and 11) are taken
apart and put together here. Whatever is not plain 8-bit grey is left to Pillow.
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise

import numpy as np
from isal import isal_zlib
from isal.igzip_lib import IsalError
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = ">IIBBBBB"  # width, height, bit depth, colour type, compression, filter method, interlacing
_GREY_8_BIT = (8, 0, 0, 0, 0)
_CHANGES_PIXELS = {b"tRNS", b"eXIf"}  # optional chunks that matter to who reads the picture
_SUB, _UP = 1, 2  # filters: difference from the pixel on the left, from the one above
_NEAR = 8  # lines that Pillow decodes in the time of one call more
_LEVEL = 1  # ISA-L's higher ones gain nothing on masks


def encode_grey_png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 (H, W)."""
    height, width = pixels.shape
    lines = np.zeros((height, width + 1), dtype=np.uint8)  # a line's first byte names its filter: 0, none
    lines[:, 1:] = pixels
    header = struct.pack(_HEADER, width, height, *_GREY_8_BIT)
    parts = (b"IHDR", header), (b"IDAT", isal_zlib.compress(lines, _LEVEL)), (b"IEND", b"")
    return _SIGNATURE + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def decode_grey_png(data: bytes) -> np.ndarray | None:
    """The pixels of a PNG file, uint8 (H, W); None for every file that this is not for, and for a damaged one."""
    try:
        chunks = _chunks(data)
        width, height, *kind = struct.unpack(_HEADER, chunks[b"IHDR"])
        length = height * (width + 1)
        if tuple(kind) != _GREY_8_BIT or _CHANGES_PIXELS & chunks.keys() or not width or not height:
            return None
        if length > (Image.MAX_IMAGE_PIXELS or length):  # Pillow warns of a decompression bomb
            return None
        content = isal_zlib.decompressobj()
        lines = content.decompress(chunks[b"IDAT"], length + 1)
        if len(lines) != length or not content.eof:
            return None
        return _unfilter(np.frombuffer(lines, dtype=np.uint8).reshape(height, width + 1))
    except (KeyError, ValueError, struct.error, OSError, IsalError):  # type: ignore[misc]  # its stub is no class
        return None


def _unfilter(lines: np.ndarray) -> np.ndarray:
    """Pixels (H, W) from lines (H, 1 + W), whose first byte says how the others are filtered (section 9)."""
    kinds, pixels = lines[:, 0].copy(), lines[:, 1:].copy()
    for one, other in pairwise(np.flatnonzero(kinds > _UP).tolist()):
        if other - one <= _NEAR:
            kinds[one:other] = kinds[one]  # for Pillow, too, as what is around them
    starts = np.flatnonzero(np.append(True, kinds[1:] != kinds[:-1])).tolist()  # of runs of one filter
    for start, stop in pairwise([*starts, len(kinds)]):
        run = pixels[start:stop]
        above = pixels[start - 1] if start else np.zeros_like(run[0])
        if kinds[start] == _SUB:
            np.add.accumulate(run, axis=1, out=run)
        elif kinds[start] == _UP:
            for line in run:
                line += above
                above = line
        elif kinds[start] > _UP:  # every pixel hangs on the one before: Pillow's loop is compiled
            stream = zlib.compress(b"\0" + above.tobytes() + lines[start:stop].tobytes(), 0)
            decoded = Image.frombytes("L", (run.shape[1], 1 + run.shape[0]), stream, "zip", "L")
            run[:] = np.frombuffer(decoded.tobytes(), dtype=np.uint8).reshape(-1, run.shape[1])[1:]
    return pixels


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """Content by kind, IDAT's joined; ValueError for what is no PNG file, KeyError where its end is missing."""
    if not data.startswith(_SIGNATURE):
        raise ValueError("no PNG file")
    found: dict[bytes, list[bytes]] = {}
    position = len(_SIGNATURE)
    while b"IEND" not in found:
        length, kind = struct.unpack_from(">I4s", data, position)
        content = data[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, position + 8 + length)
        if zlib.crc32(kind + content) != checksum:
            raise ValueError(f"chunk {kind!r} is damaged")
        found.setdefault(kind, []).append(content)
        position += 12 + length
    return {kind: b"".join(contents) for kind, contents in found.items()}
