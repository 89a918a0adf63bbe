"""`make bench`: speed of EAR against RIAD, peak memory of `inspect`, repeatability; one run.

Times are of one picture at a time, the nets taken in turn, so that a drifting machine hits all of
them; ratios are of medians. Weights are untrained where they do not change the time.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import vision
from data.synthetic import write_mvtec
from vision.anomaly import EAR, RIAD, FeatureMemory, FeatureNeighbours
from vision.backbones import Backbone

ROUNDS = 7
console = Console(width=110)


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def medians(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, made in turn after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            took = seconds(call)
            if turn:  # the first is the warm-up
                times[name].append(took)
    return {name: statistics.median(t) for name, t in times.items()}


@torch.inference_mode()
def speed() -> None:
    """Time per picture, ViT included, against RIAD's 12 passes of the same U-Net."""
    backbone = Backbone()
    neighbours = filled(FeatureNeighbours(backbone).eval())
    table = Table("U-Net", "net", "ms per picture", "of RIAD's time")
    for preset in ("full", "small", "tiny"):
        best = EAR(backbone, unet=preset).eval()
        assert best.neighbours is not None
        filled(best.neighbours)
        nets = {
            "EAR mosaic": EAR(backbone, unet=preset, features="none").eval(),
            "EAR binary": EAR(backbone, unet=preset, features="none", hint="empty").eval(),
            "RIAD, 12 masks": RIAD(preset).eval(),
            "gated neighbours": neighbours,
            "EAR best": best,
        }
        pictures = {name: torch.rand(1, 3, n.input_size, n.input_size) for name, n in nets.items()}
        calls = {name: partial(net.maps, pictures[name]) for name, net in nets.items()}
        took = medians(calls, ROUNDS)
        for name, median in took.items():
            ratio = median / took["RIAD, 12 masks"]
            table.add_row(preset, name, f"{1000 * median:.0f}", f"{ratio:.2f}")
    console.print(table)


def filled(net: FeatureNeighbours) -> FeatureNeighbours:
    """The net with full memories of noise: what they hold does not change the time."""
    for memory in net.memories:
        assert isinstance(memory, FeatureMemory)
        memory.bank = torch.randn(memory.capacity, memory.dims).half()
        memory.spacing = torch.zeros(memory.capacity)
    return net


def memory_and_repeatability(folder: Path) -> None:
    """Peak memory of `inspect` on 10, 100 and 1,000 pictures; two runs and two batch sizes."""
    parts = write_mvtec(folder / "parts", train=12, good=500, bad=500)
    recipe = vision.configs() / "anomaly" / "ear_demo.yaml"
    common = ["--data.root", parts, "--trainer.max_steps", "2"]
    python(
        *("-m", "vision.cli", "train", "fit", "--config", recipe, *common),
        *("--trainer.default_root_dir", folder / "run"),
    )
    every = sorted((parts / "test").rglob("*.png"))
    table = Table("pictures", "peak memory, MB", "ms per picture")
    for count in (10, 100, 1000):
        out = folder / f"out{count}"
        took, peak = inspect(every[:count], out, folder, 8)
        table.add_row(str(count), f"{peak / 1024:.0f}", f"{1000 * took / count:.0f}")
    console.print(table)
    first = scores(folder / "out100")
    inspect(every[:100], folder / "again", folder, 8)
    inspect(every[:100], folder / "single", folder, 1)
    again, single = scores(folder / "again"), scores(folder / "single")
    same_maps = all(
        p.read_bytes() == (folder / "again" / p.relative_to(folder / "out100")).read_bytes()
        for p in (folder / "out100").rglob("*.map.png")
    )
    largest = max(abs(first[k] - single[k]) for k in first)
    console.print(f"two runs: scores identical {first == again}, maps identical {same_maps}")
    console.print(f"batch size 8 against 1: largest difference of a score {largest:.1e}")


def inspect(pictures: list[Path], out: Path, folder: Path, batch: int) -> tuple[float, int]:
    """Run `infer.py inspect`; seconds, and the peak resident size of that process in kB."""
    listed = folder / f"pictures-{out.name}"
    listed.mkdir()
    for number, picture in enumerate(pictures):
        (listed / f"{number:04d}.png").symlink_to(picture)
    weights = folder / "run" / "model.ckpt"
    call = ["inspect", listed, "-o", out, "--weights", weights, "--batch-size", batch, "--quiet"]
    return peak_of(call)


def peak_of(call: Sequence[object]) -> tuple[float, int]:
    """Run `infer.py` with these arguments; seconds, and the peak resident size in kB."""
    # A wrapper of its own, since a parent sees only the largest of all its children.
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True,"
        " stdout=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    begin = time.perf_counter()
    command = [sys.executable, "-m", "vision.cli", *map(str, call)]
    done = python("-c", code, *command)
    return time.perf_counter() - begin, int(done.split()[-1])


def python(*arguments: object) -> str:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


def scores(out: Path) -> dict[str, float]:
    rows = map(json.loads, (out / "manifest.jsonl").read_text().splitlines())
    return {Path(row["input"]).name: row["score"] for row in rows}


if __name__ == "__main__":
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    speed()
    with tempfile.TemporaryDirectory() as temporary:
        memory_and_repeatability(Path(temporary).resolve())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    console.print(f"peak memory of the speed measurement itself: {peak / 1024:.0f} MB")
