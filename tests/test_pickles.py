"""Pickles of strangers: what NumPy writes comes back, whatever else is refused and does nothing."""

from __future__ import annotations

import pickle
import sys
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bodies import SMPL_PARENTS, SMPL_SIZES, Thief, arrays, python2, write_threedpw
from numpy._core import multiarray
from scipy import sparse

from data.pickles import load_arrays

ALL = {
    "numbers": np.arange(6.0).reshape(2, 3),
    "by column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big end first": np.arange(3, dtype=">i4"),
    "none": np.zeros((0, 3)),
    "one": np.array(3.0),
    "yes or no": np.array([True, False]),
    "words": np.array(["nü", "d"]),
    "bytes": np.array([b"ab", b"c"]),
    "objects": np.array([[1, "a"], [None, [2.5, np.ones(2)]]], object),
    "scalar": np.float32(3),
    "sparse": sparse.csc_matrix([[0, 2.0, 0], [1, 0, 3]]),
    "plain": {"k": (1, 2.5, None, "x", True, 2**70, [])},
    7: "a number as key",
}


def load(content: bytes, folder: Path) -> dict[Any, Any]:
    path = folder / "a.pkl"
    path.write_bytes(content)
    return load_arrays(path)


def same(found: Any, wanted: Any) -> None:
    if sparse.issparse(wanted):
        wanted = wanted.toarray()
    assert type(found) is type(wanted)
    if isinstance(wanted, np.ndarray) and wanted.dtype == object:
        assert found.shape == wanted.shape
        same(found.ravel().tolist(), wanted.ravel().tolist())
    elif isinstance(wanted, np.ndarray):
        assert found.dtype == wanted.dtype.newbyteorder("=")
        assert found.flags.writeable
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, list | tuple):
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        same(list(found.values()), list(wanted.values()))
    else:
        assert found == wanted


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_back(protocol: int, tmp_path: Path) -> None:
    same(load(pickle.dumps(ALL, protocol), tmp_path), ALL)


@pytest.mark.parametrize("protocol", range(3))
def test_arrays_of_python_2_come_back(protocol: int, tmp_path: Path) -> None:
    data = {key: value for key, value in ALL.items() if key != "words"}  # no Unicode there
    same(load(python2(data, protocol), tmp_path), data)


@pytest.mark.parametrize("protocol", range(3))
def test_a_body_of_chumpy(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first SMPL files: an array in chumpy's class among its caches, a sparse regressor."""

    class Ch:
        def __init__(self, x: np.ndarray) -> None:
            self.x, self._dirty_vars, self._status = x, {"x"}, {"r": None}

    Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
    chumpy = ModuleType("chumpy.ch")
    chumpy.Ch = Ch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "chumpy", ModuleType("chumpy"))
    monkeypatch.setitem(sys.modules, "chumpy.ch", chumpy)
    small = {"v_template": (50, 3), "shapedirs": (50, 3, 4), "J_regressor": (24, 50)}
    data: dict[str, Any] = arrays({**small, "kintree_table": (2, 24)}, SMPL_PARENTS)
    written = data | {
        "shapedirs": Ch(data["shapedirs"]),
        "J_regressor": sparse.csc_matrix(data["J_regressor"]),
    }
    content = python2(written, protocol)
    assert b"scipy.sparse.csc\n" in content
    assert b"numpy.core.multiarray\n" in content
    found = load(content, tmp_path)
    for name, array in data.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_film_loads_fast(tmp_path: Path) -> None:
    """A minute of 3DPW with two people, and a body model: bytes are read in one go."""
    film = write_threedpw(tmp_path, frames=3)
    frames = 1800
    film["poses"] = [np.zeros((frames, 72))] * 2
    film["poses2d"] = [np.random.default_rng(i).normal(size=(frames, 3, 18)) for i in range(2)]
    film["jointPositions"] = [np.ones((frames, 72)) + i for i in range(2)]
    content = python2({**film, **arrays(SMPL_SIZES, SMPL_PARENTS)})
    assert len(content) > 20e6
    start = time.perf_counter()
    load(content, tmp_path)
    assert time.perf_counter() - start < 5


# --- attacks


class Called:
    """Its pickle calls a function, and gives what comes of it a state."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.parts


def dtype(name: str, state: Any = (3, "|", None, None, None, -1, -1, 0)) -> Called:
    return Called(np.dtype, name, False, True, state=state)


def array(kind: Any, shape: Any, data: Any) -> Called:
    state = (1, shape, kind, False, data)
    return Called(multiarray._reconstruct, np.ndarray, (0,), b"b", state=state)


def forged(**parts: Any) -> sparse.csc_matrix:
    matrix = sparse.csc_matrix(np.eye(3))
    for name, part in parts.items():
        object.__setattr__(matrix, name, part)
    return matrix


def nested(depth: int) -> Any:
    inner: Any = []
    for _ in range(depth):
        inner = [inner]
    return inner


def unfolding(kind: Any) -> Any:
    inner: Any = 1
    for _ in range(60):
        inner = kind([inner, inner])
    return inner


itself: list[Any] = []
itself.append(itself)
LITTLE = (3, "<", None, None, None, -1, -1, 0)
FORGED_FLAGS = (3, "|", None, None, None, -1, -1, 0)

ATTACKS = {
    "a call": Called(eval, "open('stolen', 'w')"),
    "a file": Thief(),
    "pointers": Called(np.ndarray, (1, 10), np.dtype("O"), b"A" * 80),
    "what memory held": Called(np.ndarray, (50,)),
    "objects of bytes": array(dtype("O8", FORGED_FLAGS), (2,), b"A" * 16),
    "a scalar of pointers": Called(multiarray.scalar, dtype("O8"), b"A" * 8),
    "a structure": array(dtype("V8", (3, "|", None, ("f",), {"f": 1}, 8, 1, 0)), (1,), b"A" * 8),
    "a dtype alone": np.dtype("f8"),
    "a class": np.ndarray,
    "a function": multiarray._reconstruct,
    "an array without its numbers": Called(multiarray._reconstruct, np.ndarray, (0,), b"b"),
    "too few bytes": array(dtype("f8", LITTLE), (1000,), b"A" * 8),
    "too many bytes": array(dtype("f8", LITTLE), (1,), b"A" * 16),
    "terabytes": array(dtype("f8", LITTLE), (2**40,), b""),
    "many terabytes": array(dtype("f8", LITTLE), (2**30,) * 60, b""),
    "a negative shape": array(dtype("f8", LITTLE), (-1, -1), b"A" * 8),
    "a shape of strings": array(dtype("f8", LITTLE), ("1",), b"A" * 8),
    "words of nothing": array(dtype("U0", LITTLE), (5,), b""),
    "letters that are none": array(dtype("U1", LITTLE), (1,), b"\xff" * 4),
    "objects in another number": array(dtype("O8"), (1000,), [1]),
    "a call among objects": array(dtype("O8"), (1,), [Called(eval, "open('stolen', 'w')")]),
    "rows beyond the matrix": forged(indices=np.array([0, 1, 10**6])),
    "rows before it": forged(indices=np.array([0, -1, 2])),
    "columns of many": forged(indptr=np.array([0, 2**40, 2**40, 3])),
    "columns that go back": forged(indptr=np.array([0, 5, 0, 3])),
    "a column too many": forged(indptr=np.array([0, 1, 2, 2, 3])),
    "indices of halves": forged(indices=np.array([0.5, 1, 2])),
    "indices that are none": forged(indices=None),
    "a matrix of gigabytes": forged(_shape=(2**30, 3)),
    "a matrix of negative size": forged(_shape=(-3, 3)),
    "a set": {1, 2},
    "a key that is a tuple": {(1, 2): 3},
    "lists that unfold": unfolding(list),
    "tuples that unfold": unfolding(tuple),
    "a list in itself": itself,
    "a complex number": 1j,
    "another encoding": Called(__import__("_codecs").encode, "a", "rot13"),
}
RAW = {
    "a memo of gigabytes": b"}r\xff\xff\xff\x1f0.",
    "bytes that are not there": b"\x80\x05\x96" + b"\xff" * 5 + bytes(3) + b".",
    "a state for a list": b"}U\x01a]}b s.",
    "a class with a state": b"}U\x01acnumpy\nndarray\n}U\x01xK\x01sbs.",
    "an old object": b"}U\x01a(inumpy\nndarray\ns.",
    "an extension": b"}U\x01a\x82\x01s.",
    "a name in two lines": b"\x80\x04}\x8c\x01a\x8c\x03o\ns\x8c\x06system\x93s.",
    "no stack": b"s.",
    "half a number": b"J\x01.",
    "half a dictionary": b"}(U\x01au.",
    "a number of digits": b"I" + b"9" * 5000 + b"\n.",
}


@pytest.mark.parametrize("name", [*ATTACKS, *RAW, "a deep list"])
def test_attacks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the file; nothing is done, and no memory is taken."""
    monkeypatch.chdir(tmp_path)
    if name in RAW:
        content = RAW[name]
    elif name == "a deep list":
        content = b"}U\x01a" + b"(" * 100_000 + b"l" * 100_000 + b"s."
    else:
        content = pickle.dumps({"first": np.ones(2), "second": ATTACKS[name]}, 2)
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="no pickle of arrays") as caught:
            load_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.isprintable()
    assert not (tmp_path / "stolen").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_half_a_file(protocol: int, tmp_path: Path) -> None:
    """Cut anywhere, or with any byte changed, it loads or is a ValueError."""
    content = pickle.dumps({"a": np.arange(3.0), "b": [ALL["sparse"], "x"]}, protocol)
    draw = np.random.default_rng(protocol)
    for end in range(0, len(content), 7):
        with pytest.raises(ValueError, match="no pickle of arrays"):
            load(content[:end], tmp_path)
    for place, byte in zip(
        draw.integers(0, len(content), 300), draw.integers(0, 256, 300), strict=True
    ):
        changed = bytearray(content)
        changed[place] = byte
        with suppress(ValueError):
            load(bytes(changed), tmp_path)


def test_what_is_yes_is_one(tmp_path: Path) -> None:
    """A byte of 2 is true; NumPy counts with the byte."""
    found = load(pickle.dumps({"a": array(dtype("b1"), (2,), b"\x02\x00")}), tmp_path)["a"]
    assert found.view(np.uint8).tolist() == [1, 0]


def test_many_matrices_of_one(tmp_path: Path) -> None:
    """A thing that is named often is made once; many that unfold are refused."""
    one = sparse.csc_matrix((2000, 2000))
    found = load(pickle.dumps({"a": [one] * 10_000}), tmp_path)["a"]
    assert all(matrix is found[0] for matrix in found)
    many = [sparse.csc_matrix((2000, 2000)) for _ in range(100)]
    with pytest.raises(ValueError, match="it unfolds to gigabytes"):
        load(pickle.dumps({"a": many}), tmp_path)
