"""RAT: the published size, the released names, region maps, gradients, wrong calls."""

import pytest
import torch
from nets import picture, shaken, without_gradient
from torch import Tensor

from vision.restoration import RAT


def tiny(scale: int = 1, channels: int = 1) -> RAT:
    torch.manual_seed(0)
    return shaken(RAT(scale, channels, width=8, groups=2, blocks=(1, 2))).eval()


def quarters(height: int, width: int) -> Tensor:
    """Four regions, 1×1×H×W."""
    rows = (torch.arange(height) * 2 // height)[:, None]
    return (2 * rows + torch.arange(width) * 2 // width)[None, None]


def test_the_published_size_and_what_its_keys_say() -> None:
    with torch.device("meta"):
        net = RAT()
    assert sum(p.numel() for p in net.parameters()) == 15_945_025
    described = {"channels": 1, "width": 64, "groups": 4, "blocks": [2, 2]}
    assert RAT.describe(net.state_dict()) == described
    assert RAT.describe(tiny(channels=3).state_dict()) == {
        "channels": 3,
        "width": 8,
        "groups": 2,
        "blocks": [1, 2],
    }
    assert RAT.describe({"conv.weight": torch.zeros(1)}) is None


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 200), (33, 16)])
@pytest.mark.parametrize("scale", [1, 2])
@torch.no_grad()
def test_shapes(size: tuple[int, int], scale: int) -> None:
    restored = tiny(scale)(picture(*size, 1), quarters(*size))
    assert restored.shape == (1, 1, size[0] * scale, size[1] * scale)
    assert restored.isfinite().all()


@torch.no_grad()
def test_a_token_sees_its_own_region_far_away_and_no_other() -> None:
    net, image = tiny(), picture(96, 96, 1)
    changed = image.clone()
    changed[..., :16, :16] = 0.5
    # Two regions: the corners at the upper left and the lower right, and all else.
    regions = torch.zeros(1, 1, 96, 96, dtype=torch.long)
    regions[..., :32, :32] = regions[..., 64:, 64:] = 1
    joined = (net(changed, regions) - net(image, regions))[0, 0].abs()
    regions[..., 64:, 64:] = 2
    apart = (net(changed, regions) - net(image, regions))[0, 0].abs()
    assert joined[80:, 80:].mean() > 1.5 * apart[80:, 80:].mean()  # what is left: global pooling


@torch.no_grad()
def test_a_map_of_the_size_of_the_input_serves_a_net_that_enlarges() -> None:
    net, image, regions = tiny(scale=2), picture(24, 16, 1), quarters(24, 16)
    enlarged = regions.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(net(image, regions), net(image, enlarged))


@torch.no_grad()
def test_pictures_of_a_batch_do_not_touch() -> None:
    net, images = tiny(), torch.cat([picture(32, 32, 1), picture(32, 32, 1) * 0.3])
    regions = torch.cat([quarters(32, 32), 3 - quarters(32, 32)])
    each = torch.cat([net(x[None], r[None]) for x, r in zip(images, regions, strict=True)])
    torch.testing.assert_close(net(images, regions), each, atol=1e-5, rtol=0)


def test_every_parameter_gets_a_gradient() -> None:
    net = tiny().train()
    net(picture(32, 16, 1), quarters(32, 16)).square().mean().backward()
    assert without_gradient(net) == []


def test_wrong_calls() -> None:
    with pytest.raises(ValueError, match=r"width 6: give .* a multiple of its 8 heads"):
        RAT(width=6, blocks=(2,))
    with pytest.raises(ValueError, match="RAT of scale 0"):
        RAT(scale=0)
    net, image = tiny(), picture(16, 16, 1)
    with pytest.raises(ValueError, match=r"a region map of \(8, 16\) for a result of \(16, 16\)"):
        net(image, quarters(8, 16))
    with pytest.raises(ValueError, match="the label -1; labels begin at 0"):
        net(image, quarters(16, 16) - 1)
