"""MPGNet: from a clean picture to what a camera below a display would take of it.

Zhou et al., "Modular Degradation Simulation and Restoration for Under-Display Camera" (ACCV 2022,
arXiv 2209.11455). The generator is three degradations, one after the other; each works alone, too:

    BrightnessAttenuation → Blur → Noise

and a discriminator judges each pixel of its picture, with the clean one beside it.

Written from a description of the paper, not from the authors' code, which is under the GPL; so
names of modules are ours, and published weights do not load. The description leaves most widths
open and gives the total, 8,327,590 parameters. Ours reach that number exactly, as many other
choices would: it fixes the size, and does not show that the layers are the authors'. It does rule
out the nine blocks the blur is described with, which hold 10.6 million between them; six fit (see
`Blur`).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from vision.layers.padding import mirror_pad
from vision.restoration.spec import Spec

# What a display does to brightness: P-OLED only darkens; T-OLED's factor has no upper bound.
DISPLAYS: dict[str, type[nn.Module]] = {"poled": nn.Sigmoid, "toled": nn.ReLU}


class Residual(nn.Sequential):
    """Layers one after the other, and what went in added to what comes out."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class BrightnessAttenuation(nn.Module):
    """Each colour of a picture times a factor read from the whole picture.

    Args:
        display: `poled` (factors in (0, 1)) or `toled` (0 and more).

    Raises:
        ValueError: another display.
    """

    WIDTHS = (32, 64, 128, 64, 32)  # of the five convolutions; all but the last are ours

    def __init__(self, display: str = "poled") -> None:
        super().__init__()
        if display not in DISPLAYS:
            raise ValueError(f"MPGNet display {display}: choose one of {', '.join(DISPLAYS)}")
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((3, *self.WIDTHS)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        last = nn.Linear(128, 3)
        # Ours: start bright. A factor that ReLU cuts to 0 is a black picture without a gradient.
        nn.init.ones_(last.bias)
        self.head = nn.Sequential(
            nn.Linear(self.WIDTHS[-1], 128), nn.ReLU(inplace=True), last, DISPLAYS[display]()
        )

    def factors(self, images: Tensor) -> Tensor:
        """B×3×H×W in [0, 1], any size → B×3×1×1."""
        return self.head(self.features(images))[:, :, None, None]

    def forward(self, images: Tensor) -> Tensor:
        """B×3×H×W in [0, 1], any size → the same shape; above 1 where a factor of T-OLED is."""
        return images * self.factors(images)


class Blur(nn.Module):
    """A ResNet generator, as of CycleGAN (Zhu et al. 2017), that says how each pixel changes.

    Args:
        blocks: residual blocks at a quarter of the size. Six, with 7.8 million parameters, fit the
            published total; with nine the generator has 11,869,606.

    Convolutions before an instance norm have no bias, which the norm would take away again; its
    own scale and shift are learned.
    """

    WIDTH = 64  # of the first convolution; twice and four times that further down

    def __init__(self, blocks: int = 6) -> None:
        super().__init__()
        widths = [self.WIDTH, 2 * self.WIDTH, 4 * self.WIDTH]
        layers: list[nn.Module] = [*_normed(3, widths[0], 7), nn.ReLU(inplace=True)]
        for fine, coarse in pairwise(widths):
            layers += [*_normed(fine, coarse, 3, stride=2), nn.ReLU(inplace=True)]
        for _ in range(blocks):
            first, second = (_normed(widths[-1], widths[-1], 3) for _ in range(2))
            layers.append(Residual(*first, nn.ReLU(inplace=True), *second))
        for coarse, fine in pairwise(widths[::-1]):
            layers += [
                nn.ConvTranspose2d(
                    coarse, fine, 3, stride=2, padding=1, output_padding=1, bias=False
                ),
                nn.InstanceNorm2d(fine, affine=True),
                nn.ReLU(inplace=True),
            ]
        last = nn.Conv2d(widths[0], 3, 7, padding=3, padding_mode="reflect")
        self.change = nn.Sequential(*layers, last, nn.Tanh())

    def forward(self, images: Tensor) -> Tensor:
        """B×3×H×W in [0, 1], any size → the same shape and range."""
        height, width = images.shape[-2:]
        # A quarter of the size must leave two pixels a side, for reflections and the norms.
        padded = mirror_pad(images, 4 if min(height, width) > 4 else 8)
        return (images + self.change(padded)[..., :height, :width]).clamp(0, 1)


class Noise(nn.Module):
    """Noise that depends on the picture, noise that does not, and that of quantisation.

    The first is drawn from a normal distribution for each pixel, whose mean and deviation are read
    from the picture's features and a Gaussian map. Everything random is added or reparameterised
    (μ + σ·ε), and so has a gradient of its own.

    The layers are ours. The normal distribution is over features, and a residual block follows,
    since demosaicing leaves neighbours correlated; kernels next to the picture are 1×1, since a
    pixel's noise depends on its own brightness; outputs have no bias, since a constant shift is
    brightness and not noise.

    Args:
        q: quantisation is uniform in [-q, q]; half a step of 8 bits is ours, as the data are PNGs.
    """

    WIDTH = 64

    def __init__(self, q: float = 0.5 / 255) -> None:
        super().__init__()
        self.q = q
        width = self.WIDTH
        self.stem = nn.Conv2d(3, width, 1)
        self.statistics = nn.Sequential(_noise_block(width), _conv3(width, 2 * width))
        self.dependent = nn.Sequential(_noise_block(width), _noise_head(width))
        self.independent = nn.Sequential(_noise_block(width), _noise_head(width))

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """B×3×H×W in [0, 1], any size → the same shape and range; see `MPGNet` on `generator`."""
        features = self.stem(images)  # B×64×H×W
        statistics = self.statistics(features + gaussian(features, generator))
        mean, deviation = statistics.chunk(2, dim=1)
        sample = mean + F.softplus(deviation) * gaussian(mean, generator)
        noise = self.dependent(sample) + self.independent(gaussian(features, generator))
        return (images + noise + self.q * uniform(images, generator)).clamp(0, 1)


class MPGNet(nn.Module):
    """The generator: clean pictures in, simulated under-display pictures out, each time others.

    Args:
        display: `poled` (dark and noisy) or `toled` (blurred).
        blocks: of the blur; see `Blur`.

    Raises:
        ValueError: another display.
    """

    def __init__(self, display: str = "poled", blocks: int = 6) -> None:
        super().__init__()
        self.spec = Spec(scale=1, channels=3, pools_globally=True)
        self.attenuation = BrightnessAttenuation(display)
        self.blur = Blur(blocks)
        self.noise = Noise()

    def forward(self, clean: Tensor, generator: Generator | None = None) -> Tensor:
        """B×3×H×W in [0, 1], any size → the same shape and range.

        The same `generator` state draws the same noise; it may live on another device than the
        pictures. Without one, torch's global seed decides.
        """
        return self.noise(self.blur(self.attenuation(clean)), generator)


class Discriminator(nn.Module):
    """A U-Net with spectral norm that tells for every pixel how real it looks.

    Widths and layers are ours, after the U-Net discriminator of Real-ESRGAN (Wang et al. 2021):
    three times down by 2, up again with skips added. Every convolution is normed but the last,
    whose values have to reach their targets from features of any scale.

    Args:
        channels: of the input; 6 for a picture (simulated or real) and the clean one, joined.
        width: at full size; twice, four and eight times that further down.
    """

    MULTIPLE = 8

    def __init__(self, channels: int = 6, width: int = 64) -> None:
        super().__init__()
        self.channels = channels
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stem = _spectral(channels, width, 3)
        self.down = nn.ModuleList(_spectral(a, b, 4, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_spectral(a, b, 3) for a, b in pairwise(widths[::-1]))
        self.head = nn.Sequential(
            _spectral(width, width, 3),
            _spectral(width, width, 3),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def forward(self, pairs: Tensor) -> Tensor:
        """B×channels×H×W in [0, 1], any size → B×1×H×W logits."""
        height, width = pairs.shape[-2:]
        skips = [self.stem(mirror_pad(pairs, self.MULTIPLE))]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up in self.up:
            x = up(F.interpolate(x, scale_factor=2, mode="bilinear")) + skips.pop()
        return self.head(x)[..., :height, :width]


def gaussian(like: Tensor, generator: Generator | None) -> Tensor:
    """Normally distributed, mean 0 and deviation 1, of the shape, type and device of `like`."""
    device = generator.device if generator else like.device
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device).to(like)


def uniform(like: Tensor, generator: Generator | None) -> Tensor:
    """Uniform in [-1, 1), of the shape, type and device of `like`."""
    device = generator.device if generator else like.device
    drawn = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=device)
    return 2 * drawn.to(like) - 1


def _normed(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(
        inputs, outputs, kernel, stride, kernel // 2, padding_mode="reflect", bias=False
    )
    return conv, nn.InstanceNorm2d(outputs, affine=True)


def _conv3(inputs: int, outputs: int) -> nn.Conv2d:
    """Edges repeated, which works from one pixel on and keeps the noise even up to the border."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate")


def _noise_block(width: int) -> Residual:
    return Residual(_conv3(width, width), nn.ReLU(inplace=True), _conv3(width, width))


def _noise_head(width: int) -> nn.Conv2d:
    head = nn.Conv2d(width, 3, 1, bias=False)
    nn.init.normal_(head.weight, std=1e-3)  # ours: start with noise of about a hundredth
    return head


def _spectral(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=1)
    return nn.Sequential(spectral_norm(conv), nn.LeakyReLU(0.2, inplace=True))
