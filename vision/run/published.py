"""Published checkpoints: which net they are of is read from their keys, and they fit strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vision.layers.state import misfits
from vision.restoration import HAT, RAT, DWFormer

NETS: tuple[Any, ...] = (HAT, RAT, DWFormer)
"""Nets whose published checkpoints are known; `describe(state)` gives the arguments of one."""
KNOWN = "give a model.ckpt that train.py wrote, or a published checkpoint of " + ", ".join(
    kind.__name__ for kind in NETS
)


def build(state: Mapping[str, Tensor], path: Path, scale: int | None = None) -> nn.Module:
    """The net that these tensors are of, filled.

    `scale` is that of a RAT, which leaves no trace in its tensors; 1 if None.

    Raises:
        ValueError: no known net, or tensors that are missing, surplus or of another shape; the
            message lists them.
    """
    for kind in NETS:
        try:
            arguments = kind.describe(state)
            if arguments is not None and kind is RAT and scale is not None:
                arguments["scale"] = scale
            net = None if arguments is None else kind(**arguments)
        except (LookupError, ValueError, TypeError, ZeroDivisionError) as error:
            raise ValueError(
                f"{path}: looks like {kind.__name__}, but tensors that say its size are missing or"
                f" of another shape ({error}); take the file as it was published"
            ) from error
        if net is not None:
            break
    else:
        raise ValueError(f"{path}: weights of another kind (keys {[*state][:4]}); {KNOWN}")
    found = misfits(net.state_dict(), state)
    if found:
        told = "; ".join(f"{what}: {', '.join(names)}" for what, names in found.items())
        raise ValueError(
            f"{path}: looks like {kind.__name__}, but its tensors do not fit ({told}); take the"
            " file as it was published"
        )
    net.load_state_dict(dict(state))
    return net
