"""EAR: the hint, the U-Net, maps in every configuration, gradients, passes, wrong parameters."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectors import DetectorContract, assert_equal, inputs_of, pictures, tiny_vit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vision.anomaly import EAR, AttentionMask, Detector, UNet
from vision.anomaly.ear import cell_of, excise, mosaic


def ear(**options: Any) -> EAR:
    """A tiny EAR in evaluation mode."""
    defaults = {"unet": "tiny", "size": 64, "mask_grid": 4, "feature_grids": [4], "capacity": 64}
    torch.manual_seed(1)
    return EAR(tiny_vit(), **{**defaults, **options}).eval()


class TestEAR(DetectorContract):
    def make(self) -> Detector:
        return EAR(tiny_vit(), unet="tiny", size=64, mask_grid=4, feature_grids=(4,), capacity=64)


@pytest.mark.slow
class TestEARWithTwoGrids(DetectorContract):
    def make(self) -> Detector:
        return EAR(tiny_vit(), unet="tiny", size=64, mask_grid=4, feature_grids=(6,), hint="empty")


@pytest.mark.slow
class TestEARAgainstItsRecovery(DetectorContract):
    def make(self) -> Detector:
        return EAR(
            tiny_vit(), unet="tiny", size=64, mask_grid=6, feature_grids=(4,), features="recovery"
        )


class TestEARAsPublished(DetectorContract):
    def make(self) -> Detector:
        return EAR(tiny_vit(), unet="tiny", size=64, mask_grid=4, features="none", cell=8)


# --- the hint


def slow_mosaic(image: np.ndarray, cell: int) -> np.ndarray:
    out = image.copy()
    for top in range(0, image.shape[1], cell):
        for left in range(0, image.shape[2], cell):
            block = np.s_[:, top : top + cell, left : left + cell]
            out[block] = image[block].mean((1, 2), keepdims=True)
    return out


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_mosaic_equals_numpy(height: int, width: int, power: int, seed: int) -> None:
    image = np.random.default_rng(seed).random((3, height, width))
    got = mosaic(torch.from_numpy(image), 2**power).numpy()
    np.testing.assert_allclose(got, slow_mosaic(image, 2**power), rtol=1e-12)


@settings(deadline=None)
@given(st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_mosaic_of_whole_cells(power: int, seed: int) -> None:
    image = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(seed))
    once = mosaic(image, 2**power)
    torch.testing.assert_close(once.mean((1, 2)), image.mean((1, 2)))
    torch.testing.assert_close(mosaic(once, 2**power), once, atol=1e-5, rtol=0)


def test_a_cell_of_one_pixel_is_the_identity() -> None:
    image = pictures(1)[0]
    assert torch.equal(mosaic(image, 1), image)


@settings(deadline=None)
@given(st.integers(1, 16), st.sampled_from([64, 128, 256, 512]))
def test_the_cell_grows_with_the_mask(grid: int, size: int) -> None:
    cells = []
    for masked in range(grid * grid + 1):
        mask = (torch.arange(grid * grid) < masked).float().view(1, grid, grid)
        cells.append(cell_of(mask, size))
    assert cells == sorted(cells)
    assert set(cells) <= {4, 8, 16, 32}
    assert cells[0] == 4


def test_cells_by_hand() -> None:
    full, quarter = torch.ones(1, 4, 4), torch.zeros(1, 4, 4)
    quarter[:, :2, :2] = 1
    assert cell_of(full, 256) == 8  # a twentieth of 256 is 12.8
    assert cell_of(quarter, 256) == 4  # a twentieth of 128 is 6.4
    assert cell_of(full, 1024) == 32  # the largest


@pytest.mark.parametrize("cell", [None, 8])
@pytest.mark.parametrize("hint", ["mosaic", "empty"])
def test_excision_keeps_the_rest_bit_for_bit(
    hint: Literal["mosaic", "empty"], cell: int | None
) -> None:
    images = pictures(3)
    mask = (torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    mask[0] = 0
    excised = excise(images, mask, hint, cell)
    wide = F.interpolate(mask, (64, 64), mode="nearest").bool().expand_as(images)
    assert torch.equal(excised[~wide], images[~wide])
    if hint == "empty":
        assert not excised[wide].any()
    else:
        cells = [cell or cell_of(m, 64) for m in mask]
        wanted = torch.stack([mosaic(x, c) for x, c in zip(images, cells, strict=True)])
        assert torch.equal(excised[wide], wanted[wide])
        assert not torch.equal(excised[wide], images[wide])


# --- the U-Net


@pytest.mark.parametrize(
    ("preset", "parameters"), [("full", 7_700_291), ("small", 1_927_075), ("tiny", 482_771)]
)
def test_unet_presets(preset: str, parameters: int) -> None:
    with torch.device("meta"):
        net = UNet(preset)
        recovered = net(torch.empty(2, 3, 64, 40))
    assert recovered.shape == (2, 3, 64, 40)
    assert net.multiple == 8
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_unet_of_an_unknown_preset() -> None:
    with pytest.raises(ValueError, match="preset huge: choose one of full, small, tiny"):
        UNet("huge")


# --- the maps


@pytest.mark.parametrize("grid", [4, 6])
@pytest.mark.parametrize(
    ("features", "names"),
    [
        ("none", {"structure"}),
        ("memory", {"structure", "features"}),
        ("recovery", {"structure", "features"}),
    ],
)
@torch.no_grad()
def test_maps_and_passes(features: str, names: set[str], grid: int) -> None:
    net = ear(features=features, feature_grids=(grid,))
    assert net.input_size == (96 if grid == 6 and features != "none" else 64)
    net.remember([pictures(2)])
    with inputs_of(net.unet) as unet, inputs_of(tiny_vit().net.patch_embed) as vit:
        maps = net.maps(pictures(2))
    assert maps.keys() == names
    assert len(unet) == 1
    # One for the mask, one for the features; the recovery is looked at once more.
    assert len(vit) == 1 + (features != "none") + (features == "recovery")


@pytest.mark.parametrize("hint", ["mosaic", "empty"])
@torch.no_grad()
def test_the_unet_sees_the_excised_picture(hint: Literal["mosaic", "empty"]) -> None:
    net, images = ear(hint=hint, features="none"), pictures(2)
    with inputs_of(net.unet) as seen:
        recovery = net.recover(images)
    region = net.region(images)
    assert 0 < region.mean() < 1
    assert torch.equal(recovery.image, images)
    assert torch.equal(seen[0], excise(images, F.max_pool2d(region, 16), hint, None))


@pytest.mark.parametrize("grid", [4, 6])  # at the size of the recovery, and above it
@torch.no_grad()
def test_a_perfect_recovery_has_an_empty_map(grid: int) -> None:
    # a mosaic of single pixels hides nothing
    net = ear(features="recovery", cell=1, feature_grids=(grid,))
    net.unet = nn.Identity()  # type: ignore[assignment]
    maps = net.maps(pictures(2, net.input_size))
    assert not maps["structure"].any()
    assert maps["features"].max() < 1e-6


@torch.no_grad()
def test_larger_pictures_give_nothing_but_work() -> None:
    net, large = ear(), pictures(2, 160)
    net.remember([pictures(2)])
    resized = F.interpolate(large, (64, 64), mode="bilinear", antialias=True)
    assert_equal(net.maps(large), net.maps(resized))


@torch.no_grad()
def test_remembered_pictures_are_near_and_others_are_not() -> None:
    net, good = ear(), pictures(3)
    net.remember([good])
    assert net.neighbours is not None
    marks = net.neighbours.region(good)[:, :, ::16, ::16]  # a pixel per token
    assert len(net.neighbours.memories[0].bank) == marks.sum()  # only what is under the mask
    near, far = net.maps(good)["features"], net.maps(pictures(3, seed=5))["features"]
    assert near.max() < 2e-3  # float16
    assert far.max() > 2 * near.max()


@torch.no_grad()
def test_only_the_part_is_scored_by_features() -> None:
    mask = AttentionMask(rule="quantile", keep=0.3, min_tokens=0)
    net = ear(mask=mask, feature_mask=mask)
    net.remember([pictures(1, seed=5)])
    images = pictures(1)
    region, map_ = net.region(images), net.maps(images)["features"]
    reach = F.max_pool2d(region, 17, stride=1, padding=8)  # enlarging spreads half a token
    assert (reach == 0).any()
    assert not map_[reach == 0].any()
    assert map_[region == 1].max() > 0


# --- training


def test_the_backbone_never_learns() -> None:
    net = ear().train()
    net.recover(pictures(2)).recovered.sum().backward()
    assert not tiny_vit().net.training
    assert all(p.grad is None and not p.requires_grad for p in tiny_vit().net.parameters())
    assert all(name.startswith("unet.") for name, _ in net.named_parameters())
    assert not any(key.startswith("backbone") for key in net.state_dict())


@pytest.mark.slow
def test_it_learns() -> None:
    net, images = ear(features="none").train(), pictures(4)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        recovered, image = net.recover(images)
        loss = (recovered - image).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3


@pytest.mark.parametrize("kept", [100, 1])
def test_each_mask_is_worked_out_once(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision.anomaly.ear.KNOWN_MASKS", kept)
    net, images = ear(features="none"), pictures(3)
    region = net.region(images)
    net.train()
    with inputs_of(tiny_vit().net.patch_embed) as first:
        assert torch.equal(net.region(images), region)
    with inputs_of(tiny_vit().net.patch_embed) as again:
        assert torch.equal(net.region(images.flip(0)), region.flip(0))
    assert len(first) == 3
    assert len(again) == (0 if kept == 100 else 2)  # the last one is still known


# --- what is refused


def test_an_empty_memory() -> None:
    with pytest.raises(ValueError, match=r"memory is empty; run `train\.py fit` first"):
        ear().maps(pictures(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": 12}, "cell=12: a mosaic cell is a power of two"),
        ({"cell": 0}, "cell=0: a mosaic cell is a power of two"),
        ({"size": 60}, "size=60: the U-Net needs a multiple of 8"),
        ({"unet": "huge"}, "preset huge"),
        ({"hint": "blur"}, "hint=blur: choose mosaic or empty"),
        ({"features": "bank"}, "features=bank: choose memory, recovery or none"),
        ({"capacity": 0}, "capacity=0, dims=64: the memory must hold"),
        ({"blocks": (6, 12)}, "has 12 blocks; 12 is none of them"),
    ],
)
def test_wrong_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ear(**options)
