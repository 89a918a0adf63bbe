"""One way to load weights: read a checkpoint's keys, build what it describes, fill it strictly."""

from __future__ import annotations

import hashlib
import importlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vision.run.predictor import AnomalyPredictor

OWN = ("vision.", "data.")


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message names the file, the reason and the cure."""


def load(path: str | Path, device: str = "cpu", trust: tuple[str, ...] = ()) -> AnomalyPredictor:
    """Load a checkpoint and return its predictor.

    Args:
        path: a `model.ckpt` that `train.py fit` wrote.
        device: where the net runs (`cpu`, `cuda`, `cuda:1`).
        trust: packages beside our own whose classes the checkpoint may name. A checkpoint is read
            with tensors and plain values only, and can build no class from elsewhere.

    Returns:
        A predictor: `predictor(image)` for one RGB uint8 H×W×3 picture, `predictor.net` the module.

    Raises:
        CheckpointError: missing, damaged, of another kind, not calibrated, or its backbone's
            weights are not to be had here.
    """
    from vision.run.predictor import AnomalyPredictor

    path = Path(path)
    checkpoint = _read(path)
    if "hyper_parameters" not in checkpoint or "backbones" not in checkpoint:
        raise CheckpointError(
            f"{path}: weights of another kind (keys {sorted(checkpoint)[:4]}); inspect takes the"
            " model.ckpt that `train.py fit` writes into its run folder"
        )
    hyper = checkpoint["hyper_parameters"]
    if "net" not in hyper:
        raise CheckpointError(
            f"{path}: holds no description of its net, since it was not trained by train.py;"
            " train it from a YAML, or build the net yourself and load its state_dict"
        )
    pinned = {b["name"]: b["source"] for b in checkpoint["backbones"].values()}
    state = checkpoint["state_dict"]
    net = _part(_build(hyper["net"], pinned, OWN + trust), state, "net.", path)
    scorer_spec = hyper.get("scorer") or {"class_path": "vision.anomaly.scoring.Scorer"}
    scorer = _part(_build(scorer_spec, pinned, OWN + trust), state, "scorer.", path)
    for name, wanted in checkpoint["backbones"].items():
        backbone = net.get_submodule(name.removeprefix("net."))
        if backbone.fingerprint != wanted["fingerprint"]:
            raise CheckpointError(
                f"{path}: was trained on other weights of {wanted['name']} (from"
                f" {wanted['source']}); bring those back, or train again with the ones at hand"
            )
    if not scorer.calibrated:
        raise CheckpointError(
            f"{path}: training did not come to its end, so there is no threshold; take model.ckpt"
            " of a finished run, or resume with `train.py fit --ckpt_path`"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return AnomalyPredictor(net, scorer, device=device, fingerprint=digest)


def _read(path: Path) -> dict[str, Any]:
    import torch

    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; give the model.ckpt of a run (runs/<recipe>/<n>/model.ckpt)"
        )
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not a checkpoint, or a truncated one; copy it again, or train again"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  (torch raises many kinds for a damaged or hostile file)
        raise CheckpointError(
            f"{path}: damaged, or holds more than tensors and plain values"
            f" ({type(error).__name__}); nothing of it was run; give a model.ckpt of train.py"
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path}: holds no checkpoint; give a model.ckpt of train.py")
    return checkpoint


def _build(spec: Any, pinned: Mapping[str, str], trusted: tuple[str, ...]) -> Any:
    """Build `{"class_path": …, "init_args": {…}}`, its arguments first; other values as they are."""
    if not isinstance(spec, Mapping) or "class_path" not in spec:
        return spec
    class_path = spec["class_path"]
    if not class_path.startswith(trusted):
        raise CheckpointError(
            f"the checkpoint names the class {class_path}, which is not one of ours; if you know"
            f" the package, load with trust=('{class_path.split('.')[0]}.',)"
        )
    module, _, name = class_path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    arguments = {k: _build(v, pinned, trusted) for k, v in (spec.get("init_args") or {}).items()}
    if class_path.endswith(".Backbone"):
        arguments["weights"] = pinned[arguments["name"]]
    return cls(**arguments)


def _part(module: nn.Module, state: Mapping[str, Tensor], prefix: str, path: Path) -> nn.Module:
    """Fill a module with the entries below `prefix`, strictly."""
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path}: its tensors do not fit its own description ({reason}); train again"
        ) from error
    return module.eval()
