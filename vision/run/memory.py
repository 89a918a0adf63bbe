"""The memory of a run: freed memory is kept, and an error says whether memory ran out."""

from __future__ import annotations

import ctypes
import sys

_SAID = (
    "out of memory",  # CUDA, MPS
    "alloc_failed",  # cuBLAS, cuDNN
    "not enough memory",  # the CPU's allocator
    "allocate memory",
)


# Names of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Have the main thread reuse the memory of tensors it freed, until the process ends.

    For commands, not for an import. glibc returns every block above 32 MB to the kernel, which
    clears it page by page when the next tensor takes it: half the time of a large picture on a CPU.
    Other C libraries have no such call.
    """
    if sys.platform == "linux" and (adjust := getattr(ctypes.CDLL(None), "mallopt", None)):
        adjust(_M_MMAP_MAX, 0)
        adjust(_M_TRIM_THRESHOLD, 2**31 - 1)


def out_of_memory(error: BaseException) -> bool:
    """Beside CUDA's own allocator, torch says so in words only."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # not imported for a job that does without
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(words in said for words in _SAID)
