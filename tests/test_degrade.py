"""The degradations: what they promise, that they are physics, and what they refuse."""

import math

import cv2
import numpy as np
import pytest

from data.degrade import (
    Bicubic,
    Chain,
    Degradation,
    Display,
    GaussianNoise,
    Jpeg,
    UnderDisplay,
    bicubic,
)


def picture(height: int = 96, width: int = 96, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth colours with hard edges."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(0, 255, (height // 8 + 1, width // 8 + 1, channels))
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    large = large.reshape(height, width, channels)
    large[height // 3 : height // 2, width // 4 :] = 240
    return np.rint(large.clip(0, 255)).astype(np.uint8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


ALL: list[Degradation] = [
    Bicubic(2),
    Bicubic(3),
    GaussianNoise(25),
    Jpeg(40),
    UnderDisplay("toled"),
    Chain([Bicubic(2), GaussianNoise((0, 30)), Jpeg((30, 95))]),
]


@pytest.mark.parametrize("degradation", ALL, ids=lambda d: type(d).__name__)
def test_contract(degradation: Degradation) -> None:
    clean = picture(48, 60)
    kept = clean.copy()
    first, again = degradation(clean, rng(3)), degradation(clean, rng(3))
    assert first.dtype == np.float32
    assert first.shape == (48 // degradation.scale, 60 // degradation.scale, 3)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(clean, kept)
    for wrong in (clean / 255, clean[..., 0], clean[..., :2]):
        with pytest.raises(ValueError, match="give uint8 H×W×1 or H×W×3"):
            degradation(wrong, rng())


def test_bicubic_is_that_of_matlab() -> None:
    clean = picture()
    np.testing.assert_array_equal(Bicubic(4)(clean, rng()), bicubic(clean, 1 / 4) / np.float32(255))


def test_noise_is_neither_clipped_nor_rounded() -> None:
    clean = np.full((200, 200, 1), 255, np.uint8)
    noise = GaussianNoise(25)(clean, rng()) - 1
    assert noise.max() > 0.2
    assert abs(noise.mean()) < 0.002
    np.testing.assert_allclose(noise.std(), 25 / 255, rtol=0.02)
    assert len(np.unique(noise)) > 30_000
    drawn = [float((GaussianNoise((5, 50))(clean, rng(n)) - 1).std() * 255) for n in range(20)]
    assert 5 <= min(drawn) < 15
    assert 40 < max(drawn) < 51


def test_jpeg_keeps_colours_and_gets_worse_with_quality() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200
    np.testing.assert_allclose(Jpeg(95)(red, rng()).mean((0, 1)) * 255, [200, 0, 0], atol=3)
    clean = picture()
    loss = [float(np.square(Jpeg(q)(clean, rng()) - clean / 255).mean()) for q in (95, 50, 10)]
    assert loss == sorted(loss)
    grey = Jpeg(90)(picture(channels=1), rng())
    assert grey.shape == (96, 96, 1)


def test_a_chain_rounds_between_its_steps() -> None:
    chain = Chain([Bicubic(2), GaussianNoise(20), Jpeg(80)])
    assert (chain.scale, chain.grid, chain.margin) == (2, 32, 4 + 2 * 16)
    clean, generator = picture(), rng(5)
    noisy = GaussianNoise(20)(bicubic(clean, 1 / 2), generator)
    expected = Jpeg(80)(np.rint(noisy.clip(0, 1) * 255).astype(np.uint8), generator)
    np.testing.assert_array_equal(chain(clean, rng(5)), expected)


# --- under a display


@pytest.mark.parametrize("display", ["poled", "toled"])
def test_psf_gives_light_nowhere_but_to_its_surroundings(display: Display) -> None:
    psf = UnderDisplay(display).psf
    assert psf.shape[0] == 3
    assert psf.shape[1] == psf.shape[2]
    assert psf.min() >= 0
    np.testing.assert_allclose(psf.sum((1, 2), dtype=np.float64), 1, atol=1e-5)
    np.testing.assert_allclose(psf, psf[:, ::-1, ::-1], atol=1e-7)  # orders come in pairs


def spread(psf: np.ndarray) -> tuple[float, float]:
    """Deviation of the light of green down the columns and along the rows."""
    place = np.arange(psf.shape[-1]) - psf.shape[-1] // 2
    down, along = psf[1].sum(1), psf[1].sum(0)
    return math.sqrt((down * place**2).sum()), math.sqrt((along * place**2).sum())


def test_toled_smears_rows_and_poled_all_around() -> None:
    down, along = spread(UnderDisplay("toled").psf)
    assert down == pytest.approx(1, abs=0.05)  # the spot of the lens alone
    assert along > 6 * down
    down, along = spread(UnderDisplay("poled").psf)
    assert 0.8 < down / along < 1.25


def test_red_is_bent_more_than_blue() -> None:
    psf = UnderDisplay("toled", spacing=6).psf
    place = np.abs(np.arange(psf.shape[-1]) - psf.shape[-1] // 2)
    red, green, blue = (float((channel.sum(0) * place).sum()) for channel in psf)
    assert red > 1.05 * green > 1.1 * blue


@pytest.mark.parametrize("display", ["poled", "toled"])
def test_wider_orders_blur_more(display: Display) -> None:
    clean = picture()
    edges = []
    for spacing in (0.0, 0.5, 1.5, 3.0):
        seen = UnderDisplay(display, spacing=spacing, electrons=math.inf, bits=16)(clean, rng())
        edges.append(float(np.abs(np.diff(seen, axis=1)).mean()))
    assert edges == sorted(edges, reverse=True)


def test_flat_light_is_dimmed_by_the_measured_share() -> None:
    white = np.full((40, 50, 3), 255, np.uint8)
    for display, share in (("toled", 0.20), ("poled", 0.029)):
        seen = UnderDisplay(display, gain=1, electrons=math.inf, bits=16)(white, rng())  # type: ignore[arg-type]
        linear = np.where(seen <= 0.04045, seen / 12.92, ((seen + 0.055) / 1.055) ** 2.4)
        assert linear.mean() == pytest.approx(share, rel=0.01)
        assert linear.std((0, 1)).max() < 1e-4
    assert linear[..., 2].mean() < 0.5 * linear[..., 0].mean()  # P-OLED looks yellow


def test_poled_stays_darker_and_noisier_after_the_gain() -> None:
    grey = np.full((80, 80, 3), 120, np.uint8)
    poled, toled = UnderDisplay("poled")(grey, rng()), UnderDisplay("toled")(grey, rng())
    assert poled.mean() < 0.6 * toled.mean()
    assert poled.std((0, 1)).mean() / poled.mean() > 1.5 * toled.std((0, 1)).mean() / toled.mean()
    np.testing.assert_allclose(poled * 255, np.rint(poled * 255), atol=1e-4)
    fewer = UnderDisplay("toled", electrons=2000)(grey, rng())
    assert fewer.std((0, 1)).min() > 2 * toled.std((0, 1)).max()
    bright = UnderDisplay("toled", gain=50)(grey, rng())
    assert bright.max() == 1


def test_pictures_smaller_than_the_blur() -> None:
    tiny = UnderDisplay("poled")(np.full((5, 3, 3), 99, np.uint8), rng())
    assert tiny.shape == (5, 3, 3)
    assert 0 < tiny.mean() < 0.3


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: Bicubic(1), "Bicubic: scale 1"),
        (lambda: GaussianNoise(-1), "GaussianNoise: sigma -1"),
        (lambda: GaussianNoise((30, 10)), "exchange the two"),
        (lambda: GaussianNoise(math.nan), "GaussianNoise: sigma nan"),
        (lambda: Jpeg(0), "Jpeg: quality 0"),
        (lambda: Jpeg((50, 101)), r"Jpeg: quality \(50, 101\)"),
        (lambda: Chain([]), "nothing to do"),
        (lambda: UnderDisplay("oled"), 'display "oled" is unknown'),  # type: ignore[arg-type]
        (lambda: UnderDisplay(spacing=-1), "spacing -1; give 0 to 20"),
        (lambda: UnderDisplay(spot=0), "spot 0; give"),
        (lambda: UnderDisplay(gain=0), "gain 0; give"),
        (lambda: UnderDisplay(electrons=0), "electrons 0; give"),
        (lambda: UnderDisplay(read_noise=-1), "read_noise -1; give"),
        (lambda: UnderDisplay(bits=0), "bits 0; give"),
        (lambda: UnderDisplay(transmission=(0.1, 0.1, 1.2)), r"give three in \(0, 1\]"),
        (lambda: UnderDisplay()(picture(channels=1), rng()), "leave grey off"),
    ],
)
def test_refuses_in_one_line(make: object, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
