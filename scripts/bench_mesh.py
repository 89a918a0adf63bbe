"""`make bench`, fourth part: nets that recover people; one run, untrained.

    python scripts/bench_mesh.py [--released FOLDER]

Multi-HMR over ViT-S at 448 pixels with its SMPL-X bodies; given a checkout of the authors'
repository, theirs too, in turn and with the same random weights. DINOv2, which their code asks a
hub for, stands in by timm's blocks with the attention that DINOv2 has without further packages.
Both with memory as the C library hands it out, and with freed memory kept, as our commands do.
CoordFormer's time against the number of people of a clip, beside a baseline that takes people one
by one: each crop through the backbone, then a GRU over time.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import types
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from bench import console, medians
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from vision.backbones import Backbone
from vision.body import SMPLX
from vision.body.camera import intrinsics
from vision.layers.state import misfits
from vision.mesh import CoordFormer, MultiHMR
from vision.mesh.people import stand
from vision.run.memory import keep_freed_memory

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from bodies import write_smplx

ROUNDS, FRAMES, SIZE, CROP = 3, 8, 448, (256, 192)
PEOPLE = 3  # in a picture of Multi-HMR's


class OneByOne(nn.Module):
    """N×T crops → N×T numbers of bodies."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone("hrnet_w32", "none", frozen=False)
        self.over_time = nn.GRU(self.backbone.channels[-1], 1024, 2, batch_first=True)
        self.numbers = nn.Linear(1024, 22 * 6 + 10 + 3)

    def forward(self, crops: Tensor) -> Tensor:
        maps = self.backbone.pyramid(crops.flatten(0, 1), [-1])[0]  # N·T×C×h×w
        return self.numbers(self.over_time(maps.mean((2, 3)).unflatten(0, crops.shape[:2]))[0])


@torch.inference_mode()
def people_of_a_clip() -> None:
    net, baseline = CoordFormer().eval(), OneByOne().eval()
    size = net.spec.size[0]
    clip, camera = torch.rand(1, FRAMES, 3, size, size), intrinsics(size, size)[None]
    table = Table("people", "CoordFormer, s a clip", "one by one, s a clip")
    first: dict[str, float] = {}
    for count in track((1, 2, 4, 8, 16), "clips", console=console, transient=True):
        draw = torch.Generator().manual_seed(count)
        cells = torch.randperm(net.grid**2, generator=draw)[:count].repeat(FRAMES)
        at = (torch.arange(FRAMES).repeat_interleave(count), cells // net.grid, cells % net.grid)
        crops = torch.rand(count, FRAMES, 3, *CROP)
        calls = {"all": partial(net, clip, camera, at), "each": partial(baseline, crops)}
        took = medians(calls, ROUNDS)
        first = first or took
        row = (f"{took[name]:.2f} ({took[name] / first[name]:.2f})" for name in took)
        table.add_row(str(count), *row)
    console.print(table)


@torch.inference_mode()
def one_shot(released: Path | None, folder: Path) -> None:
    write_smplx(folder / "models/smplx/SMPLX_NEUTRAL.npz")
    body = SMPLX(folder / "models/smplx/SMPLX_NEUTRAL.npz")
    images, camera = torch.rand(1, 3, SIZE, SIZE), intrinsics(SIZE, SIZE)[None]
    calls: dict[str, Any] = {}
    if released:
        theirs = released_net(released, folder)
        state = dict(theirs.state_dict())
        net = MultiHMR(**MultiHMR.describe(state) or {})
        tensors = net.renamed(state)
        assert not misfits(net.state_dict(), tensors)
        net.load_state_dict(tensors)
    else:
        backbone = Backbone("vit_small_patch14_dinov2", "none", frozen=False)
        net = MultiHMR(backbone, SIZE)
    net.eval()
    scores = net.see(images)[2].sigmoid().flatten().sort().values
    least = float(scores[-PEOPLE - 1] + scores[-PEOPLE]) / 2

    def ours() -> int:
        found = net(images, camera, threshold=least).people
        return len(stand(found, net.spec, body).vertices)

    calls["ours"] = ours
    if released:
        normal = (images - net.backbone.mean) / net.backbone.std
        calls["released"] = partial(theirs, normal, K=camera, det_thresh=least, nms_kernel_size=3)
        assert len(calls["released"]()) == ours()
    table = Table("Multi-HMR, ViT-S, 448×448", "pictures a second", "freed memory kept")
    took = medians(calls, 4 * ROUNDS)
    keep_freed_memory()  # as the commands do; from here on it stays so
    kept = medians(calls, 4 * ROUNDS)
    for name in calls:
        table.add_row(name, f"{1 / took[name]:.2f}", f"{1 / kept[name]:.2f}")
    console.print(table)
    if released:
        ratios = (theirs["released"] / kept["ours"] for theirs in (took, kept))
        words = "ours, as `infer.py mesh` runs it, against released: {:.2f}, {:.2f} times as fast"
        console.print(words.format(*ratios))


def released_net(checkout: Path, folder: Path) -> nn.Module:
    """That of the authors' code, with random weights; it wants its body model below the folder."""
    draw = np.random.default_rng(0)
    pose = np.tile(np.array([1.0, 0, 0, 1, 0, 0]), 24)
    mean, camera = folder / "models/smpl_mean_params.npz", np.array([0.9, 0, 0])
    np.savez(mean, pose=pose, shape=draw.normal(size=10), cam=camera)
    torch.hub.load = lambda *_, **__: DINOv2()
    sys.modules["pyrender"] = types.ModuleType("pyrender")  # draws pictures, which we do not ask
    sys.path.insert(0, str(checkout.absolute()))
    os.chdir(folder)
    from model import Model

    return Model(backbone="dinov2_vits14", img_size=SIZE).eval()


class DINOv2(nn.Module):
    """ViT-S/14 as their code calls it."""

    embed_dim, patch_size = 384, 14

    def __init__(self) -> None:
        super().__init__()
        net: Any = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
        net.patch_embed.strict_img_size = False
        self.patch_embed, self.blocks, self.norm = net.patch_embed, net.blocks, net.norm
        self.cls_token, self.pos_embed = net.cls_token, net.pos_embed
        self.mask_token = nn.Parameter(torch.zeros(1, self.embed_dim))
        for block in self.blocks:
            block.attn.fused_attn = False

    def get_intermediate_layers(self, images: Tensor, **_: object) -> list[Tensor]:
        side, trained = images.shape[-1] // self.patch_size, math.isqrt(self.pos_embed.shape[1] - 1)
        places = self.pos_embed[:, 1:].mT.unflatten(-1, (trained, trained))
        places = F.interpolate(places, scale_factor=(side + 0.1) / trained, mode="bicubic")
        tokens = self.patch_embed(images) + places.flatten(2).mT
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(images), -1, -1)
        x = torch.cat([cls, tokens], 1)
        for block in self.blocks:
            x = block(x)
        return [self.norm(x)[:, 1:]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--released", type=Path, metavar="FOLDER")
    released = parser.parse_args().released
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        one_shot(released, Path(folder))
    people_of_a_clip()


if __name__ == "__main__":
    main()
