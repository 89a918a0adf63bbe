"""How long a training is, and how its learning rate goes."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning import Trainer


def steps_of(trainer: Trainer) -> int:
    """Of the whole training.

    Raises:
        ValueError: it has no end.
    """
    steps = trainer.estimated_stepping_batches
    if steps == float("inf"):
        raise ValueError("training without an end: set trainer.max_steps or trainer.max_epochs")
    return max(1, int(steps))


def cosine(step: int, steps: int, warm_up: float = 0.0, low: float = 0.0) -> float:
    """The learning rate of a step over the peak: it rises over a share of the steps from nothing,
    and falls as a cosine to `low`."""
    rising = min(1.0, (step + 1) / max(1.0, warm_up * steps))
    return rising * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def stepwise(optimizer: torch.optim.Optimizer, factor: Any) -> dict[str, Any]:
    """For `configure_optimizers`: the learning rate times `factor(step)`."""
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
