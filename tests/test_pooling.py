"""Pools over the whole picture, seen in tiles: what they share."""

import pytest
import torch
from nets import picture, shaken
from torch import Tensor, nn

from vision.layers.pooling import GlobalMean, shared_pooling
from vision.restoration import HAT, RAT, DWFormer
from vision.restoration.dwformer import AggregatedChannelAttention
from vision.restoration.hat import Dims
from vision.run.tiles import Tiler

CPU = torch.device("cpu")


class Gate(nn.Module):
    """A net of one global pool: what each tile should multiply with is known."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return x * self.pool(x) if isinstance(self.pool, GlobalMean) else self.pool(x)


@pytest.mark.parametrize("kind", ["mean", "paper", "released"])
@pytest.mark.parametrize("size", [(96, 160), (100, 71), (64, 200)])
@torch.no_grad()
def test_one_pool_is_nearly_exact(kind: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    released = kind == "released"
    pool = GlobalMean() if kind == "mean" else AggregatedChannelAttention(3, released)
    net = Gate(pool).eval()
    ramp = torch.linspace(0, 1, size[1])  # tiles that differ
    image = (picture(*size) * 0.1 + ramp)[0]
    if released:
        image = image / (size[0] * size[1])  # it sums, and the gate would be shut or open
    whole = net(image[None])[0]
    shared = Tiler(net, 1, 64, CPU, pools=net)(image)
    alone = Tiler(net, 1, 64, CPU)(image)
    off, before = (shared - whole).abs().max(), (alone - whole).abs().max()
    # A tile's mean counts its overlap like the rest of it, so a little is left.
    assert off < 0.25 * before


@pytest.mark.slow
@pytest.mark.parametrize(
    "net",
    [
        DWFormer((4, 6, 8, 6, 4), (2, 1, 1, 1, 1), (2,) * 5),
        HAT(scale=2, dims=Dims(24, (2, 2), 4, 3, 6, 8, features=16), conv_scale=1.0),
    ],
    ids=["DWFormer", "HAT"],
)
@torch.no_grad()
def test_nets_come_nearer_to_the_whole(net: nn.Module) -> None:
    net = shaken(net).eval()
    image = picture(128, 128)[0] * torch.linspace(0.1, 1, 128)
    whole = net(image[None])[0]
    scale = whole.shape[-1] // 128
    shared = Tiler(net, scale, 96, CPU, pools=net)(image)
    alone = Tiler(net, scale, 96, CPU)(image)
    assert (shared - whole).abs().mean() < (alone - whole).abs().mean()


@pytest.mark.slow
@torch.no_grad()
def test_nothing_is_left_behind() -> None:
    net, image = DWFormer((4, 6, 8, 6, 4), (1,) * 5, (2,) * 5).eval(), picture(80, 80)
    before = net(image)
    tiler = Tiler(net, 1, 64, CPU, pools=net)
    assert not torch.equal(tiler(image[0]), before[0])
    assert tiler.used == 4
    assert torch.equal(net(image), before)
    with pytest.raises(RuntimeError), shared_pooling(net):
        raise RuntimeError
    assert torch.equal(net(image), before)


@torch.no_grad()
def test_a_picture_of_one_tile_is_whole() -> None:
    net = RAT(width=8, groups=1).eval()
    image, regions = picture(48, 48, 1), torch.zeros(1, 1, 48, 48, dtype=torch.long)

    def call(x: Tensor) -> Tensor:
        return net(x, regions)

    tiler = Tiler(call, 1, 64, CPU, pools=net)
    assert torch.equal(tiler(image[0]), net(image, regions)[0])
    assert tiler.used == 1


@torch.no_grad()
def test_a_tile_that_runs_out_of_memory_half_way_counts_once() -> None:
    net, failed = Gate(GlobalMean()), []

    def call(x: Tensor) -> Tensor:
        y = net(x)
        if x.shape[-1] > 64 and not failed:
            failed.append(x.shape)
            raise MemoryError
        return y

    image = torch.linspace(0, 1, 256).expand(3, 64, 256)
    smooth = Tiler(net, 1, 64, CPU, pools=net)(image)
    mended = Tiler(call, 1, 128, CPU, pools=net)(image)
    assert failed
    torch.testing.assert_close(mended, smooth, atol=0.02, rtol=0)
