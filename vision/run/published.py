"""Published checkpoints: which net they are of is read from their keys, and they fit strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vision.restoration import HAT

NETS: tuple[Any, ...] = (HAT,)
"""Nets whose published checkpoints are known; `describe(state)` gives the arguments of one."""
KNOWN = "give a model.ckpt that train.py wrote, or a published checkpoint of " + ", ".join(
    kind.__name__ for kind in NETS
)
WRAPPERS = ("params_ema", "params", "state_dict", "model")
"""Where authors keep the tensors, best first: averaged weights before those of the last step."""


def tensors(checkpoint: Any) -> dict[str, Tensor] | None:
    """The flat state dict in a checkpoint, or None if there is none."""
    for key in WRAPPERS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            return tensors(checkpoint[key])
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        return None
    if not all(isinstance(value, Tensor) for value in checkpoint.values()):
        return None
    return {str(key).removeprefix("module."): value for key, value in checkpoint.items()}


def build(state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The net that these tensors are of, filled.

    Raises:
        ValueError: no known net, or tensors that are missing, surplus or of another shape; the
            message lists them.
    """
    for kind in NETS:
        arguments = kind.describe(state)
        if arguments is not None:
            break
    else:
        raise ValueError(f"{path}: weights of another kind (keys {[*state][:4]}); {KNOWN}")
    net = kind(**arguments)
    own = net.state_dict()
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or surplus or shapes:
        listed = (("missing", missing), ("surplus", surplus), ("of another shape", sorted(shapes)))
        told = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in listed if keys)
        raise ValueError(
            f"{path}: looks like {kind.__name__}, but its tensors do not fit ({told}); take the"
            " file as it was published"
        )
    net.load_state_dict(dict(state))
    return net
