"""Arrays of strangers: what NumPy writes comes back; nothing unfolds beyond what is allowed."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.arrays import load_npy, load_npz

ALL = {
    "numbers": np.arange(6.0).reshape(2, 3),
    "by column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big end first": np.arange(3, dtype=">i4"),
    "half": np.ones(3, np.float16),
    "none": np.zeros((0, 3)),
    "one": np.array(3, np.uint8),
}
MEGABYTE = 1 << 20


def header(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    file = io.BytesIO()
    about = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


def packed(
    path: Path, content: bytes, name: str = "a.npy", how: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w", how) as file:
        file.writestr(name, content)
    return path


def refused(path: Path, most: int = MEGABYTE) -> str:
    """What is said of a file, in one line that names it."""
    with pytest.raises(ValueError) as caught:
        load_npz(path, ["a"], most) if path.suffix == ".npz" else load_npy(path, most)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_come_back(write: Any, tmp_path: Path) -> None:
    write(tmp_path / "a.npz", other=np.array([None]), **ALL)
    found = load_npz(tmp_path / "a.npz", [*ALL, "not there"], MEGABYTE)
    assert list(found) == list(ALL)
    for name, array in ALL.items():
        np.save(tmp_path / "a.npy", array)
        for one in (found[name], load_npy(tmp_path / "a.npy", MEGABYTE)):
            assert one.dtype == array.dtype
            np.testing.assert_array_equal(one, array)


def test_zeros_are_not_unpacked(tmp_path: Path) -> None:
    """64 MB that take 64 KB; of others than those asked for nothing is unpacked either."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(8 * MEGABYTE), b=np.ones(3))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    try:
        message = refused(path)
        assert "a.npy: 67,108,864 bytes, of which there may be 0 to 1,048,576" in message
        assert list(load_npz(path, ["b"], MEGABYTE)) == ["b"]
        assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    finally:
        tracemalloc.stop()
    assert len(load_npz(path, ["a"], 64 * MEGABYTE)["a"]) == 8 * MEGABYTE


def test_the_limit_is_of_all_together(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros(9), b=np.zeros(9))
    assert len(load_npz(path, ["a", "b"], 144)) == 2
    with pytest.raises(ValueError, match=r"b.npy: 72 bytes, of which there may be 0 to 71"):
        load_npz(path, ["a", "b"], 143)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (header((1 << 40,)), "8,796,093,022,208 bytes, of which there may be 0 to 1,048,576"),
        (header((1 << 40, 1 << 40)), "bytes, of which there may be"),  # beyond 64 bits
        (header((-1,)) + bytes(8), "-8 bytes"),
        (header((-1, -4)) + bytes(32), "32 bytes, of which"),
        (header((2,)) + bytes(9), ""),
        (header((2,), "|O") + bytes(16), "object are no numbers"),
        (header((2,), "|S4") + bytes(8), "are no numbers"),
        (header((2,), "<U1") + bytes(8), "are no numbers"),
        # A header of 4 GB.
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(99), "a header as no array of numbers has"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b" " * 0xFFFF, "is large"),
        (b"\x93NUMPY\x01\x00\x04\x00(1+(" + bytes(99), ""),
        (b"\x93NUMPY\x01\x00\xe8\x03" + b"-" * 1000, ""),
        (b"\x93NUMPY", ""),
        (b"text", ""),
    ],
)
def test_what_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    message = refused(tmp_path / "a.npy")
    assert "no array of NumPy (" in message
    assert why in message
    message = refused(packed(tmp_path / "a.npz", content))
    assert "not a whole .npz file (a" in message or not why
    assert why in message


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_pack(how: int, tmp_path: Path) -> None:
    path = packed(tmp_path / "a.npz", header((1,)) + bytes(8), how=how)
    assert "a.npy is packed in a way that NumPy does not write" in refused(path)


def test_no_memory_is_an_error_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(np.lib.format, "read_array", full)
    np.savez(tmp_path / "a.npz", a=np.ones(2))
    assert "not a whole .npz file (MemoryError); get it again" in refused(tmp_path / "a.npz")


def test_no_files(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "a.npz")
    (tmp_path / "b.npz").mkdir()
    assert "is a folder" in refused(tmp_path / "b.npz")
    os.mkfifo(tmp_path / "c.npy")  # which nobody writes to
    assert "is not a regular file" in refused(tmp_path / "c.npy")


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_half_a_file_and_changed_ones(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(path, a=np.arange(40.0))
    whole = path.read_bytes()
    for end in range(1, len(whole), 7):
        path.write_bytes(whole[:end])
        refused(path)
    draw = np.random.default_rng(0)
    for _ in range(400):
        changed = bytearray(whole)
        for place in draw.integers(len(whole), size=draw.integers(1, 4)):
            changed[place] = draw.integers(256)
        path.write_bytes(changed)
        with suppress(ValueError):  # and nothing else
            load_npz(path, ["a"], MEGABYTE)
