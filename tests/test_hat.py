"""HAT: the published sizes, parity with spandrel's independent one, gradients, wrong parameters."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import picture, shaken, without_gradient
from spandrel import ModelLoader
from torch import Tensor

from vision.restoration import HAT
from vision.restoration.hat import PRESETS, Dims

TINY = Dims(embed_dim=24, depths=(2, 3), num_heads=4, compress=3, squeeze=6, window=8, features=64)
PUBLISHED = {
    ("HAT-S", 2): 9_473_471,
    ("HAT-S", 3): 9_658_111,
    ("HAT-S", 4): 9_621_183,
    ("HAT", 2): 20_624_795,
    ("HAT", 3): 20_809_435,
    ("HAT", 4): 20_772_507,
    ("HAT-L", 2): 40_698_863,
    ("HAT-L", 3): 40_883_503,
    ("HAT-L", 4): 40_846_575,
}


def tiny(**options: Any) -> HAT:
    torch.manual_seed(0)
    return shaken(HAT(dims=TINY, **options)).eval()


@torch.no_grad()
def difference(net: HAT, image: Tensor) -> float:
    """The largest difference to spandrel's net with the same weights, of the output's range."""
    theirs = ModelLoader().load_from_state_dict(dict(net.state_dict())).model.eval()
    ours, wanted = net(image), theirs(image)
    assert ours.shape == wanted.shape
    return float((ours - wanted).abs().max() / (wanted.max() - wanted.min()))


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "scale"), PUBLISHED)
def test_published_sizes(preset: str, scale: int) -> None:
    with torch.device("meta"):
        net = HAT(preset, scale)
    assert sum(p.numel() for p in net.parameters()) == PUBLISHED[preset, scale]
    assert HAT.describe(net.state_dict()) == {
        "scale": scale,
        "channels": 3,
        "dims": PRESETS[preset],
    }


def test_no_arguments_mean_the_published_standard() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in HAT().parameters()) == PUBLISHED["HAT", 4]
        assert 0.9e6 < sum(p.numel() for p in HAT("light").parameters()) < 1.3e6


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "scale"), PUBLISHED)
def test_parity_with_spandrel(preset: str, scale: int) -> None:
    torch.manual_seed(0)
    net = shaken(HAT(preset, scale)).eval()
    assert difference(net, picture(48, 40)) <= 1e-4


@pytest.mark.slow
@settings(deadline=None, max_examples=12)
@given(st.integers(8, 40), st.integers(8, 40), st.sampled_from([2, 3, 4]))
def test_parity_at_any_size(height: int, width: int, scale: int) -> None:
    assert difference(tiny(scale=scale), picture(height, width)) <= 1e-5


@pytest.mark.parametrize(
    "scale",
    [1, 2, 3, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "size", [(1, 1), (3, 5), pytest.param((1, 200), marks=pytest.mark.slow), (17, 16)]
)
@torch.no_grad()
def test_shapes(scale: int, channels: int, size: tuple[int, int]) -> None:
    restored = tiny(scale=scale, channels=channels)(picture(*size, channels))
    assert restored.shape == (1, channels, size[0] * scale, size[1] * scale)
    assert restored.isfinite().all()


@pytest.mark.parametrize("direct", [False, True])
def test_every_parameter_gets_a_gradient(direct: bool) -> None:
    torch.manual_seed(0)
    net = shaken(HAT(dims=TINY._replace(direct=direct), scale=2, drop_path=0.0)).train()
    net(picture(24, 16).repeat(2, 1, 1, 1)).square().mean().backward()
    assert without_gradient(net) == []


def test_learning_changes_no_result() -> None:
    """Attention takes another way where its bias learns."""
    net, image = tiny(scale=2), picture(21, 30)
    with torch.inference_mode():
        wanted = net(image)
    torch.testing.assert_close(net(image), wanted, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_the_light_net_begins_at_bicubic(scale: int) -> None:
    net, image = HAT("light", scale).eval(), picture(9, 14)
    padded = F.pad(image, (0, 2, 0, 7), mode="reflect")  # to whole windows
    wanted = F.interpolate(padded, scale_factor=scale, mode="bicubic")
    wanted = wanted[..., : 9 * scale, : 14 * scale]
    torch.testing.assert_close(net(image), wanted)


@pytest.mark.slow
@torch.no_grad()
def test_pictures_of_a_batch_do_not_touch() -> None:
    net, images = tiny(scale=2), torch.cat([picture(20, 24), picture(20, 24) * 0.3])
    each = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(net(images), each, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "HAT-XL"}, "preset HAT-XL: choose one of HAT, HAT-S, HAT-L, light"),
        ({"scale": 5}, "scale 5: choose 1, 2, 3, 4 or 8"),
        ({"dims": Dims(embed_dim=25)}, "embed_dim=25: must divide by num_heads=6"),
    ],
)
def test_wrong_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HAT(**options)
