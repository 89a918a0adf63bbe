"""Arrays from pickles of strangers: nothing but arrays comes in, and nothing runs.

SMPL's models and 3DPW's sequences are pickles, and whoever unpickles a file lets it call what it
names, with what it likes: NumPy's own functions, so called, write where they may not. So here a
pickle calls nothing. It is read into a tree in which every call is written down, and of these the
few that mean an array are then done, with sizes checked, by us.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.images import show

LARGEST = 1 << 30
"""Bytes of a file; 3DPW's largest has a tenth of it. What comes of it has no more than twice."""
STEPS = 1_000_000
"""Opcodes of a file: a byte of one can make a hundred in memory. Arrays take few."""
THING = 1 << 14
"""Bytes that a number, a string or a list is counted as, so that no more than 131,072 are made."""
KIND = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU]\d+|O8?)")
DAMAGE = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, AttributeError),
    *(IndexError, MemoryError, OverflowError, RecursionError, struct.error),
)
"""What a pickle that is none, or half of one, makes the reader raise."""


def load_arrays(path: Path) -> dict[str, Any]:
    """What a pickled dictionary holds: arrays, numbers, strings, lists and dictionaries of them.

    Written by Python 2 or 3. Sparse matrices come dense.

    Raises:
        ValueError: anything else in it, a damaged file, or one of more than a gigabyte.
        OSError: it cannot be read.
    """
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{show(path)}: over a gigabyte; this is no such file")
    try:
        found = _Maker().made(_Reader(io.BytesIO(path.read_bytes()), encoding="latin1").load())
    except DAMAGE as error:
        why = show(str(error)[:200] or type(error).__name__)
        raise ValueError(f"{show(path)}: no pickle of arrays ({why}); get the file again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{show(path)}: holds a {type(found).__name__}, a dictionary was expected")
    return found


@dataclass(eq=False, slots=True)
class _Call:
    """What a pickle would have had done: a name called with arguments, and given a state."""

    name: str
    args: Any = None
    state: Any = None


class _Steps(dict[int, Any]):
    """Opcodes and what they do, for so many steps."""

    left = STEPS

    def __getitem__(self, code: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError(f"over {STEPS} steps")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Any:
        raise pickle.UnpicklingError(f"opcode {bytes([code])!r}, which no array needs")


class _Reader(pickle._Unpickler):
    """Reads numbers, strings, lists, tuples, dictionaries and `_Call`s, and calls nothing.

    The one in Python, whose opcodes can be replaced; and where a place in its memo is a key, not
    an index up to which memory is taken.
    """

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]

    def __init__(self, file: io.BytesIO, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self.dispatch = _Steps(OPCODES)  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> _Call:
        return _Call(f"{module}.{name}".replace("numpy._core.", "numpy.core."))  # NumPy 2, 1

    def call(self) -> None:
        args, name = self.stack.pop(), self.stack.pop().name
        if name == "copy_reg._reconstructor":  # how protocols 0 and 1 make an object of a class
            name, args = args[0].name, ()
        self.append(_Call(name, args))

    def build(self) -> None:
        state = self.stack.pop()
        self.stack[-1].state = state

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def set_items(self) -> None:
        self._put(self.pop_mark())

    def make_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._put(items)

    def _put(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        # Before they are hashed: that of a tuple of tuples can take for ever.
        if not all(type(key) in (str, int) for key in keys):
            raise pickle.UnpicklingError("a key that is neither a string nor a whole number")
        self.stack[-1].update(zip(keys, values, strict=True))

    def byte_array(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(size))  # no more than there is


REFUSED = b"".join(
    # What makes objects in other ways, or sets; no array needs them.
    (
        *(pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
        *(pickle.PERSID, pickle.BINPERSID, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
        *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
    )
)
OPCODES: dict[int, Any] = {
    **{code: act for code, act in pickle._Unpickler.dispatch.items() if code not in REFUSED},
    pickle.REDUCE[0]: _Reader.call,
    pickle.NEWOBJ[0]: _Reader.call,
    pickle.BUILD[0]: _Reader.build,
    pickle.DICT[0]: _Reader.make_dict,
    pickle.SETITEM[0]: _Reader.set_item,
    pickle.SETITEMS[0]: _Reader.set_items,
    pickle.BYTEARRAY8[0]: _Reader.byte_array,
}


class _Maker:
    """Makes arrays of the calls in a tree, each once, and refuses all other calls."""

    def __init__(self) -> None:
        self.room = 2 * LARGEST
        self.known: dict[_Call, Any] = {}

    def made(self, value: Any) -> Any:
        self._take(THING)
        if isinstance(value, _Call):
            if value not in self.known:
                self.known[value] = self._call(value)
            return self.known[value]
        if isinstance(value, dict):
            return {key: self.made(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)([self.made(item) for item in value])
        return value  # the reader gives numbers, strings and None besides

    def _take(self, size: int) -> None:
        """Before memory is: a small file can name a large thing, and one thing often."""
        self.room -= size
        if self.room < 0:
            raise ValueError("it unfolds to gigabytes")

    def _call(self, call: _Call) -> Any:
        match call.name, call.args, call.state:
            case "numpy.core.multiarray._reconstruct", tuple(), (_, shape, kind, fortran, data):
                return self._array(shape, kind, data, "F" if fortran else "C")
            case "numpy.core.numeric._frombuffer", (data, kind, shape, "C" | "F" as order), None:
                return self._array(shape, kind, data, order)
            case "numpy.core.multiarray.scalar", (kind, data), None:
                return self._array((), kind, data)[()]
            case (
                "scipy.sparse.csc.csc_matrix" | "scipy.sparse._csc.csc_matrix",
                tuple(),
                {"_shape": shape, "data": data, "indices": rows, "indptr": starts},
            ):
                return self._dense(shape, *(self.made(part) for part in (data, rows, starts)))
            case "chumpy.ch.Ch", tuple(), {"x": array}:  # besides caches and names of parents
                return self.made(array)
            case "_codecs.encode", (str(text), "latin1"), None:  # bytes, in protocols before 3
                self._take(len(text))
                return text.encode("latin1")
            case "__builtin__.bytes", (), None:  # none of them
                return b""
        raise ValueError(f"it names {call.name}, which is no array as NumPy writes one")

    def _array(self, shape: Any, kind: Any, data: Any, order: Any = "C") -> np.ndarray:
        dtype, count = _dtype(kind), _count(shape)
        if not dtype.hasobject:
            return self._numbers(dtype, count, data).reshape(shape, order=order)
        self._take(8 * count)
        if not isinstance(data, list) or len(data) != count:
            raise ValueError(f"{count} objects that are no list of so many")
        found = np.empty(count, object)
        for i, item in enumerate(data):
            found[i] = self.made(item)
        return found.reshape(shape, order=order)

    def _numbers(self, dtype: np.dtype, count: int, data: Any) -> np.ndarray:
        data = self.made(data)
        self._take(count * dtype.itemsize)
        if isinstance(data, str):  # bytes of Python 2
            data = data.encode("latin1")
        if not isinstance(data, bytes) or len(data) != count * dtype.itemsize:
            raise ValueError(f"an array of {count} × {dtype.itemsize} bytes that holds others")
        if dtype.kind == "b":  # NumPy relies on it that they are 0 or 1
            return np.frombuffer(data, np.uint8).astype(bool)
        if dtype.kind == "U":
            codes = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
            if (codes > sys.maxunicode).any():
                raise ValueError("letters that are none")
        return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))

    def _dense(self, shape: Any, data: Any, rows: Any, starts: Any) -> np.ndarray:
        """Of a matrix that is kept column by column: numbers, their rows, each column's first."""
        size = _count(shape)
        self._take(8 * size + 24 * len(data))
        height, width = shape
        if (
            any(part.ndim != 1 for part in (data, rows, starts))
            or not {rows.dtype.kind, starts.dtype.kind} <= set("iu")
            or not len(rows) == len(data) == starts[-1]
            or len(starts) != width + 1
            or starts[0] != 0
            or (starts[1:] < starts[:-1]).any()
        ):
            raise ValueError("a sparse matrix whose parts do not fit")
        columns = np.repeat(np.arange(width), np.diff(starts.astype(np.int64)))
        # Rows that the matrix lacks are a ValueError.
        places = np.ravel_multi_index((rows.astype(np.int64), columns), (height, width))
        return np.bincount(places, data.astype(np.float64), size).reshape(height, width)


def _dtype(kind: Any) -> np.dtype:
    """Of its name and the byte order in its state; nothing else of the state is looked at."""
    match kind:
        case _Call("numpy.dtype", (str(name), *_), (_, "<" | ">" | "|" | "=" as order, *_)):
            if KIND.fullmatch(name):
                return np.dtype(order + name.lstrip("<>|="))
    raise ValueError("an array of other things than numbers and strings")


def _count(shape: Any) -> int:
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n <= LARGEST for n in shape):
        raise ValueError("a shape that is none")
    return math.prod(shape)
