"""MPGNet as a degradation: what a data set of clean pictures makes its inputs with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator

from data.degrade import F32, U8, Degradation
from vision.layers.state import fill_from, read_checkpoint
from vision.restoration.mpgnet import MPGNet

PARTS = ("attenuation", "blur", "noise")


class LearnedDisplay(Degradation):
    """Clean pictures as a trained MPGNet thinks a display changes them.

    A crop is degraded with 32 pixels around it, the reach of the blur but for its normalisation;
    that, and the attenuation, look at the whole of what they are given, so a crop comes out a
    little unlike the same crop of the whole picture.

    Args:
        weights: the model.ckpt that `configs/restoration/mpgnet_poled.yaml` or `mpgnet_toled.yaml`
            trained; it says which display it is of.
        parts: what of it happens: `attenuation`, `blur`, `noise`, always in this order.

    Raises:
        ValueError: no such file, a checkpoint of another net, or a part that MPGNet has not.
    """

    margin, grid = 32, 4

    def __init__(self, weights: str, parts: Sequence[str] = PARTS) -> None:
        if not parts or {*parts} - {*PARTS}:
            raise ValueError(f"parts={', '.join(parts)}: give some of {', '.join(PARTS)}")
        spec = read_checkpoint(Path(weights)).get("hyper_parameters", {}).get("net", {})
        if not isinstance(spec, dict) or not str(spec.get("class_path")).endswith(".MPGNet"):
            raise ValueError(f"{weights}: does not hold an MPGNet; give a model.ckpt of train.py")
        self.net = MPGNet(**spec.get("init_args", {})).eval().requires_grad_(False)
        fill_from(self.net, Path(weights))
        self.parts = [part for part in PARTS if part in parts]

    @torch.inference_mode()
    def __call__(self, clean: U8, rng: Generator) -> F32:
        if clean.dtype != np.uint8 or clean.ndim != 3 or clean.shape[2] != 3:
            raise ValueError(f"LearnedDisplay: {clean.dtype} {clean.shape}; give uint8 H×W×3 RGB")
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        images = torch.from_numpy(clean.copy()).permute(2, 0, 1)[None].float() / 255
        for part in self.parts:
            own = (generator,) if part == "noise" else ()
            images = getattr(self.net, part)(images, *own)
        return images[0].permute(1, 2, 0).numpy()
