"""State dicts: finding one in a checkpoint, and what of it does not fit a net."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WRAPPERS = ("params_ema", "params", "state_dict", "model")
"""Where authors keep the tensors, best first: averaged weights before those of the last step."""


def tensors(checkpoint: Any) -> dict[str, Tensor] | None:
    """The flat state dict in a checkpoint, or None if there is none.

    Of a checkpoint of ours, that of the net: the names lose their "net.".
    """
    for key in WRAPPERS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            return tensors(checkpoint[key])
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        return None
    if not all(isinstance(value, Tensor) for value in checkpoint.values()):
        return None
    prefix = "net." if all(str(key).startswith("net.") for key in checkpoint) else "module."
    return {str(key).removeprefix(prefix): value for key, value in checkpoint.items()}


def misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names that keep `state` from filling a net whose tensors are `own`, sorted; {} if it fits.

    Under "missing", "surplus" and "of another shape", where there are any.
    """
    found = {
        "missing": own.keys() - state.keys(),
        "surplus": state.keys() - own.keys(),
        "of another shape": {
            k for k in own.keys() & state.keys() if own[k].shape != state[k].shape
        },
    }
    return {what: sorted(names) for what, names in found.items() if names}


def fill_from(net: nn.Module, path: Path, anew: str | None = None) -> None:
    """Fill `net` from a checkpoint, one of ours or a published one.

    Tensors whose name holds `anew` may be missing, surplus or of another shape; what does not fit
    keeps the net's own values.

    Raises:
        ValueError: no checkpoint, or tensors that do not fit, listed.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a checkpoint of {type(net).__name__}")
    try:
        state = tensors(torch.load(path, map_location="cpu", weights_only=True)) or {}
    except Exception as error:  # torch raises many kinds for a damaged or hostile file
        raise ValueError(
            f"{path}: not a checkpoint, or a damaged one ({type(error).__name__}); copy it again"
        ) from error
    own = net.state_dict()
    found = misfits(own, state)
    wrong = {k: [n for n in names if not anew or anew not in n] for k, names in found.items()}
    told = "; ".join(f"{what}: {', '.join(names)}" for what, names in wrong.items() if names)
    if told:
        raise ValueError(
            f"{path}: is not of this {type(net).__name__} ({told}); give a checkpoint of it"
        )
    unfit = {name for names in found.values() for name in names}
    net.load_state_dict({name: own[name] if name in unfit else state[name] for name in own})
