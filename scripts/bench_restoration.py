"""`make bench`, second half: HAT ×4 on a 64×64 input against spandrel's HAT, same weights.

Both in eager PyTorch, float32, one picture at a time and taken in turn, so that a drifting machine
hits both; the ratio is of medians. Also printed: how near each comes to the machine's rate of
matrix products, for the 102.4 GMACs of HAT at this size.
"""

from __future__ import annotations

from functools import partial

import torch
from bench import medians, seconds
from rich.console import Console
from rich.table import Table
from spandrel import ModelLoader

from vision.restoration import HAT

ROUNDS, GMACS = 5, {"HAT": 102.4, "HAT-S": 54.9}


@torch.inference_mode()
def main() -> None:
    a = torch.rand(2048, 2048)
    rate = 2 * 2048**3 / min(seconds(lambda: a @ a) for _ in range(10)) / 1e9
    console = Console(width=110)
    console.print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rate:.0f} GFLOPS"
    )
    table = Table("net", "code", "ms per picture", "of spandrel's time", "of the machine's rate")
    image = torch.rand(1, 3, 64, 64)
    for preset in GMACS:
        torch.manual_seed(0)
        ours = HAT(preset, 4).eval()
        theirs = ModelLoader().load_from_state_dict(dict(ours.state_dict())).model.eval()
        took = medians({"spandrel": partial(theirs, image), "ours": partial(ours, image)}, ROUNDS)
        for name, median in took.items():
            ratio = f"{median / took['spandrel']:.2f}"
            share = f"{2 * GMACS[preset] / median / rate:.0%}"
            table.add_row(f"{preset} ×4", name, f"{1000 * median:.0f}", ratio, share)
    console.print(table)


if __name__ == "__main__":
    main()
