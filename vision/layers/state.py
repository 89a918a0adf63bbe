"""State dicts: finding one in a checkpoint, and what of it does not fit a net."""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "network", "model")
"""Where authors keep the tensors, best first: averaged weights before those of the last step."""
OURS = "visionmend"
"""Under it a checkpoint of ours says what it is of; and the header of a safetensors file."""
WANTED = "the model.ckpt of a run (runs/<recipe>/<n>/model.ckpt)"


def tensors(checkpoint: Any, levels: int = 3) -> dict[str, Tensor] | None:
    """The flat state dict in a checkpoint, in so many wrappers at most, or None if there is none.

    Of a checkpoint of ours, that of the net alone; its names lose their "net.".

    Raises:
        ValueError: a tensor that claims more than the file holds; a net built by it might be huge.
    """
    for key in WRAPPERS if levels else ():
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            if OURS in checkpoint:
                state = checkpoint[key].items()
                return {k.removeprefix("net."): v for k, v in state if k.startswith("net.")}
            return tensors(checkpoint[key], levels - 1)
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        return None
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in checkpoint.items()):
        return None
    for name, tensor in checkpoint.items():
        if not _held(tensor):
            raise ValueError(f"the tensor {name} claims more than the file holds; take another")
    return {k.removeprefix("module."): v for k, v in checkpoint.items()}


def _held(tensor: Tensor) -> bool:
    """Whether there is a byte for every byte of it, unlike in one expanded, sparse or on meta."""
    if tensor.is_meta or tensor.layout != torch.strided:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


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


def read_checkpoint(path: Path, wanted: str = WANTED) -> dict[str, Any]:
    """A checkpoint of tensors and plain values, or a safetensors file; `wanted` is the cure's.

    One of `write_safetensors` is read as the checkpoint that it was made of.

    Raises:
        ValueError: no such file, a damaged one, or one that holds more.
        OSError: it may not be read.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: {what}; give {wanted}")
    path.open("rb").close()  # an OSError says what keeps us from reading it
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                told = json.loads((file.metadata() or {}).get(OURS, "{}"))
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return {**told, "state_dict": state} if told else state
        # Multi-HMR's files hold the arguments of their training so: words and numbers.
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both raise many kinds for a damaged or hostile file
        if not zipfile.is_zipfile(path):
            raise ValueError(
                f"{path}: not a checkpoint, or a truncated one; copy it again, or give {wanted}"
            ) from error
        raise ValueError(
            f"{path}: damaged, or holds more than tensors and plain values"
            f" ({type(error).__name__}); nothing of it was run; give {wanted}"
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path}: holds no checkpoint; give {wanted}")
    return checkpoint


def write_safetensors(checkpoint: Mapping[str, Any], path: Path) -> None:
    """A checkpoint of ours as safetensors, its tensors in float16; what else it says in the header.

    Raises:
        ValueError: a number that float16 cannot hold.
    """
    told = {k: v for k, v in checkpoint.items() if k in (OURS, "hyper_parameters", "backbones")}
    state = {}
    for name, tensor in checkpoint["state_dict"].items():
        state[name] = tensor.half() if tensor.is_floating_point() else tensor
        if not state[name].isfinite().all():
            raise ValueError(f"{path}: {name} holds numbers beyond float16; ship another net")
    save_file({k: v.contiguous() for k, v in state.items()}, path, {OURS: json.dumps(told)})


def read_tensors(path: Path, wanted: str = WANTED) -> dict[str, Tensor] | None:
    """The flat state dict in a file, or None if there is none; errors as of `read_checkpoint`."""
    checkpoint = read_checkpoint(path, wanted)
    try:
        return tensors(checkpoint)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def fill_from(net: nn.Module, path: Path, anew: tuple[str, ...] = ()) -> None:
    """Fill `net` from a checkpoint, one of ours or a published one.

    Tensors whose name begins with one of `anew` may be missing, surplus or of another shape; what
    does not fit keeps the net's own values.

    Raises:
        ValueError: no checkpoint, or tensors that do not fit, listed.
    """
    state, own = read_tensors(path) or {}, net.state_dict()
    found = misfits(own, state)
    wrong = {what: [n for n in names if not n.startswith(anew)] for what, names in found.items()}
    told = "; ".join(f"{what}: {some(names)}" for what, names in wrong.items() if names)
    if told:
        raise ValueError(
            f"{path}: is not of this {type(net).__name__} ({told}); give a checkpoint of it"
        )
    unfit = {name for names in found.values() for name in names}
    net.load_state_dict({name: own[name] if name in unfit else state[name] for name in own})


def some(names: list[str]) -> str:
    """The first of many names, and how many there are beside."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
