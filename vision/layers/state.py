"""State dicts: finding one in a checkpoint, and what of it does not fit a net."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

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
