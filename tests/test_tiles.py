"""Tiles: what they cover, that they leave no seam, and what happens when memory runs out."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from data.degrade import bicubic
from vision.layers.padding import mirror_pad
from vision.run.memory import out_of_memory
from vision.run.restore import eightfold
from vision.run.tiles import OVERLAP, STEP, Tiler, places

CPU = torch.device("cpu")


def double(images: Tensor) -> Tensor:
    return F.interpolate(images, scale_factor=2.0, mode="nearest")


def picture(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height + width))


@given(st.integers(1, 700), st.integers(64, 300))
def test_weights_add_up_to_one(side: int, tile: int) -> None:
    total = torch.zeros(side)
    found = places(side, tile)
    for start, weight in found:
        assert len(weight) == len(found[0][1]) <= min(side, tile)
        assert (weight >= 0).all()
        total[start : start + len(weight)] += weight
    torch.testing.assert_close(total, torch.ones(side))
    assert [start for start, _ in found] == sorted({start for start, _ in found})
    twice = len(found) * len(found[0][1]) - side
    assert twice <= (len(found) - 1) * OVERLAP + len(found) * STEP  # no more than must be


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(64, 160))
def test_a_net_that_looks_at_one_pixel_is_not_disturbed(height: int, width: int, tile: int) -> None:
    image, tiler = picture(height, width), Tiler(double, 2, tile, CPU)
    torch.testing.assert_close(tiler(image), double(image[None])[0])
    assert (tiler.used > 1) == (max(height, width) > tile)


@pytest.mark.slow
@torch.no_grad()
def test_no_seam() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 7, padding=3), nn.ReLU(), nn.Conv2d(8, 3, 7, padding=3))
    image = F.avg_pool2d(picture(170, 120), 5, 1, 2)
    whole, tiled = net(image[None])[0], Tiler(net, 1, 96, CPU)(image)
    torch.testing.assert_close(tiled, whole)  # a tile's edge is wrong for six pixels, and unused
    wide = nn.Conv2d(3, 3, 41, padding=20)  # here for twenty, where its weight is at most 3/4
    whole, tiled = wide(image[None])[0], Tiler(wide, 1, 96, CPU)(image)
    jumps = (whole - tiled).diff(dim=2).abs().max()
    assert 0 < jumps < whole.diff(dim=2).abs().max()


class Small:
    """A net on a device that holds pictures up to `side` pixels a side."""

    def __init__(self, side: int, error: Exception) -> None:
        self.side, self.error = side, error
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.calls.append(tuple(images.shape[-2:]))
        if max(images.shape[-2:]) > self.side:
            raise self.error
        return double(images)


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        RuntimeError("not enough memory: you tried to allocate"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
@pytest.mark.parametrize("tile", [0, 512])
def test_tiles_are_halved_until_they_fit(error: Exception, tile: int) -> None:
    net, image = Small(130, error), picture(500, 400)
    tiler = Tiler(net, 2, tile, CPU)
    torch.testing.assert_close(tiler(image), double(image[None])[0])
    too_large = [call for call in net.calls if max(call) > 130]
    assert too_large == [(500, 400), (192, 224)]  # each size is tried once
    net.calls.clear()
    tiler(image)
    assert all(max(call) <= 130 for call in net.calls)  # and is remembered


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(RuntimeError, match="boom"):
        Tiler(Small(10, RuntimeError("boom")), 2, 0, CPU)(picture(20, 20))
    with pytest.raises(MemoryError):
        Tiler(Small(10, MemoryError()), 2, 0, CPU)(picture(300, 300))
    small = Tiler(Small(64, MemoryError()), 2, 0, CPU)  # the smallest tile is tried
    assert small(picture(100, 90)).shape == (3, 200, 180)
    with pytest.raises(ValueError, match="a tile of 12 pixels is too small; give 64 or more"):
        Tiler(double, 2, 12, CPU)
    assert not out_of_memory(ValueError("not enough memory"))


@torch.no_grad()
def test_eightfold_is_the_mean_over_the_square_group() -> None:
    torch.manual_seed(0)
    net, image = nn.Conv2d(3, 3, 3, padding=1), picture(9, 14)[None]
    restored = eightfold(net, image)
    assert restored.shape == image.shape
    for turned in (image.rot90(1, (2, 3)), image.flip(3), image.transpose(2, 3)):
        back = eightfold(net, turned)
        wanted = {
            tuple(image.rot90(1, (2, 3)).shape): restored.rot90(1, (2, 3)),
        }.get(tuple(turned.shape), restored.flip(3))
        if torch.equal(turned, image.transpose(2, 3)):
            wanted = restored.transpose(2, 3)
        torch.testing.assert_close(back, wanted)
    plain = eightfold(nn.Identity(), image)
    torch.testing.assert_close(plain, image)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 4, 8, 16]))
def test_mirror_pad(height: int, width: int, multiple: int) -> None:
    image = picture(height, width)[None]
    padded = mirror_pad(image, multiple)
    assert all(
        0 <= p - s < multiple and p % multiple == 0
        for p, s in zip(padded.shape[-2:], image.shape[-2:], strict=True)
    )
    assert torch.equal(padded[..., :height, :width], image)
    more = (0, padded.shape[-1] - width, 0, padded.shape[-2] - height)
    if more[1] < width and more[3] < height:
        assert torch.equal(padded, F.pad(image, more, mode="reflect"))


def test_bicubic_refuses() -> None:
    with pytest.raises(ValueError, match="give uint8 H×W or H×W×C"):
        bicubic(picture(4, 4).numpy(), 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale 0 leaves no pixel"):
        bicubic((picture(4, 4).numpy() * 255).astype("uint8"), 0)
