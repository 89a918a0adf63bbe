"""Computing that a trainer's autocast, or cuDNN, would otherwise make coarser."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def exact(device: torch.device) -> AbstractContextManager[None]:
    """Within this `torch.autocast` is off: products are as exact as their factors.

    In bfloat16 a vertex two metres away moves by a centimetre.
    """
    return torch.autocast(device.type, enabled=False)


def repeatable() -> AbstractContextManager[None]:
    """Within this, convolutions give the same numbers twice, and on a GPU nearly those of a CPU.

    cuDNN otherwise rounds their inputs to TF32, of ten bits, and may take algorithms that add up in
    another order each time. On a CPU this changes nothing.
    """
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
