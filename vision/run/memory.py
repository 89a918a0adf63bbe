"""Whether an error says that memory ran out, whatever the device calls it."""

from __future__ import annotations

import sys

_SAID = (
    "out of memory",  # CUDA, MPS
    "alloc_failed",  # cuBLAS, cuDNN
    "not enough memory",  # the CPU's allocator
    "allocate memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Beside CUDA's own allocator, torch says so in words only."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # not imported for a job that does without
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(words in said for words in _SAID)
