"""Arrays from .npy and .npz files of strangers: numbers alone, and no more of them than is said.

A megabyte of zeros, packed, can unfold to a gigabyte. So what an array says of its size is looked
at before it is unpacked, and only then does NumPy read it.
"""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from data.images import open_regular, show

DAMAGE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError),
    *(OSError, MemoryError, RuntimeError, SyntaxError, struct.error, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What a file that is none, or half of one, makes NumPy and zipfile raise."""


def load_npz(path: Path, names: Iterable[str], most: int) -> dict[str, NDArray[Any]]:
    """The arrays of these names, as far as an .npz has them; others in it are not looked at.

    Args:
        most: bytes that they have together, unpacked.

    Raises:
        ValueError: a file that is damaged or is none, arrays of other things than numbers, or more
            of them.
    """
    found: dict[str, NDArray[Any]] = {}
    with open_regular(path, show(path)) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = {member.filename: member for member in archive.infolist()}
                for name in names:
                    member = members.get(f"{name}.npy")
                    if member is not None:
                        found[name] = _member(archive, member, most)
                        most -= found[name].nbytes
        except DAMAGE as error:
            why = _line(error)
            raise ValueError(f"{show(path)}: not a whole .npz file ({why}); get it again") from None
    return found


def load_npy(path: Path, most: int) -> NDArray[Any]:
    """The array in an .npy of at most so many bytes.

    Raises:
        ValueError: as `load_npz`.
    """
    with open_regular(path, show(path)) as file:
        try:
            return _array(file, most)
        except DAMAGE as error:
            why = _line(error)
            raise ValueError(f"{show(path)}: no array of NumPy ({why}); get it again") from None


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> NDArray[Any]:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is packed in a way that NumPy does not write")
    with archive.open(member) as file:
        try:
            return _array(file, most)
        except ValueError as error:
            raise ValueError(f"{member.filename}: {error}") from None


def _array(file: IO[bytes], most: int) -> NDArray[Any]:
    # Headers of later versions may be of gigabytes themselves; arrays of numbers need none.
    if npy.read_magic(file) != (1, 0):
        raise ValueError("a header as no array of numbers has it")
    shape, _, dtype = npy.read_array_header_1_0(file)
    if dtype.kind not in "iuf":
        raise ValueError(f"{dtype} are no numbers")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size > most:
        raise ValueError(f"{size:,} bytes, of which there may be 0 to {most:,}")
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)


def _line(error: BaseException) -> str:
    return show((str(error).splitlines() or [type(error).__name__])[0][:200])
