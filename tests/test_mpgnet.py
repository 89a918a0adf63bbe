"""MPGNet: the published size, any picture size, randomness by seed, gradients, spectral norm."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import picture, without_gradient
from torch import Generator, nn

from data.images import write_png
from data.paired import Degraded
from vision.restoration import LearnedDisplay
from vision.restoration.mpgnet import (
    Blur,
    BrightnessAttenuation,
    Discriminator,
    MPGNet,
    Noise,
)
from vision.restoration.spec import Spec

SIZES = [(1, 1), (1, 9), (3, 5), (8, 8), (13, 18)]


@cache
def generator_net(display: str = "poled") -> MPGNet:
    """Six blocks of 256 channels take a while to fill: built once, never changed."""
    torch.manual_seed(0)
    return MPGNet(display).eval()


def seeded(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("display", ["poled", "toled"])
def test_published_size(display: str) -> None:
    with torch.device("meta"):
        net = MPGNet(display)
        assert sum(p.numel() for p in net.parameters()) == 8_327_590
        assert sum(p.numel() for p in MPGNet(display, blocks=9).parameters()) == 11_869_606
    assert net.spec == Spec(scale=1, channels=3, pools_globally=True)


@pytest.mark.parametrize("display", ["poled", "toled"])
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_simulated_picture(display: str, size: tuple[int, int]) -> None:
    simulated = generator_net(display)(picture(*size))
    assert simulated.shape == (1, 3, *size)
    assert 0 <= simulated.min() <= simulated.max() <= 1


@pytest.mark.parametrize("module", [BrightnessAttenuation, Blur, Noise])
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_each_degradation_alone(module: type[nn.Module], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    options = {"blocks": 1} if module is Blur else {}
    images = picture(*size)
    degraded = module(**options)(images)
    assert degraded.shape == images.shape
    assert 0 <= degraded.min() <= degraded.max() <= 1
    assert not torch.equal(degraded, images)


@torch.no_grad()
def test_attenuation() -> None:
    torch.manual_seed(0)
    images = torch.cat([picture(20, 24), picture(24, 20).mT])
    for display, most in (("poled", 1.0), ("toled", float("inf"))):
        net = BrightnessAttenuation(display)
        factors = net.factors(images)
        assert factors.shape == (2, 3, 1, 1)
        assert ((factors > 0) & (factors < most)).all()
        torch.testing.assert_close(net(images), images * factors)


@torch.no_grad()
def test_a_display_may_brighten_only_if_toled() -> None:
    for display in ("poled", "toled"):
        net = BrightnessAttenuation(display)
        last = net.head[-2]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, 5.0)
        assert bool((net.factors(picture(8, 8)) > 1).all()) == (display == "toled")


@torch.no_grad()
def test_the_same_seed_draws_the_same_noise() -> None:
    net, clean = generator_net(), picture(9, 12)
    first, again, other = (net(clean, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(3)
    first = net(clean)
    torch.manual_seed(3)
    assert torch.equal(first, net(clean))
    assert not torch.equal(first, net(clean))


@torch.no_grad()
def test_without_noise_of_its_own_only_quantisation_is_left() -> None:
    net, images = Noise(q=0.01), torch.full((1, 3, 40, 40), 0.5)
    for branch in (net.dependent, net.independent):
        head = branch[-1]
        assert isinstance(head, nn.Conv2d)
        nn.init.zeros_(head.weight)
    noise = net(images, seeded(0)) - images
    assert 0.009 < noise.max() <= 0.01 + 1e-6
    assert -0.01 - 1e-6 <= noise.min() < -0.009
    assert noise.mean().abs() < 1e-3


@pytest.mark.parametrize("display", ["poled", "toled"])
def test_every_parameter_gets_a_gradient(display: str) -> None:
    torch.manual_seed(0)
    net = MPGNet(display, blocks=1)
    clean = torch.cat([picture(16, 20), picture(20, 16).mT])
    (net(clean) - clean).square().mean().backward()
    assert without_gradient(net) == []


def test_pictures_without_contrast_have_finite_gradients() -> None:
    torch.manual_seed(0)
    net = MPGNet(blocks=1)
    for clean in (torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 1, 1)):
        net.zero_grad()
        net(clean).mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@torch.no_grad()
def test_pictures_of_a_batch_do_not_touch() -> None:
    net, images = generator_net(), torch.cat([picture(12, 16), picture(12, 16) * 0.3])
    blurred = net.blur(net.attenuation(images))
    each = torch.cat([net.blur(net.attenuation(image[None])) for image in images])
    torch.testing.assert_close(blurred, each, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_discriminator_judges_every_pixel(size: tuple[int, int]) -> None:
    logits = Discriminator(width=8)(picture(*size, channels=6))
    assert logits.shape == (1, 1, *size)
    assert logits.isfinite().all()


def test_every_parameter_of_the_discriminator_gets_a_gradient() -> None:
    torch.manual_seed(0)
    net = Discriminator(width=8)
    net(picture(16, 24, channels=6)).square().mean().backward()
    assert without_gradient(net) == []


@torch.no_grad()
def test_spectral_norm_holds_for_grown_weights() -> None:
    torch.manual_seed(0)
    net = Discriminator(width=8)
    normed = [
        m for m in net.modules() if isinstance(m, nn.Conv2d) and hasattr(m, "parametrizations")
    ]
    assert len(normed) == 9
    for conv in normed:
        conv.parametrizations.weight.original.mul_(10)
    for _ in range(20):  # each forward in training is one more step of its power iteration
        net(picture(8, 8, channels=6))
    for conv in normed:
        largest = torch.linalg.matrix_norm(conv.weight.flatten(1), ord=2)
        assert largest == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("part", [MPGNet, BrightnessAttenuation])
def test_wrong_display(part: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="MPGNet display amoled: choose one of poled, toled"):
        part("amoled")


@pytest.mark.slow
def test_a_trained_net_degrades_a_data_set(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, path = MPGNet("toled", blocks=1), tmp_path / "model.ckpt"
    state = {f"net.{name}": value for name, value in net.state_dict().items()}
    init_args = {"display": "toled", "blocks": 1}
    spec = {"class_path": "vision.restoration.MPGNet", "init_args": init_args}
    checkpoint = {"visionmend": "restoration", "state_dict": state}
    torch.save({**checkpoint, "hyper_parameters": {"net": spec}}, path)
    (tmp_path / "train").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (90, 100, 3), np.uint8)
    write_png(tmp_path / "train" / "1.png", image)
    display = LearnedDisplay(str(path))
    assert isinstance(display.net.attenuation.head[-1], nn.ReLU)  # of T-OLED
    pair = Degraded(tmp_path, "train", patch=16, degradation=display)[0]
    assert pair["input"].shape == pair["target"].shape == (3, 16, 16)
    assert not torch.equal(pair["input"], pair["target"])
    whole = [display(image, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(whole[0], whole[1])
    assert not np.array_equal(whole[0], whole[2])
    with pytest.raises(ValueError, match="give uint8 H×W×3 RGB"):
        display(image[..., 0], np.random.default_rng(0))
    chosen = [["attenuation"], ["blur"], ["noise"], ["noise", "attenuation", "blur"]]
    alone = [LearnedDisplay(str(path), parts)(image, np.random.default_rng(1)) for parts in chosen]
    assert np.array_equal(alone[-1], whole[0])  # all of them, whatever the order of their names
    assert len({a.tobytes() for a in alone}) == 4
    wanted = display.net.blur(torch.tensor(image).permute(2, 0, 1)[None] / 255)
    np.testing.assert_allclose(alone[1], wanted[0].permute(1, 2, 0).numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="parts=glare: give some of attenuation, blur, noise"):
        LearnedDisplay(str(path), ["glare"])
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match="does not hold an MPGNet"):
        LearnedDisplay(str(path))
