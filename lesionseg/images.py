"""Reading and writing image and mask files, the one way the whole project does it.

Pillow decodes, as in Detectron2's own ``read_image``: an ordinary 8-bit photograph gives the same pixels in
both. What Detectron2 would read wrongly (16-bit grey, transparency) comes out right here.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from lesionseg.errors import LesionsegError
from lesionseg.grey_png import decode_grey_png, encode_grey_png

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
MASK_THRESHOLD = 128  # of 255; a pixel is lesion when it is above, as in the ISIC challenge's scorer

_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}(\.[^.]+)?")  # as atomic_write makes them
_EXIF_ORIENTATION = 0x0112
_TURN_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow raises for files that are damaged, cut short or no image at all; its readers are not uniform.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)


class ImageError(LesionsegError):
    """An image or mask file that cannot be read or written; the message names it."""


@dataclass(frozen=True)
class ImageInfo:
    """What a file is: size in px after EXIF orientation, Pillow mode, EXIF orientation 1 to 8, any pixel see-through."""

    height: int
    width: int
    mode: str
    orientation: int
    transparent: bool

    @property
    def plain(self) -> bool:
        """True when Detectron2's ``read_image`` shows the same pixels as ``read_image`` here."""
        return self.mode in {"RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr"} and not self.transparent


@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open with Pillow; whatever goes wrong inside the ``with`` block becomes an ImageError."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except _DECODE_ERRORS as error:
        raise ImageError(
            f"{path}: expected a readable image, found: {error}. Copy or download the file again, or leave it out."
        ) from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        return 1


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info


def turn_upright(image: Image.Image) -> Image.Image:
    """As EXIF orientation says; the image itself where nothing is to be turned."""
    method = _TURN_UPRIGHT.get(_orientation(image))
    return image if method is None else image.transpose(method)


def _to_8_bit(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
    """16-bit grey (modes I;16, I) to L by its high byte, as Pillow itself does for 16-bit RGB."""
    if image.mode == "F":
        raise ImageError(
            f"{path}: expected 8 or 16 bits a channel, found floating point. Save it as 8-bit PNG."
        )
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise ImageError(f"{path}: expected 8 or 16 bits a channel, found 32. Save it as 8-bit PNG.")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _info(image: Image.Image) -> ImageInfo:
    orientation = _orientation(image)
    width, height = image.size if orientation < 5 else image.size[::-1]
    transparent = _has_alpha(image) and bool((np.asarray(image.convert("RGBA"))[..., 3] < 255).any())
    return ImageInfo(height, width, image.mode, orientation, transparent)


def image_info(path: str | os.PathLike[str]) -> ImageInfo:
    """Read a file's header. Pixels are decoded only for PNG files, whose EXIF block may follow them, and for transparency.

    Raises ImageError when the file is no readable image.
    """
    with _open(path) as image:
        return _info(image)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) in px after EXIF orientation; see ``image_info``."""
    info = image_info(path)
    return info.height, info.width


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a photograph as uint8 (H, W, 3) BGR, upright.

    Grey, palette, 1-bit and CMYK files become colour; transparency is laid over white; 16 bits become 8 by their
    high byte; EXIF orientation is applied. Raises ImageError when the file cannot be read, is cut short, or has
    floating-point or 32-bit pixels.
    """
    with _open(path) as image:
        image.load()
        upright = _to_8_bit(turn_upright(image), path)
        if _has_alpha(upright):
            rgba = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        rgb = np.asarray(upright.convert("RGB"))
    return np.ascontiguousarray(rgb[:, :, ::-1])


def read_reduced(path: str | os.PathLike[str], least_side: int) -> tuple[ImageInfo, np.ndarray]:
    """What ``image_info`` tells, and the photograph as uint8 (H, W) grey, upright, as small as can be had cheaply.

    Both sides stay at least ``least_side`` px where the file has them. JPEG files are decoded at 1/2, 1/4 or 1/8 scale
    (libjpeg's draft mode); other formats at full size. The whole file is read, so a truncated one raises ImageError.
    """
    with _open(path) as image:
        info = _info(image)
        image.draft("L", (least_side, least_side))
        image.load()
        return info, np.asarray(_to_8_bit(turn_upright(image), path).convert("L"))


def read_grey(path: str | os.PathLike[str], least_side: int) -> np.ndarray:
    """The picture of ``read_reduced``."""
    return read_reduced(path, least_side)[1]


def read_mask_values(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a mask file as uint8 (H, W), 0 to 255, upright, before any threshold.

    Palette indices are looked up (some HAM10000 masks store white as index 0), colours become luminance,
    transparency is ignored, 16 bits become 8. Raises ImageError as ``read_image`` does.
    """
    with suppress(OSError):  # left to Pillow, to be said as for all files
        if (values := decode_grey_png(Path(path).read_bytes())) is not None:
            return values
    with _open(path) as image:
        image.load()
        upright = _to_8_bit(turn_upright(image), path)
        if upright.mode not in {"L", "1"}:
            upright = upright.convert("RGB")
        return np.asarray(upright if upright.mode == "L" else upright.convert("L"))


def two_low_values(values: np.ndarray) -> tuple[int, int] | None:
    """The two values of a mask, uint8 (H, W), that holds no others and none above 128, such as 0 and 1; else None."""
    if 0 < values.max() <= MASK_THRESHOLD and len(found := np.unique(values)) == 2:
        return int(found[0]), int(found[1])
    return None


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a mask file as bool (H, W): True where its value is above 128 of 255. See ``read_mask_values``.

    Raises:
        ImageError: as ``read_image``; a mask of two values that are both below, which would be taken for empty.
    """
    values = read_mask_values(path)
    if (low := two_low_values(values)) is not None:
        raise ImageError(
            f"{path}: expected a mask of 0 and 255, found the values {low[0]} and {low[1]}. Store it with 0 and 255"
        )
    return values > MASK_THRESHOLD


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (same suffix); on success it takes the place of ``path`` at once.

    The folder is made if need be. When the block raises, the temporary file is removed and ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{os.urandom(4).hex()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(*folders: str | os.PathLike[str]) -> None:
    """Delete the temporary files of ``atomic_write`` in folders, and below: what processes leave that are killed at it.

    Only for where nobody writes at the time. A folder need not exist.
    """
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in filter(_TEMPORARY.fullmatch, names):
                Path(place, name).unlink(missing_ok=True)


def write_image(path: str | os.PathLike[str], pixels: np.ndarray, quality: int = 95) -> None:
    """Write uint8 (H, W, 3) BGR, uint8 (H, W) grey, or bool (H, W) as 0/255, atomically.

    The suffix chooses the format; ``quality`` (1 to 100) is for JPEG. Raises ImageError for a suffix OpenCV cannot write.
    """
    path = Path(path)
    if pixels.dtype == bool:
        pixels = pixels.view(np.uint8) * np.uint8(255)
    if pixels.ndim == 2 and path.suffix.lower() == ".png" and pixels.dtype == np.uint8:
        with atomic_write(path) as temporary:
            temporary.write_bytes(encode_grey_png(pixels))
        return
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix.lower() in {".jpg", ".jpeg"} else []
    try:
        _, encoded = cv2.imencode(path.suffix, pixels, options)
    except cv2.error as error:
        raise ImageError(
            f"{path}: cannot write an image of shape {pixels.shape} as '{path.suffix}': {error}"
        ) from error
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
