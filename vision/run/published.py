"""Published checkpoints: which net they are of is read from their keys, and they fit strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vision.layers.state import misfits
from vision.mesh import OSX, MultiHMR, MultiHMRAnny
from vision.restoration import HAT, RAT, DWFormer

NETS: tuple[Any, ...] = (HAT, RAT, DWFormer, MultiHMR, MultiHMRAnny, OSX)
"""Nets whose published checkpoints are known; `describe(state)` gives the arguments of one, but for
those in `UNSAID`, and `renamed(state)`, where there is one, our names for its tensors."""
KNOWN = "give a model.ckpt that train.py wrote, or a published checkpoint of " + ", ".join(
    kind.__name__ for kind in NETS
)
_TOO_LARGE = (
    RuntimeError,
    MemoryError,
)  # RecursionError is the first, as is torch's lack of memory


def build(state: Mapping[str, Tensor], path: Path, said: Mapping[str, Any]) -> nn.Module:
    """The net that these tensors are of, filled.

    `said` is what the caller says of the net; taken from it is what leaves no trace in the tensors
    (the net's `UNSAID`), such as the scale of a RAT, or what the caller may choose.

    Raises:
        ValueError: no known net, or tensors that are missing, surplus or of another shape; the
            message lists them.
    """
    for kind in NETS:
        try:
            arguments = kind.describe(state)
            unsaid = getattr(kind, "UNSAID", ())
            told = {name: value for name, value in said.items() if name in unsaid}
            net = None if arguments is None else kind(**{**arguments, **told})
        except (LookupError, ValueError, TypeError, ArithmeticError, *_TOO_LARGE) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ValueError(
                f"{path}: looks like {kind.__name__}, but tensors that say its size are missing or"
                f" of another shape ({reason}); take the file as it was published"
            ) from error
        if net is not None:
            break
    else:
        raise ValueError(f"{path}: weights of another kind (keys {[*state][:4]}); {KNOWN}")
    state = net.renamed(state) if hasattr(net, "renamed") else state
    found = misfits(net.state_dict(), state)
    if found:
        listed = "; ".join(f"{what}: {', '.join(names)}" for what, names in found.items())
        raise ValueError(
            f"{path}: looks like {kind.__name__}, but its tensors do not fit ({listed}); take the"
            " file as it was published"
        )
    net.load_state_dict(dict(state))
    return net
