"""DWFormer: the published size, both readings of its attention, gradients, wrong parameters."""

import pytest
import torch
from nets import drawn, layer, picture, shaken, shapes, summary, without_gradient

from vision.restoration import DWFormer
from vision.restoration.dwformer import AggregatedChannelAttention


def tiny(released: bool = False) -> DWFormer:
    torch.manual_seed(0)
    net = DWFormer((4, 6, 8, 6, 4), (2, 1, 1, 1, 1), (2, 2, 2, 2, 2), released=released)
    return shaken(net).eval()


def test_the_published_size_and_what_its_keys_say() -> None:
    with torch.device("meta"):
        net = DWFormer()
    assert sum(p.numel() for p in net.parameters()) == 1_447_047
    assert DWFormer.describe(net.state_dict()) == {
        "dims": [24, 48, 96, 48, 24],
        "mlp_ratios": [2, 4, 4, 2, 2],
        "depths": [8, 8, 8, 6, 6],
        "channels": 3,
        "released": True,
    }
    assert DWFormer.describe({"conv.weight": torch.zeros(1)}) is None


def test_the_released_names_and_shapes() -> None:
    wanted: dict[str, tuple[int, ...]] = {}
    stages = [(24, 2, 8), (48, 4, 8), (96, 4, 8), (48, 2, 6), (24, 2, 6)]
    for stage, (dim, ratio, depth) in enumerate(stages, 1):
        for block in range(depth):
            inter, intra = (f"block{stage}.blocks.{block}.{part}" for part in ("inter", "intra"))
            for norm in (f"{inter}.0", f"{intra}.0"):
                wanted |= layer(norm, dim) | {f"{norm}.num_batches_tracked": ()}
                wanted |= {f"{norm}.running_{what}": (dim,) for what in ("mean", "var")}
            wanted |= layer(f"{inter}.1", dim, dim, 1, 1) | layer(f"{inter}.2", dim, 1, 5, 5)
            wanted |= layer(f"{inter}.4.pwconv", 1, dim, 1, 1)
            wanted |= layer(f"{inter}.4.mlp.0", dim, dim, bias=0)
            wanted |= layer(f"{inter}.4.mlp.2", dim, dim, bias=0)
            wanted |= layer(f"{inter}.5", dim, dim, 1, 1)
            wanted |= layer(f"{intra}.1", ratio * dim, dim, 1, 1)
            wanted |= layer(f"{intra}.3", dim, ratio * dim, 1, 1)
    wanted |= layer("downproj1", 24, 3, 3, 3) | layer("downproj2", 48, 24, 2, 2)
    wanted |= layer("downproj3", 96, 48, 2, 2) | layer("out", 3, 24, 3, 3)
    wanted |= layer("upproj4.0", 192, 96, 1, 1) | layer("fuse1.0", 48, 96, 3, 3)
    wanted |= layer("upproj5.0", 96, 48, 1, 1) | layer("fuse2.0", 24, 48, 3, 3)
    with torch.device("meta"):
        assert shapes(DWFormer(released=True)) == wanted


@pytest.mark.slow
@torch.no_grad()
def test_the_function_is_the_released_one() -> None:
    """Numbers of a net that was run beside the released code, and differed by 1e-5 at most."""
    restored = drawn(DWFormer(released=True), 0.6)(picture(18, 14))
    wanted = [1.3417517, 0.3171198, 1.2443464, 1.4282017, 1.5863605]
    assert summary(restored) == pytest.approx(wanted, abs=1e-4)


@torch.no_grad()
def test_attention_of_the_paper_by_hand() -> None:
    attention = AggregatedChannelAttention(2, released=False)
    attention.pwconv.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    x = torch.tensor([[[[0.0, 3.0]], [[10.0, 20.0]]]])  # 1×2×1×2
    first = 1 / (1 + torch.e**3)  # the softmax over the two pixels of the first channel
    vector = torch.tensor([3 * (1 - first), 10 * first + 20 * (1 - first)])
    wanted = x * attention.mlp(vector[None])[..., None, None]
    torch.testing.assert_close(attention(x), wanted)


@torch.no_grad()
def test_the_released_attention_sums_over_pixels() -> None:
    attention = AggregatedChannelAttention(2, released=True)
    x = picture(3, 5, 2)
    wanted = x * attention.mlp(x.sum((-2, -1)))[..., None, None]
    torch.testing.assert_close(attention(x), wanted)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 200), (33, 16)])
@torch.no_grad()
def test_shapes(size: tuple[int, int]) -> None:
    for net in (tiny(), tiny(released=True)):
        restored = net(picture(*size))
        assert restored.shape == (1, 3, *size)
        assert restored.isfinite().all()


def test_every_parameter_gets_a_gradient() -> None:
    net = tiny().train()
    net(torch.cat([picture(24, 16), picture(24, 16) * 0.5])).square().mean().backward()
    assert without_gradient(net) == []


def test_wrong_parameters() -> None:
    with pytest.raises(ValueError, match="five of each, the dims alike from both ends"):
        DWFormer(dims=(24, 48, 96, 48, 12))
    with pytest.raises(ValueError, match="five of each"):
        DWFormer(depths=(8, 8))
