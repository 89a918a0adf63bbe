"""Freed memory is kept by commands."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from vision.run.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(25_000_000) * 2  # twice 100 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([touched() for _ in range(12)][-1])  # after some, the heap has room for all three
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_taken_again() -> None:
    def faults(how: str) -> int:
        call = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(call, check=True, capture_output=True, text=True).stdout)

    assert faults("keep") < 1000  # of 48,828 pages of 4 kB
