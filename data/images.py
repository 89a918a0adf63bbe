"""The one codec file: every picture the project reads or writes passes through here.

Whatever is on disk (8 or 16 bits, grey, palette, CMYK, turned by EXIF, with alpha) comes out as
one kind of thing, a `Picture`: upright, height × width × channels, RGB channel order. Embedded
colour profiles are not applied. Only the first frame of an animation or page of a TIFF is read.
"""

from __future__ import annotations

import os
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base as ExifTag
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"})
MAX_PIXELS = 200_000_000
FULL_SCALE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}
"""The value of white in each depth that pixels have here."""

# Pillow's readers are called directly, chosen by the first bytes. Image.open would try its whole
# list of formats and would apply Image.MAX_IMAGE_PIXELS, a process-wide setting that must not be
# changed under other threads; the limit here is an argument instead.
_READERS: tuple[tuple[str, bytes, type[ImageFile]], ...] = (
    ("PNG", b"\x89PNG\r\n\x1a\n", PngImageFile),
    ("JPEG", b"\xff\xd8\xff", JpegImageFile),
    ("TIFF", b"II*\0", TiffImageFile),
    ("TIFF", b"MM\0*", TiffImageFile),
    ("TIFF", b"II+\0", TiffImageFile),  # BigTIFF
    ("TIFF", b"MM\0+", TiffImageFile),
    ("BMP", b"BM", BmpImageFile),
    ("WebP", b"RIFF", WebPImageFile),
    ("GIF", b"GIF8", GifImageFile),
)

_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANES = 258, 262, 284  # TIFF tags

# How each EXIF orientation is undone: (transpose, then flip rows, then flip columns).
_UPRIGHT = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]


class ImageError(ValueError):
    """A picture cannot be used; the message is one line: which one, what is wrong, the cure."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture, upright.

    `pixels` is H×W×1 (grey) or H×W×3 (RGB), uint8, uint16 (full scale 65535) or float32 (full
    scale 1.0); `alpha` is H×W of the same dtype, or None; `name` is what messages call it; `frame`
    is (video, number from 0) of a frame of a video, or None.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    name: str = "the picture"
    frame: tuple[str, int] | None = None

    def rgb8(self) -> NDArray[np.uint8]:
        """The picture as uint8 H×W×3 RGB in [0, 255], the form every detector takes.

        uint16 is divided by 257 and rounded; float32 is taken as [0, 1], a little overshoot
        clipped; grey is replicated; alpha is ignored, so transparent pixels show the colour
        stored under them. ImageError if float pixels are not finite or clearly not in [0, 1].
        """
        pixels = self.pixels
        if pixels.dtype == np.uint16:
            pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        elif pixels.dtype == np.float32:
            check_unit(pixels, self.name)
            pixels = np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), np.uint8)


def read(path: str | Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a PNG, JPEG, TIFF, BMP, WebP or GIF file; the content decides, not the suffix.

    EXIF orientation is applied. Palettes and CMYK become RGB, 1-bit pictures become grey; 16-bit
    and float pictures keep their depth. The size is checked in the header, before any decoding.
    Safe to call from several threads. Every failure is an ImageError.
    """
    name = show(path)
    with open_regular(Path(path), name) as file:
        image = _header(file, name)
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                f"{name}: {width}×{height} = {width * height:,} pixels, more than the limit of "
                f"{max_pixels:,}; raise it with --max-pixels {width * height} (max_pixels in "
                "Python) or cut the picture up"
            )
        try:
            pixels, alpha = _decode(image, file, name)
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # damaged data makes decoders raise almost anything
            raise ImageError(
                f"{name}: is damaged or cut short and cannot be decoded ({_line(error)}); "
                "copy or export it again"
            ) from error
    if pixels.dtype == np.float32:
        _check_finite(pixels, name)
    return Picture(pixels, alpha, name)


def read_rgb(path: str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """`read(path).rgb8()`: uint8 H×W×3 RGB. ImageError on every failure."""
    return read(path, max_pixels).rgb8()


def read_mask(path: str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read a defect mask: uint8 H×W, 1 where any colour channel is above 0, else 0.

    A palette mask is judged by the colours its palette gives, as a viewer shows it, not by the
    index: programs that save black and white as a palette may number white first. Alpha is
    ignored. A JPEG is refused, because its compression leaves values above 0 around each region.
    """
    with open_regular(Path(path), show(path)) as file:
        if file.read(3) == b"\xff\xd8\xff":
            raise ImageError(
                f"{show(path)}: a mask in JPEG is blurred by its compression; save it as PNG"
            )
    return _u8((read(path, max_pixels).pixels > 0).any(axis=2).astype(np.uint8))


def write_png(path: str | Path, array: Pixels) -> None:
    """Write uint8 or uint16, H×W, H×W×1 (grey), H×W×3 (RGB) or H×W×4 (RGBA), as PNG.

    The file appears whole or not at all. ValueError for other arrays; OSError if the disk fails.
    """
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{show(path)}: PNG holds uint8 or uint16, not {array.dtype}; convert it")
    _write(path, ".png", array, [])


def write_jpeg(path: str | Path, rgb: NDArray[np.uint8], quality: int = 90) -> None:
    """Write uint8 H×W (grey) or H×W×3 (RGB) as JPEG; whole or not at all, errors as write_png."""
    if rgb.dtype != np.uint8 or (rgb.ndim == 3 and rgb.shape[2] == 4):
        raise ValueError(f"{show(path)}: JPEG holds uint8 grey or RGB, nothing else; convert it")
    _write(path, ".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])


def write_tiff(path: str | Path, array: Pixels) -> None:
    """Write float32, shapes as `write_png`, as TIFF; whole or not at all."""
    if array.dtype != np.float32:
        raise ValueError(f"{show(path)}: TIFF is for float32 here, not {array.dtype}; use PNG")
    _write(path, ".tif", array, [])


def resize(rgb: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Squash uint8 H×W×3 to size×size×3; training and inference both call this and nothing else.

    An axis that shrinks is averaged over areas (no aliasing, so a thin scratch fades but never
    disappears between samples); one that grows is bilinear (no overshoot at sharp edges).
    """
    height, width = rgb.shape[:2]
    small = (min(width, size), min(height, size))
    if small != (width, height):
        rgb = _u8(cv2.resize(rgb, small, interpolation=cv2.INTER_AREA))
    if small != (size, size):
        rgb = _u8(cv2.resize(rgb, (size, size), interpolation=cv2.INTER_LINEAR))
    return rgb


def to_square(rgb: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Fit uint8 H×W×3 into side×side×3, in the middle, black beside it; and how pixels moved.

    The 3×3 matrix takes a place (x, y, 1) of the one, pixels counted from the upper left corner of
    the first, to its place in the other; times a camera's intrinsics it gives the new ones.
    """
    height, width = rgb.shape[:2]
    scale = side / max(height, width)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    left, top = (side - small[0]) // 2, (side - small[1]) // 2
    square = np.zeros((side, side, 3), np.uint8)
    square[top : top + small[1], left : left + small[0]] = cv2.resize(rgb, small, interpolation=how)
    return square, np.array([[scale, 0, left], [0, scale, top], [0, 0, 1]], np.float64)


def show(path: str | Path) -> str:
    """A path as messages print it: as it is, or quoted if it would break the line."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def open_regular(path: Path, name: str) -> BinaryIO:
    """Open a regular, non-empty file; ImageError says why there is none."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{name}: is a folder; name the files inside it")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{name}: is not a regular file; copy it into one")
        if status.st_size == 0:
            raise ImageError(f"{name}: is empty (0 bytes); copy or export it again")
        return open(path, "rb")
    except FileNotFoundError as error:
        if path.is_symlink():
            raise ImageError(
                f"{name}: is a broken link to {show(os.readlink(path))}; restore the target or "
                "remove the link"
            ) from error
        raise ImageError(f"{name}: does not exist; check the spelling") from error
    except PermissionError as error:
        raise ImageError(
            f"{name}: cannot be read, permission denied; give this user the right to read it"
        ) from error
    except OSError as error:
        raise ImageError(
            f"{name}: cannot be opened ({_line(error)}); check the path and the disk"
        ) from error


def _header(file: BinaryIO, name: str) -> ImageFile:
    """Read the header only: the size and mode are known, no pixel is decoded yet."""
    kind = "file"
    try:
        start = file.read(12)
        file.seek(0)
        for kind, magic, reader in _READERS:
            if start.startswith(magic) and (kind != "WebP" or start[8:] == b"WEBP"):
                return reader(file)
    except MemoryError:
        raise
    except Exception as error:  # damaged headers make readers raise almost anything
        raise ImageError(
            f"{name}: the {kind} header cannot be used, it is damaged, claims a size of 0 or a "
            f"layout nobody reads ({_line(error)}); export it again as 8 or 16-bit PNG"
        ) from error
    kinds = ", ".join(dict.fromkeys(kind for kind, _, _ in _READERS))
    raise ImageError(
        f"{name}: is not a picture, whatever its name says; supply one of {kinds}, or remove it"
    )


def _decode(image: ImageFile, file: BinaryIO, name: str) -> tuple[Pixels, Pixels | None]:
    """Decode to H×W×{1,3} and alpha H×W or None, upright."""
    raw = str(image.tile[0][3]) if image.tile else ""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if tags.get(_PLANES) == 2 and max(tags.get(_BITS_PER_SAMPLE, (8,))) > 8:
        raise ImageError(  # Pillow and OpenCV both read it, and both wrongly
            f"{name}: keeps the 16 bits of each colour in a plane of its own; save it with"
            " interleaved colours (PlanarConfiguration 1)"
        )
    if ";16" in raw and image.mode in ("RGB", "RGBA", "LA"):
        return _decode_deep(image, file, grey="LA;" in raw)
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        values = np.array(image).astype(np.uint16)[..., None]
        # Pillow turns white-is-zero over for 8 bits, and leaves it for 16.
        return (65535 - values if tags.get(_PHOTOMETRIC) == 0 else values), None
    if image.mode == "F":
        return np.array(image)[..., None], None
    if image.mode == "I":
        raise ImageError(
            f"{name}: holds signed or 32-bit integers, whose full scale is unknown; convert it to "
            "8 or 16 bits"
        )
    grey = image.mode in ("1", "L", "LA", "La")
    mode = ("L" if grey else "RGB") + ("A" if image.has_transparency_data else "")
    array = np.array(image.convert(mode))
    if mode in ("LA", "RGBA"):
        return array[..., :-1], array[..., -1]
    return (array[..., None] if grey else array), None


def _decode_deep(
    image: ImageFile, file: BinaryIO, grey: bool
) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None]:
    """Colour with 16 bits per channel, which Pillow would cut to 8: OpenCV decodes it."""
    # OpenCV's TIFF reader turns the picture itself, its PNG reader does not.
    turned = isinstance(image, TiffImageFile)
    orientation = 1 if turned else image.getexif().get(ExifTag.Orientation, 1)
    file.seek(0)
    decoded = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16 or decoded.ndim != 3:
        raise ValueError("no 16-bit pixels found")
    transpose, rows, columns = _UPRIGHT.get(orientation, (False, False, False))
    decoded = decoded.swapaxes(0, 1) if transpose else decoded
    decoded = decoded[:: -1 if rows else 1, :: -1 if columns else 1]
    pixels = decoded[..., :1] if grey else decoded[..., 2::-1]  # BGR to RGB
    alpha = np.array(decoded[..., 3], np.uint16) if decoded.shape[2] == 4 else None
    return np.array(pixels, np.uint16, order="C"), alpha


def check_unit(pixels: Pixels, name: str = "the picture") -> None:
    """ImageError if float pixels are not finite or, but for a little overshoot, not in [0, 1]."""
    _check_finite(pixels, name)
    low, high = float(pixels.min()), float(pixels.max())
    if low < -0.5 or high > 1.5:
        raise ImageError(
            f"{name}: float pixels reach from {low:g} to {high:g}, expected 0 to 1; "
            "divide them by their full scale"
        )


def _check_finite(pixels: Pixels, name: str) -> None:
    if not np.isfinite(pixels).all():
        raise ImageError(f"{name}: has pixels that are NaN or infinite; replace them by numbers")


def _write(path: str | Path, suffix: str, array: Pixels, options: list[int]) -> None:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(f"{show(path)}: shape {array.shape} is not H×W, H×W×1, ×3 or ×4")
    if array.ndim == 3 and array.shape[2] > 1:
        array = array[..., [2, 1, 0, 3][: array.shape[2]]]  # OpenCV wants BGR
    try:
        done, encoded = cv2.imencode(suffix, np.ascontiguousarray(array), options)
    except cv2.error:
        done = False
    if not done:
        raise ValueError(
            f"{show(path)}: {suffix[1:].upper()} cannot hold shape {array.shape}; cut it up"
        )
    path = Path(path)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(encoded.tobytes())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _u8(array: object) -> NDArray[np.uint8]:
    """The stubs of OpenCV and NumPy forget what these calls return."""
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.uint8
    return array


def _line(error: Exception) -> str:
    """The first line of an error's text, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
