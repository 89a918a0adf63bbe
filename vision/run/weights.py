"""One way to load weights: read a checkpoint's keys, build what it describes, fill it strictly."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vision.anomaly import Detector, Scorer
    from vision.run.mesh import MeshPredictor
    from vision.run.predictor import AnomalyPredictor
    from vision.run.restore import RestorationPredictor

OWN = ("vision.", "data.")
RESTORES = ("tile", "ensemble", "share_pooling", "precision", "scale")
"""Options of `load` for nets that restore."""
RECOVERS = ("body_models", "threshold", "fov", "focal", "detector")
"""Those for nets that recover people."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message names the file, the reason and the cure."""


def load(
    path: str | Path,
    device: str = "cpu",
    false_alarms: float | None = None,
    trust: tuple[str, ...] = (),
    scale: int | None = None,
    size: int | None = None,
    **options: Any,
) -> AnomalyPredictor | RestorationPredictor | MeshPredictor:
    """Load a checkpoint and return its predictor; what it is of is read from its keys.

    Args:
        path: the name of weights that come with the package (`vision.models()`), a `model.ckpt`
            that `train.py fit` wrote, or a published checkpoint (HAT, RAT, DWFormer, Multi-HMR,
            OSX).
        device: where the net runs (`cpu`, `cuda`, `cuda:1`).
        false_alarms: of a detector, share of good pictures that may be called defective; None keeps
            the one the checkpoint was calibrated for.
        trust: packages beside our own whose classes the checkpoint may name. A checkpoint is read
            with tensors and plain values only, and can build no class from elsewhere.
        scale: by how much a published RAT enlarges, which its checkpoint does not say (1 if None);
            other nets that restore must be of it.
        size: side in pixels at which Multi-HMR for Anny, released or over a frozen ViT, sees
            pictures, in place of the one that it was trained at: the larger, the smaller the people
            that it finds.
        options: of a net that restores: `tile`, `ensemble`, `share_pooling` and `precision` of
            `RestorationPredictor`; of one that recovers people: `body_models` (where SMPL-X's and
            SMPL's files are), `threshold`, `fov`, `focal` and `detector` of `MeshPredictor`. None
            is as good as leaving one out.

    Returns:
        A predictor: `predictor(image)` for one RGB uint8 H×W×3 picture, `predictor.net` the module.

    Raises:
        CheckpointError: missing, damaged, of another kind, not calibrated, with tensors missing or
            surplus, or its backbone's weights are not to be had here; an option that this kind of
            net does not take.
        ValueError: a device that is not there, or an option out of range.
    """
    from vision.layers.state import read_checkpoint, tensors
    from vision.run.shipped import locate

    check_device(device)
    try:
        path = locate(path)
        checkpoint = read_checkpoint(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    sections = {"hyper_parameters", "state_dict"}
    if checkpoint.get("visionmend") == "mesh" and {"backbones", *sections} <= checkpoint.keys():
        net = _of_ours(checkpoint, ("vision.mesh.", "vision.backbones.", *trust), path, size)
        _check_backbones(net, checkpoint["backbones"], path)
        return _recovers(net, path, device, digest, false_alarms, scale, size, options)
    if {"hyper_parameters", "backbones", "state_dict"} <= checkpoint.keys():
        wrong = {"scale": scale, "size": size, **options}
        _check_options(wrong, ("false_alarms",), f"{path}: is for `inspect`")
        return _inspector(checkpoint, path, device, digest, false_alarms, OWN + trust)
    from vision.restoration.spec import Spec
    from vision.run import published
    from vision.run.restore import RestorationPredictor

    if checkpoint.get("visionmend") == "restoration" and sections <= checkpoint.keys():
        net = _of_ours(checkpoint, ("vision.restoration.", *trust), path)
    else:
        state = _described(path, lambda: tensors(checkpoint))
        if state is None:
            keys = [*checkpoint][:4]
            raise CheckpointError(
                f"{path}: weights of another kind (keys {keys}); {published.KNOWN}"
            )
        try:
            said = {"scale": scale, "size": size}
            net = published.build(
                state, path, {name: value for name, value in said.items() if value is not None}
            )
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        if not isinstance(net.spec, Spec):
            return _recovers(net, path, device, digest, false_alarms, scale, size, options)
        unsaid: Any = net.UNSAID
        digest += f" scale {scale}" if "scale" in unsaid and scale is not None else ""
    wrong = {"false_alarms": false_alarms, "size": size, **options}
    _check_options(wrong, RESTORES, f"{path}: is for `restore`")
    spec: Any = net.spec
    if scale is not None and spec.scale != scale:
        raise CheckpointError(
            f"{path}: is of scale {spec.scale}, not {scale}; leave the scale out, or take another"
            " checkpoint"
        )
    given = {name: value for name, value in options.items() if value is not None}
    return RestorationPredictor(net, device=device, fingerprint=digest, **given)


def check_device(device: str) -> None:
    """ValueError unless something can be computed there."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {device}: {reason}; use --device cpu") from error


def _check_options(given: Mapping[str, Any], taken: tuple[str, ...], what: str) -> None:
    wrong = [name for name, value in given.items() if value is not None and name not in taken]
    if wrong:
        raise CheckpointError(
            f"{what} and takes no {', '.join(wrong)}; leave out all but {', '.join(taken)}"
        )


def _recovers(
    net: nn.Module,
    path: Path,
    device: str,
    digest: str,
    false_alarms: float | None,
    scale: int | None,
    size: int | None,
    options: Mapping[str, Any],
) -> MeshPredictor:
    """The predictor of a net that recovers people."""
    from vision.run.mesh import MeshPredictor

    wrong = {"false_alarms": false_alarms, "scale": scale, **options}
    _check_options(wrong, RECOVERS, f"{path}: is for `mesh`")
    _check_size(net, size, path)
    digest += "" if size is None else f" size {size}"
    given = {name: value for name, value in options.items() if value is not None}
    folder, spec = given.pop("body_models", None), cast("Any", net.spec)
    return MeshPredictor(net, spec.create_body(folder), device=device, fingerprint=digest, **given)


def _of_ours(
    checkpoint: Mapping[str, Any], trusted: tuple[str, ...], path: Path, size: int | None = None
) -> nn.Module:
    """The net that a checkpoint of ours describes, filled; one that sees at any size, at this."""
    from torch import nn

    spec = checkpoint["hyper_parameters"].get("net")
    pinned = {name: told["source"] for name, told in checkpoint.get("backbones", {}).items()}
    net = _described(path, lambda: build(spec, "net", pinned, trusted))
    if not isinstance(net, nn.Module) or not hasattr(net, "spec"):
        raise CheckpointError(f"{path}: describes no net of ours; give one of train.py")
    if size is not None:
        _check_size(net, size, path)
        if not pinned:
            raise CheckpointError(f"{path}: its ViT was trained at one size; leave the size out")
        sized = {**spec, "init_args": {**spec.get("init_args", {}), "size": size}}
        net = _described(path, lambda: build(sized, "net", pinned, trusted))
    _fill(net, checkpoint["state_dict"], "net.", path)
    return net


def _check_size(net: nn.Module, size: int | None, path: Path) -> None:
    if size is not None and "size" not in getattr(net, "UNSAID", ()):
        kind = type(net).__name__
        raise CheckpointError(f"{path}: {kind} sees pictures at one size; leave the size out")


def _inspector(
    checkpoint: dict[str, Any],
    path: Path,
    device: str,
    digest: str,
    false_alarms: float | None,
    trusted: tuple[str, ...],
) -> AnomalyPredictor:
    from vision.run.predictor import AnomalyPredictor

    net, scorer = _rebuild(checkpoint, trusted, path)
    _fill(net, checkpoint["state_dict"], "net.", path)
    _fill(scorer, checkpoint["state_dict"], "scorer.", path)
    _check_backbones(net, checkpoint["backbones"], path)
    if not scorer.calibrated:
        raise CheckpointError(
            f"{path}: training did not come to its end, so there is no threshold; take model.ckpt"
            " of a finished run, or resume with `train.py fit --ckpt_path`"
        )
    if false_alarms is not None:
        scorer.allow(false_alarms)
        digest += f" at {false_alarms:g}"
    return AnomalyPredictor(net, scorer, device=device, fingerprint=digest)


def _check_backbones(net: nn.Module, told: Mapping[str, Any], path: Path) -> None:
    """CheckpointError unless frozen backbones have the weights they were trained with."""
    from vision.backbones import Backbone, WeightsError

    for name, wanted in told.items():
        backbone = dict(net.named_modules()).get(name.removeprefix("net."))
        if not isinstance(backbone, Backbone):
            raise CheckpointError(f"{path}: its net has no backbone {name}; train again")
        try:
            backbone.check(wanted)
        except WeightsError as error:
            raise CheckpointError(f"{path}: {error}") from error


def _rebuild(
    checkpoint: Mapping[str, Any], trusted: tuple[str, ...], path: Path
) -> tuple[Detector, Scorer]:
    """Net and scorer as the checkpoint describes them, not yet filled."""
    from vision.anomaly import Detector, Scorer

    hyper = checkpoint["hyper_parameters"]
    parts = (hyper, checkpoint["backbones"], checkpoint["state_dict"])
    if not all(isinstance(part, Mapping) for part in parts):
        raise CheckpointError(f"{path}: weights of another kind; give a model.ckpt of train.py")
    if "net" not in hyper:
        raise CheckpointError(
            f"{path}: holds no description of its net, since it was not trained by train.py;"
            " train it from a YAML, or build the net yourself and load its state_dict"
        )
    told = checkpoint["backbones"]
    if not all(
        isinstance(b, Mapping) and {"source", "fingerprint"} <= b.keys() for b in told.values()
    ):
        raise CheckpointError(
            f"{path}: does not say which weights its backbone had; give a model.ckpt of train.py"
        )
    pinned = {module: b["source"] for module, b in told.items()}
    scorer_spec = hyper.get("scorer") or {"class_path": "vision.anomaly.scoring.Scorer"}
    net = _described(path, lambda: build(hyper["net"], "net", pinned, trusted))
    scorer = _described(path, lambda: build(scorer_spec, "scorer", pinned, trusted))
    if not isinstance(net, Detector) or not isinstance(scorer, Scorer):
        raise CheckpointError(f"{path}: describes no detector; give a model.ckpt of train.py")
    return net, scorer


def _described(path: Path, build: Callable[[], Any]) -> Any:
    """What `build` makes of a description; its failures name the checkpoint."""
    try:
        return build()
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (
        *(ImportError, AttributeError, LookupError, TypeError),
        *(ArithmeticError, RuntimeError, MemoryError),  # of sizes that no memory holds
    ) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path}: its net cannot be built by this version ({type(error).__name__}: {reason});"
            " take the version that trained it, or train again"
        ) from error


def build(
    spec: Any, name: str = "net", pinned: Mapping[str, str] | None = None, trusted: Any = OWN
) -> Any:
    """Build `{"class_path": …, "init_args": {…}}`, its arguments first; other values pass.

    A frozen backbone takes its weights from the source that is pinned for its module, which bears
    the name of the argument; one that was trained finds them in the checkpoint itself.
    """
    if not isinstance(spec, Mapping) or "class_path" not in spec:
        return spec
    from vision.backbones import Backbone

    cls = _class(spec["class_path"], trusted)
    given = spec.get("init_args") or {}
    arguments = {k: build(v, f"{name}.{k}", pinned, trusted) for k, v in given.items()}
    if issubclass(cls, Backbone):
        if not arguments.get("frozen", True):
            arguments["weights"] = "none"
        elif pinned and name in pinned:
            arguments["weights"] = pinned[name]
    return cls(**arguments)


def _class(class_path: str, trusted: tuple[str, ...]) -> type[nn.Module]:
    """The class of this name, which must be a net defined in a trusted package.

    Our modules hold functions and foreign classes too; a checkpoint must not call those.
    """
    from torch import nn

    if class_path.startswith(trusted):
        module, _, name = class_path.rpartition(".")
        cls = getattr(importlib.import_module(module), name)
        is_net = isinstance(cls, type) and issubclass(cls, nn.Module)
        if is_net and f"{cls.__module__}.".startswith(trusted):
            return cls
    package = class_path.split(".")[0]
    cure = f"if you know the package, say --trust {package} (in Python trust=('{package}.',))"
    if class_path.startswith(OWN):
        cure = "give a model.ckpt that train.py wrote"
    raise CheckpointError(f"names the class {class_path}, which is no net of ours; {cure}")


def _fill(module: nn.Module, state: Mapping[str, Tensor], prefix: str, path: Path) -> None:
    """Fill a module with the entries below `prefix`, strictly."""
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path}: its tensors do not fit its own description ({reason}); train again"
        ) from error
