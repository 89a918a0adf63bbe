"""RAT: the published size, the released names, region maps, gradients, wrong calls."""

import pytest
import torch
import torch.nn.functional as F
from nets import drawn, layer, picture, shaken, shapes, summary, without_gradient
from torch import Tensor

from data.regions import superpixels
from vision.layers.regions import Regions
from vision.restoration import RAT
from vision.restoration.rat import RegionAttention


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


Shapes = dict[str, tuple[int, ...]]


def naf_block(name: str, dim: int) -> Shapes:
    found: Shapes = {f"{name}.{key}": (1, dim, 1, 1) for key in ("beta", "gamma")}
    for key in ("norm1", "norm2"):
        found |= layer(f"{name}.{key}", dim)
    for key in ("conv1", "conv4"):
        found |= layer(f"{name}.{key}", 2 * dim, dim, 1, 1)
    for key in ("sca.1", "conv3", "conv5"):
        found |= layer(f"{name}.{key}", dim, dim, 1, 1)
    return found | layer(f"{name}.conv2", 2 * dim, 1, 3, 3)


def attention_layer(name: str, dim: int) -> Shapes:
    found: Shapes = {}
    for kind, last, kernel in (("ra", "project_out", (1, 1)), ("wa", "proj_out", ())):
        found[f"{name}.lambda_{kind}"] = (1, dim, 1, 1)
        found |= layer(f"{name}.norm_{kind}", dim) | layer(f"{name}.norm_{kind}_mlp", dim)
        found |= layer(f"{name}.{kind}.qkv", 3 * dim, dim, *kernel)
        found |= layer(f"{name}.{kind}.{last}", dim, dim, *kernel)
        found |= layer(f"{name}.mlp_{kind}.fc1", 2 * dim, dim, 1, 1)
        found |= layer(f"{name}.mlp_{kind}.fc2", dim, 2 * dim, 1, 1)
    return found


def test_the_released_names_and_shapes() -> None:
    wanted = layer("intro", 64, 1, 3, 3) | layer("ending", 1, 64, 3, 3)
    for level, dim in enumerate((64, 128)):
        wanted |= layer(f"downs.{level}", 2 * dim, dim, 2, 2)
        wanted |= layer(f"ups.{1 - level}.0", 4 * dim, 2 * dim, 1, 1, bias=0)
        for block in range(2):
            wanted |= naf_block(f"encoders.{level}.{block}", dim)
            wanted |= naf_block(f"decoders.{1 - level}.{block}", dim)
    for group in range(4):
        wanted |= layer(f"middle_blks.{group}.conv", 256, 256, 3, 3)
        for number in range(3):
            wanted |= attention_layer(f"middle_blks.{group}.layers.{number}", 256)
    with torch.device("meta"):
        assert shapes(RAT()) == wanted


@pytest.mark.slow
@torch.no_grad()
def test_the_function_is_the_released_one() -> None:
    """Numbers of a net that was run beside the released code, and differed by 1e-5 at most."""
    restored = drawn(RAT(), 0.7)(picture(64, 48, 1), quarters(64, 48))
    wanted = [-0.2464033, 0.9860896, 0.2063189, -0.7044126, 1.3685060]
    assert summary(restored) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("side", [64, 128])  # the larger has a region that is attended alone
@torch.no_grad()
def test_attention_by_region_equals_the_released_dense_form(side: int) -> None:
    torch.manual_seed(0)
    attention, x = shaken(RegionAttention(256, 8)), torch.randn(1, 256, side // 4, side // 4)
    smooth = F.interpolate(picture(8, 8), (side, side), mode="bilinear")
    rgb = (smooth[0] * 255).byte().permute(1, 2, 0).numpy()
    labels = torch.from_numpy(superpixels(rgb)[::4, ::4].copy()).flatten()
    assert labels.max() > 0
    q, k, v = attention.qkv(x).view(3, 8, 32, -1)  # heads × 32 × N
    logits = q.transpose(1, 2) @ k * 8**-0.5 - 1000.0 * (labels[:, None] != labels)
    wanted = (v @ logits.softmax(-1).transpose(1, 2)).reshape(x.shape)
    found = attention(x, Regions(labels[None]))
    assert (found - attention.project_out(wanted)).abs().max() <= 1e-4


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
