"""DWFormer: the published size, both readings of its attention, gradients, wrong parameters."""

import pytest
import torch
from nets import picture, shaken, without_gradient

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
