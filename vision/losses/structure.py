"""Structural losses of a recovered image against its original: SSIM, MSGMS, and their sum with L2.

All inputs are batches B×C×H×W, float, RGB or grey, range [0, 1]. Everything is computed in float32
(float64 stays float64), under autocast too: both measures subtract nearly equal squares, which
half precision turns into noise.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# (0.01 · range)² and (0.03 · range)² of Wang et al. 2004, section III.B, for the range 1.
_SSIM_C1, _SSIM_C2 = 1e-4, 9e-4
# Keeps the slope of the square root finite where an image is flat; far below one grey level.
_FLAT = 1e-12


def ssim_map(x: Tensor, y: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity at each pixel (Wang et al. 2004, equation 13), B×C×H×W in [-1, 1].

    Gaussian window, biased variances, borders reflected. Identical images give exactly 1.

    Own code, because torchmetrics' `structural_similarity_index_measure` (the same values, which a
    test checks) filters five maps with the full 11×11 window: forward and backward on 4×3×256×256
    took 179 ms on two cores (95 ms channels-last), this one 39 ms in either layout.

    Raises ValueError for shapes that differ, integer images, an even window, or images that are
    too small to be reflected.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"SSIM window {window} has no centre pixel: choose an odd one, such as 11")
    if sigma <= 0:
        raise ValueError(f"SSIM sigma {sigma} is not positive: choose one such as 1.5")
    x, y = _pair(x, y)
    height, width = x.shape[-2:]
    if min(height, width) <= window // 2:
        raise ValueError(
            f"images of {height}×{width} are too small for an SSIM window of {window}: "
            f"use sides of at least {window // 2 + 1}, or a smaller window"
        )
    with torch.autocast(x.device.type, enabled=False):
        # The variances are only ever needed as their sum, so four maps do for five.
        maps = _blur(torch.cat([x, y, x * x + y * y, x * y], dim=1), window, sigma)
        mean_x, mean_y, squares, product = maps.chunk(4, dim=1)  # each B×C×H×W
        means = mean_x * mean_y
        mean_squares = mean_x * mean_x + mean_y * mean_y
        covariance = product - means
        variances = squares - mean_squares
        return ((2 * means + _SSIM_C1) * (2 * covariance + _SSIM_C2)) / (
            (mean_squares + _SSIM_C1) * (variances + _SSIM_C2)
        )


class SSIMLoss(nn.Module):
    """1 − mean SSIM of two batches B×C×H×W in [0, 1]: a scalar, 0 for identical images."""

    def __init__(self, window: int = 11, sigma: float = 1.5) -> None:
        super().__init__()
        self.window, self.sigma = window, sigma

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return 1 - ssim_map(x, y, self.window, self.sigma).mean()


def msgms(x: Tensor, y: Tensor, scales: int = 3, c: float = 0.0026) -> Tensor:
    """Multi-scale gradient magnitude *difference* at each pixel, B×1×H×W in [0, 1).

    The mean over `scales` of 1 − GMS, each scale half the one before by average pooling, brought
    back to full size bilinearly (RIAD, Zavrtanik et al. 2021). GMS is that of Xue et al. 2014
    (GMSD), equations 1–4: Prewitt/3 on the grey image; c is their 170 for range 255, as 170/255².
    Grey is the mean of the channels. The borders are replicated (our choice): zeros would draw an
    edge around every image, and strong edges hide small differences. Exactly 0 for identical
    images.
    RIAD uses four scales; three is the number in RIAD-PyTorch, by the author of EAR. Any size
    works: an odd side is pooled with its last row or column kept, so that no pixel goes unseen
    and the scales stay aligned.

    Raises ValueError for shapes that differ, integer images and `scales` below 1.
    """
    if scales < 1:
        raise ValueError(f"MSGMS over {scales} scales is empty: ask for at least 1")
    x, y = _pair(x, y)
    height, width = x.shape[-2:]
    with torch.autocast(x.device.type, enabled=False):
        greys = _greys(x, y)
        total = _gradient_difference(greys, c)
        for scale in range(1, scales):
            greys = F.avg_pool2d(greys, 2, ceil_mode=True)
            coarse = _gradient_difference(greys, c)
            # The exact factor, then a crop: stretching to H×W would shift odd sizes.
            full = F.interpolate(coarse, scale_factor=float(2**scale), mode="bilinear")
            total = total + full[..., :height, :width]
        return total / scales


class RecoveryLoss(nn.Module):
    """L2 + SSIM + MSGMS of a recovered image against the original, each with its weight.

    EAR (arXiv 2310.04010) states no loss. This project's choice is that of RIAD-PyTorch, by EAR's
    author: equal weights, an SSIM window of 11 and three scales of MSGMS.

    Raises ValueError for a negative weight.
    """

    def __init__(
        self, l2: float = 1.0, ssim: float = 1.0, msgms: float = 1.0, scales: int = 3
    ) -> None:
        super().__init__()
        for name, weight in {"l2": l2, "ssim": ssim, "msgms": msgms}.items():
            if not weight >= 0:
                raise ValueError(f"loss weight {name}={weight} is negative: choose 0 or more")
        self.l2, self.ssim, self.msgms, self.scales = l2, ssim, msgms, scales
        self.ssim_loss = SSIMLoss()

    def forward(self, recovered: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Scalars of two batches B×C×H×W in [0, 1]: `loss`, and its unweighted terms
        `l2`, `ssim` (1 − SSIM) and `msgms`."""
        recovered, image = _pair(recovered, image)
        l2 = (recovered - image).square().mean()
        ssim = self.ssim_loss(recovered, image)
        gradient = msgms(recovered, image, self.scales).mean()
        loss = self.l2 * l2 + self.ssim * ssim + self.msgms * gradient
        return {"loss": loss, "l2": l2, "ssim": ssim, "msgms": gradient}


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both images in at least float32, after a check that they can be compared at all."""
    if x.shape != y.shape or x.ndim != 4:  # broadcasting would hide the mistake
        raise ValueError(
            f"images of shape {tuple(x.shape)} and {tuple(y.shape)} cannot be compared: "
            "pass two batches B×C×H×W of one shape"
        )
    if not (x.is_floating_point() and y.is_floating_point()):
        raise ValueError(
            f"images of type {x.dtype} and {y.dtype} cannot be compared: "
            "pass floats in [0, 1] (divide 8-bit images by 255)"
        )
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype), y.to(dtype)


def _blur(maps: Tensor, window: int, sigma: float) -> Tensor:
    """Gaussian blur of every channel, rows then columns, size kept by reflection."""
    channels, margin = maps.shape[1], window // 2
    offsets = torch.arange(window, dtype=maps.dtype, device=maps.device) - margin
    # A softmax is exp over its sum: the Gaussian, normalised.
    kernel = torch.softmax(-offsets.square() / (2 * sigma**2), dim=0)
    maps = F.pad(maps, (margin,) * 4, mode="reflect")
    # One group per channel also keeps GPUs off TF32, which an ordinary convolution may run in.
    row = kernel.view(1, 1, 1, window).repeat(channels, 1, 1, 1)
    column = kernel.view(1, 1, window, 1).repeat(channels, 1, 1, 1)
    return F.conv2d(F.conv2d(maps, row, groups=channels), column, groups=channels)


def _greys(x: Tensor, y: Tensor) -> Tensor:
    """Both images as grey channels of one batch, B×2×H×W: each later step then runs once."""
    return torch.cat([x.mean(dim=1, keepdim=True), y.mean(dim=1, keepdim=True)], dim=1)


def _gradient_difference(greys: Tensor, c: float) -> Tensor:
    """1 − GMS of the two channels of B×2×H×W, as B×1×H×W.

    Written as (m₁ − m₂)² / (m₁² + m₂² + c), which equals 1 − (2m₁m₂ + c) / (m₁² + m₂² + c) but is
    exactly 0 for equal images and loses no digits for similar ones.
    """
    padded = F.pad(greys, (1, 1, 1, 1), mode="replicate")  # B×2×(H+2)×(W+2)
    columns = padded[..., 2:] - padded[..., :-2]
    rows = padded[..., 2:, :] - padded[..., :-2, :]
    gx = (columns[..., :-2, :] + columns[..., 1:-1, :] + columns[..., 2:, :]) / 3
    gy = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 3
    power = gx.square() + gy.square() + _FLAT
    first, second = power.sqrt().chunk(2, dim=1)
    return (first - second).square() / (power.sum(dim=1, keepdim=True) + c)
