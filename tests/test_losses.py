"""Losses: parity with other implementations, hand-computed values, gradients, odd sizes, errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from vision.losses import RecoveryLoss, SSIMLoss, msgms, ssim_map


def pair(*shape: int, seed: int = 0, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.random(shape)
    y = np.clip(x + noise * rng.standard_normal(shape), 0, 1)
    return torch.from_numpy(x).float(), torch.from_numpy(y).float()


# --- SSIM


def test_ssim_map_equals_torchmetrics() -> None:
    x, y = pair(2, 3, 40, 53)
    mean, full = structural_similarity_index_measure(
        x, y, data_range=1.0, sigma=1.5, reduction="none", return_full_image=True
    )
    ours = ssim_map(x, y)
    torch.testing.assert_close(ours, full, atol=2e-5, rtol=0)
    torch.testing.assert_close(1 - SSIMLoss()(x, y), mean.mean(), atol=1e-5, rtol=0)


def test_ssim_map_equals_skimage_inside_the_border() -> None:
    x, y = pair(1, 3, 40, 53)
    _, full = structural_similarity(
        x[0].double().numpy(),
        y[0].double().numpy(),
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    inside = np.s_[:, 5:-5, 5:-5]  # the border is reflected differently
    np.testing.assert_allclose(ssim_map(x, y)[0].numpy()[inside], full[inside], atol=2e-5)


def test_ssim_of_flat_images_by_hand() -> None:
    # No variance: (2·0.2·0.6 + 0.0001) / (0.04 + 0.36 + 0.0001) = 0.2401 / 0.4001.
    x, y = torch.full((1, 1, 12, 12), 0.2), torch.full((1, 1, 12, 12), 0.6)
    torch.testing.assert_close(
        ssim_map(x, y), torch.full_like(x, 0.2401 / 0.4001), atol=5e-4, rtol=0
    )


def test_a_small_window_makes_small_images_possible() -> None:
    x, y = pair(1, 1, 2, 2)
    assert ssim_map(x, y, window=3).shape == (1, 1, 2, 2)


# --- gradient magnitude similarity


def test_gms_of_a_ramp_against_a_flat_image_by_hand() -> None:
    # x rises by 0.1 per column: each Prewitt/3 row gives 0.2/3, three rows 0.2, so the magnitude
    # is 0.2 inside, and against a flat image GMS = c / (0.2² + c).
    x = (0.1 * torch.arange(5.0)).expand(1, 1, 4, 5)
    similarity = 1 - msgms(x, torch.zeros_like(x), scales=1, c=0.01)
    inside = similarity[..., 1:-1]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.01 / 0.05))


def test_gms_is_the_published_formula() -> None:
    # Xue et al. 2014, equation 4, written out with an ordinary convolution.
    x, y = pair(2, 3, 20, 31)
    prewitt = torch.tensor([[1.0, 0.0, -1.0]] * 3).div(3)
    kernels = torch.stack([prewitt, prewitt.T]).unsqueeze(1)
    m1, m2 = (
        torch.nn.functional.conv2d(image.mean(1, keepdim=True), kernels).norm(dim=1, keepdim=True)
        for image in (x, y)
    )
    expected = (2 * m1 * m2 + 0.0026) / (m1**2 + m2**2 + 0.0026)
    found = 1 - msgms(x, y, scales=1)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected, atol=1e-5, rtol=1e-5)


def test_more_scales_spread_a_difference_but_keep_it_in_place() -> None:
    x = torch.zeros(1, 3, 65, 65)
    y = x.clone()
    y[..., 40:44, 52:56] = 1
    for scales in (1, 2, 3, 4):
        difference = msgms(x, y, scales)
        assert difference.shape == (1, 1, 65, 65)
        row, column = divmod(int(difference.flatten().argmax()), 65)
        assert 38 <= row <= 45
        assert 50 <= column <= 57
        assert difference[..., :20, :20].max() == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(0, 99))
def test_msgms_of_any_size_is_bounded_symmetric_and_zero_on_itself(
    height: int, width: int, scales: int, seed: int
) -> None:
    x, y = pair(1, 3, height, width, seed=seed)
    difference = msgms(x, y, scales)
    assert difference.shape == (1, 1, height, width)
    assert 0 <= difference.min() <= difference.max() < 1
    assert torch.equal(difference, msgms(y, x, scales))
    assert torch.equal(msgms(x, x, scales), torch.zeros(1, 1, height, width))


# --- the loss


def test_identical_images_lose_exactly_nothing() -> None:
    x, _ = pair(2, 3, 33, 47)
    assert {name: float(term) for name, term in RecoveryLoss()(x, x.clone()).items()} == {
        "loss": 0.0,
        "l2": 0.0,
        "ssim": 0.0,
        "msgms": 0.0,
    }


def test_loss_is_the_weighted_sum_of_its_terms() -> None:
    x, y = pair(2, 3, 33, 47)
    terms = RecoveryLoss(l2=2.0, ssim=0.5, msgms=3.0, scales=2)(x, y)
    torch.testing.assert_close(terms["l2"], torch.nn.functional.mse_loss(x, y))
    torch.testing.assert_close(terms["ssim"], SSIMLoss()(x, y))
    torch.testing.assert_close(terms["msgms"], msgms(x, y, scales=2).mean())
    total = 2 * terms["l2"] + 0.5 * terms["ssim"] + 3 * terms["msgms"]
    torch.testing.assert_close(terms["loss"], total)


@pytest.mark.slow
def test_gradients_are_right() -> None:
    x, y = (image.double() for image in pair(1, 2, 7, 9))
    loss = RecoveryLoss()
    assert torch.autograd.gradcheck(lambda image: loss(image, y)["loss"], x.requires_grad_())


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_images_have_finite_gradients(value: float) -> None:
    image = torch.full((1, 3, 16, 16), value)
    for target in (image, pair(1, 3, 16, 16)[0]):
        recovered = image.clone().requires_grad_()
        RecoveryLoss()(recovered, target)["loss"].backward()
        assert recovered.grad is not None
        assert recovered.grad.isfinite().all()


@pytest.mark.slow
def test_descending_the_loss_recovers_the_image() -> None:
    image, _ = pair(1, 3, 16, 16)
    recovered = torch.full_like(image, 0.5).requires_grad_()
    optimizer, loss = torch.optim.Adam([recovered], lr=0.05), RecoveryLoss()
    for _ in range(100):
        optimizer.zero_grad()
        loss(recovered, image)["loss"].backward()
        optimizer.step()
    assert (recovered - image).abs().mean() < 0.03


def test_autocast_and_half_precision_change_nothing() -> None:
    x, y = pair(2, 3, 24, 24)
    expected = RecoveryLoss()(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = RecoveryLoss()(x, y)
    for name, term in terms.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, expected[name], rtol=0, atol=0)
    half = x.bfloat16()
    assert torch.equal(ssim_map(half, y), ssim_map(half.float(), y))
    assert torch.equal(msgms(half, y), msgms(half.float(), y))


def test_memory_layout_changes_nothing() -> None:
    x, y = pair(2, 3, 24, 31)
    expected = RecoveryLoss()(x, y)["loss"]
    last = [image.contiguous(memory_format=torch.channels_last) for image in (x, y)]
    torch.testing.assert_close(RecoveryLoss()(*last)["loss"], expected)


def test_images_of_a_batch_do_not_touch_each_other() -> None:
    x, y = pair(3, 3, 24, 31)
    torch.testing.assert_close(ssim_map(x, y)[1:2], ssim_map(x[1:2], y[1:2]))
    torch.testing.assert_close(msgms(x, y)[1:2], msgms(x[1:2], y[1:2]))


# --- bad input


@pytest.mark.parametrize("measure", [ssim_map, msgms, SSIMLoss(), RecoveryLoss()])
def test_images_that_cannot_be_compared(measure: Callable[[Tensor, Tensor], Any]) -> None:
    x, _ = pair(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"\(2, 3, 16, 16\) and \(1, 3, 16, 16\).*one shape"):
        measure(x, x[:1])
    with pytest.raises(ValueError, match="B×C×H×W"):
        measure(x[0], x[0])
    with pytest.raises(ValueError, match="divide 8-bit images by 255"):
        measure(x, x.byte())


@pytest.mark.parametrize(("height", "width"), [(5, 64), (64, 5), (1, 1)])
def test_images_too_small_for_ssim(height: int, width: int) -> None:
    x, y = pair(1, 3, height, width)
    with pytest.raises(ValueError, match=f"{height}×{width} are too small.*at least 6"):
        ssim_map(x, y)


def test_options_out_of_range() -> None:
    x, y = pair(1, 3, 16, 16)
    with pytest.raises(ValueError, match="odd"):
        ssim_map(x, y, window=10)
    with pytest.raises(ValueError, match="sigma 0"):
        ssim_map(x, y, sigma=0)
    with pytest.raises(ValueError, match="at least 1"):
        msgms(x, y, scales=0)
    with pytest.raises(ValueError, match=r"ssim=-1.* 0 or more"):
        RecoveryLoss(ssim=-1)
    with pytest.raises(ValueError, match="msgms=nan"):
        RecoveryLoss(msgms=float("nan"))
