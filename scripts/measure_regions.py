"""RAT's region attention against its dense form: time and memory of one layer's at 512×512.

    python scripts/measure_regions.py MAP.nii.gz

The attention of one layer of the published size (8 heads of 32 channels, 128×128 tokens) with the
labels of MAP, on one thread, a process each, so that each has a peak of its own. `dense` is what
the released code computes, but head by head, since the logits of all heads would be 8 GiB; `fused`
is the same by PyTorch's fused attention, with a mask for some queries at a time.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from bench import medians
from torch import Tensor

from data.regions import read_regions
from vision.layers.regions import Regions, region_attention

HEADS, WIDTH, STEP, ROUNDS = 8, 32, 4, 3
CHUNK = 1024
"""Queries of the fused form that share a mask."""
FORMS = ("dense", "fused", "regions")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("map", type=Path)
    parser.add_argument("--form", choices=("nothing", *FORMS))
    arguments = parser.parse_args()
    if arguments.form:
        return measure(arguments.map, arguments.form)
    found = {}
    for form in ("nothing", *FORMS):
        call = [sys.executable, __file__, str(arguments.map), "--form", form]
        told = subprocess.run(call, check=True, capture_output=True, text=True).stdout  # noqa: S603
        found[form] = [float(number) for number in told.split()]
    seconds = {form: found[form][0] for form in FORMS}
    memory = {form: found[form][1] - found["nothing"][1] for form in seconds}
    for form, took in seconds.items():
        print(f"{form}: {took:.2f} s, {memory[form]:.0f} MB beyond the inputs")
    for form in ("dense", "fused"):
        shares = (seconds["regions"] / seconds[form], memory["regions"] / memory[form])
        print("by region: {:.3f} of the time, {:.3f} of the memory of".format(*shares), form)
    print(f"largest difference {found['regions'][2]:.1e}")


@torch.inference_mode()
def measure(path: Path, form: str) -> None:
    """Print seconds, the peak of this process in MB, and the largest difference to the dense."""
    torch.set_num_threads(1)
    labels = torch.from_numpy(read_regions(path)[::STEP, ::STEP].copy()).flatten()[None].long()
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, labels.shape[1], HEADS, WIDTH) for _ in range(3))
    calls = {
        "nothing": lambda: q,
        "dense": lambda: dense(q, k, v, labels),
        "fused": lambda: fused(q, k, v, labels),
        "regions": lambda: region_attention(q, k, v, Regions(labels), HEADS**-0.5),
    }
    took = medians({form: calls[form]}, ROUNDS)[form]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    off = (calls["regions"]() - dense(q, k, v, labels)).abs().max() if form == "regions" else 0
    print(took, peak, float(off))


def dense(q: Tensor, k: Tensor, v: Tensor, labels: Tensor) -> Tensor:
    """B×N×heads×d; logits between regions have 1000 taken off, as in the released code."""
    apart = (labels[0, :, None] != labels[0]) * -1000.0  # N×N
    done = []
    for head in range(HEADS):
        logits = q[0, :, head] @ k[0, :, head].T * HEADS**-0.5 + apart
        done.append(logits.softmax(-1) @ v[0, :, head])
    return torch.stack(done, 1)[None]


def fused(q: Tensor, k: Tensor, v: Tensor, labels: Tensor) -> Tensor:
    """B×N×heads×d; chunks of queries, since a mask of all pairs is as large as the logits."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # B×heads×N×d
    chunks = zip(q.split(CHUNK, 2), labels.split(CHUNK, 1), strict=True)
    done = [
        F.scaled_dot_product_attention(
            part, k, v, own[:, None, :, None] == labels[:, None, None], scale=HEADS**-0.5
        )
        for part, own in chunks
    ]
    return torch.cat(done, 2).transpose(1, 2)


if __name__ == "__main__":
    main()
