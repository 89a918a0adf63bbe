"""Arrays from pickles of strangers: nothing but arrays comes in, and nothing runs.

SMPL's models and 3DPW's sequences are pickles, and whoever unpickles a file lets it call what it
names. Here it may name what an array is made of, and no more.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray
from scipy import sparse

from data.images import show

LARGEST = 1 << 30
"""Bytes of a file; 3DPW's largest has a tenth of it."""


class Chumpy:
    """Stands in for chumpy's arrays, which the first SMPL files hold: the array is in its state."""

    def __setstate__(self, state: Any) -> None:
        self.array = np.asarray(state["x"])


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode("latin1")


_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since NumPy 2
ADMITTED: dict[tuple[str, str], Any] = {
    **{(core, "_reconstruct"): multiarray._reconstruct for core in _CORES},
    **{(core, "scalar"): multiarray.scalar for core in _CORES},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("scipy.sparse.csc", "csc_matrix"): sparse.csc_matrix,
    ("scipy.sparse._csc", "csc_matrix"): sparse.csc_matrix,
    ("chumpy.ch", "Ch"): Chumpy,
    ("_codecs", "encode"): _latin1,
}
DAMAGE = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, AttributeError),
    *(IndexError, ImportError, MemoryError, OverflowError),
)
"""What a pickle that is none, or half of one, makes the reader raise."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return ADMITTED[module, name]


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
        found = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except DAMAGE as error:
        raise ValueError(
            f"{show(path)}: no pickle of arrays ({error}); get the file again"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"{show(path)}: holds a {type(found).__name__}, a dictionary was expected")
    return {key: _plain(value) for key, value in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Chumpy):
        return value.array
    return value.toarray() if sparse.issparse(value) else value
