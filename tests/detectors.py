"""What every detector must do: derive `DetectorContract`, give `make`, and all of it is tested."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vision.anomaly import Detector, Scorer
from vision.backbones import Backbone
from vision.losses import RecoveryLoss


@cache
def tiny_vit() -> Backbone:
    """A ViT-Ti/16 with random weights; one for all tests, since building it takes longest."""
    torch.manual_seed(0)
    return Backbone("vit_tiny_patch16_224", weights="none")


def pictures(count: int, size: int = 64, seed: int = 0) -> Tensor:
    """Soft random pictures, count×3×size×size in [0, 1]."""
    coarse = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)


def bar(
    angle: float,
    length: float,
    width: float = 14,
    middle: tuple[float, float] | None = None,
    sides: tuple[int, int] = (96, 96),
) -> NDArray[np.uint8]:
    """A dark bar on grey, of these sides (H, W): uint8 H×W×3; `middle` is (x, y)."""
    picture = np.full((*sides, 3), 200, np.uint8)
    box = cv2.boxPoints((middle or (sides[1] / 2, sides[0] / 2), (length, width), angle))
    cv2.fillConvexPoly(picture, box.round().astype(int), (50, 50, 50))
    return picture


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """The inputs of every pass through a module, copied as they come."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    try:
        yield seen
    finally:
        handle.remove()


def assert_equal(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """The same maps, bit for bit."""
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


class DetectorContract:
    """A new net is tested the day it is added: `class TestNew(DetectorContract)` with a `make`."""

    def make(self) -> Detector:
        raise NotImplementedError

    @pytest.fixture
    def net(self) -> Detector:
        """A small one that has remembered its good pictures."""
        torch.manual_seed(1)
        net = self.make().eval()
        with torch.no_grad():
            net.remember([pictures(2, net.input_size), pictures(1, net.input_size, seed=1)])
        return net

    @torch.no_grad()
    def test_maps(self, net: Detector) -> None:
        images = pictures(2, net.input_size, seed=2)
        before = images.clone()
        maps = net.maps(images)
        assert maps
        for map_ in maps.values():
            assert map_.shape == (2, 1, net.size, net.size)
            assert map_.dtype == torch.float32
            assert map_.isfinite().all()
            assert map_.min() >= 0
        assert Scorer().smoothed(maps).keys() == maps.keys()  # names that a scorer knows
        assert torch.equal(images, before)

    @torch.no_grad()
    def test_two_calls_agree_bit_for_bit(self, net: Detector) -> None:
        images = pictures(2, net.input_size, seed=2)
        assert_equal(net.maps(images), net.maps(images))

    @torch.no_grad()
    def test_a_picture_keeps_its_maps_in_company(self, net: Detector) -> None:
        images = pictures(3, net.input_size, seed=2)
        for name, together in net.maps(images).items():
            alone = torch.cat([net.maps(image[None])[name] for image in images])
            torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)

    @torch.no_grad()
    def test_larger_pictures_are_resized(self, net: Detector) -> None:
        small = net.maps(pictures(1, net.input_size))
        large = net.maps(pictures(1, 2 * net.input_size))
        assert {n: m.shape for n, m in large.items()} == {n: m.shape for n, m in small.items()}

    @torch.no_grad()
    def test_region(self, net: Detector) -> None:
        side = net.input_size + 5
        region = net.region(pictures(2, side))
        assert region.shape == (2, 1, side, side)
        assert set(region.unique().tolist()) <= {0.0, 1.0}
        assert region.flatten(1).any(1).all()

    @torch.no_grad()
    def test_the_state_dict_holds_all(self, net: Detector) -> None:
        torch.manual_seed(2)
        other = self.make().eval()
        other.load_state_dict(net.state_dict())
        images = pictures(2, net.input_size, seed=2)
        assert_equal(other.maps(images), net.maps(images))

    def test_learning(self, net: Detector) -> None:
        images = pictures(2, net.input_size, seed=2)
        if not net.learns:
            with pytest.raises(NotImplementedError, match="does not learn"):
                net.recover(images)
            return
        recovery = net.train().recover(images)
        assert recovery.recovered.shape == recovery.image.shape == (2, 3, net.size, net.size)
        assert recovery.image.min() >= 0
        assert recovery.image.max() <= 1 + 1e-6
        RecoveryLoss()(*recovery)["loss"].backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
