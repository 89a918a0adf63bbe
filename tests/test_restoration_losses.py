"""Losses of restored pictures, on cases worked out by hand."""

from pathlib import Path

import pytest
import torch
from nets import picture
from torch import Tensor

from vision.losses.restoration import (
    L1,
    MSE,
    Charbonnier,
    FocalRegion,
    Perceptual,
    RestorationLoss,
    WeightedSum,
    lsgan,
    region_weights,
    vanilla_gan,
)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor, Tensor]:
    """Errors of 0.4 in the region 0 (one pixel of four), and of 0.1, 0.2, 0.3 in the region 7."""
    truth = torch.zeros(1, 1, 2, 2)
    restored = torch.tensor([[0.4, -0.1], [0.2, 0.3]]).view(1, 1, 2, 2)
    return restored, truth, torch.tensor([[0, 7], [7, 7]]).view(1, 1, 2, 2)


def test_plain_losses(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    assert L1()(*pair).item() == pytest.approx(0.25)
    assert MSE()(*pair).item() == pytest.approx(0.075)
    assert Charbonnier(1e-3)(*pair).item() == pytest.approx(0.25, abs=1e-4)
    assert Charbonnier(1.0)(*pair).item() == pytest.approx(
        sum((1 + e * e) ** 0.5 for e in (0.4, 0.1, 0.2, 0.3)) / 4
    )


def test_focal_region(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    restored, truth, regions = pair
    weights = region_weights((restored - truth).abs(), regions)
    assert weights.flatten().tolist() == pytest.approx([1.0, 0.5, 0.5, 0.5])
    # 0.4·(1 + 1), and (0.1 + 0.2 + 0.3)·(1 + 0.5)
    assert FocalRegion()(*pair).item() == pytest.approx((0.8 + 0.9) / 4)
    assert FocalRegion(beta=0)(*pair).item() == pytest.approx(0.25)
    assert FocalRegion()(truth, truth, regions).item() == 0
    with pytest.raises(ValueError, match="needs region maps"):
        FocalRegion()(restored, truth)


def test_the_hardest_region_of_the_batch_weighs_one() -> None:
    error = torch.tensor([0.1, 0.4]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    regions = torch.full((2, 1, 4, 4), 3)  # the same label in both pictures, and yet two regions
    weights = region_weights(error, regions)
    assert weights[0].unique().tolist() == pytest.approx([0.25])
    assert weights[1].unique().tolist() == pytest.approx([1.0])


def test_no_gradient_through_the_weights(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    restored, truth, regions = pair
    restored.requires_grad_()
    FocalRegion()(restored, truth, regions).backward()
    assert restored.grad is not None
    wanted = [2 / 4, -1.5 / 4, 1.5 / 4, 1.5 / 4]
    assert restored.grad.flatten().tolist() == pytest.approx(wanted)


def test_a_sum_of_losses(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    both = WeightedSum([L1(), MSE()], [2.0, 10.0])
    assert both(*pair).item() == pytest.approx(2 * 0.25 + 10 * 0.075)
    with pytest.raises(ValueError, match="2 losses and 1 weights"):
        WeightedSum([L1(), MSE()], [1.0])


def test_adversarial_losses() -> None:
    logits = torch.tensor([0.0, 2.0])
    assert lsgan(logits, True).item() == pytest.approx((1 + 1) / 4)
    assert lsgan(logits, False).item() == pytest.approx((0 + 4) / 4)
    assert vanilla_gan(torch.zeros(3), True).item() == pytest.approx(0.6931, abs=1e-4)
    assert vanilla_gan(torch.tensor([9.0]), False).item() == pytest.approx(9, abs=1e-3)


@pytest.mark.slow
def test_perceptual_from_a_file(tmp_path: Path) -> None:
    from torchvision.models import vgg19

    torch.manual_seed(0)
    path = tmp_path / "vgg19.pth"
    torch.save(vgg19().state_dict(), path)
    loss: RestorationLoss = Perceptual(weights_file=str(path))
    image = picture(32, 32).requires_grad_()
    assert loss(image, image.detach()).item() == 0
    found = loss(image, picture(32, 32) * 0.5)
    found.backward()
    assert found.item() > 0
    assert image.grad is not None
    assert not any(p.requires_grad for p in loss.parameters())
    assert loss(picture(32, 32, 1), picture(32, 32, 1) * 0.5).item() > 0  # grey too


def test_perceptual_without_its_file() -> None:
    with pytest.raises(ValueError, match=r"nowhere\.pth: no such file; give torchvision's"):
        Perceptual(weights_file="nowhere.pth")
    with pytest.raises(ValueError, match="1 layers and 5 weights"):
        Perceptual(layers=[2])
