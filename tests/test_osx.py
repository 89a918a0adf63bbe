"""OSX: published layouts, parts by other hands, crops and cameras, gradients, wrong input."""

from __future__ import annotations

import copy
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import roma
import torch
import torch.nn.functional as F
from bodies import write_gated
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import picture, shaken, without_gradient
from torch import Tensor

import vision
from vision.backbones import Backbone
from vision.body import Anny
from vision.body.camera import intrinsics, project
from vision.layers.state import misfits
from vision.mesh.crops import CROP, FOCAL, crop_of, cut_out, real_place, towards
from vision.mesh.deformable import DeformableAttention, sines
from vision.mesh.osx import (
    OSX,
    Encoder,
    Levels,
    OSXPeople,
    sample,
    soft_argmax,
)
from vision.mesh.people import SHARED, stand
from vision.run.mesh import MeshPredictor
from vision.run.recovery import Recovery

KINDS = [(decoder, body) for decoder in (True, False) for body in ("smplx", "anny")]
VIT = "vit_tiny_patch16_224"

pytestmark = pytest.mark.slow  # a net of several parts, built anew for most tests


@cache
def tiny(
    decoder: bool = True, body: Any = "smplx", backbone: Backbone | None = None, join: int = 0
) -> OSX:
    torch.manual_seed(0)
    net = OSX(backbone, decoder, body, width=64, depth=1, box_width=16, join=join)
    return shaken(net).eval()


def two_people(net: OSX) -> OSXPeople:
    images = torch.cat([picture(60, 80), picture(60, 80).flip(-1)])
    camera = intrinsics(60, 80).expand(2, 3, 3)
    box = torch.tensor([[10.0, 5, 40, 55], [50, -10, 90, 70]])
    return net(images, camera, (torch.tensor([1, 0]), box))


def floats(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- the net


@pytest.mark.parametrize(("decoder", "body"), KINDS)
@torch.no_grad()
def test_the_promised_shapes(decoder: bool, body: str) -> None:
    net = tiny(decoder, body)
    people, crop = two_people(net)
    smplx = body == "smplx"
    rotations = 53 if smplx else 52
    assert len(net.spec.joints) == len(set(net.spec.joints)) == rotations
    assert net.spec.joints[:22] + net.spec.joints[-30:] == SHARED
    assert people.rotations.shape == (2, rotations, 3, 3)
    eye = torch.eye(3).expand(2, rotations, 3, 3)
    torch.testing.assert_close(people.rotations @ people.rotations.mT, eye, atol=1e-5, rtol=0)
    assert people.shape.shape == (2, 20 if smplx else 6)
    assert people.picture.tolist() == [1, 0]
    assert people.score.tolist() == [1, 1]
    assert (people.place[:, 2] > 0).all()
    points = (len(net.points["body"]), len(net.points["hand"]))
    assert points == ((25, 20) if smplx else (22, 15))
    assert crop.body.shape == (2, points[0], 3)
    assert crop.hands.shape == (2, 2, points[1], 3)
    assert crop.face.shape == (2, 72 if smplx and decoder else 0, 3)
    assert crop.centres.shape == crop.sizes.shape == (2, 3, 2)
    assert crop.boxes.shape == (2, 3, 4)
    assert not smplx or net.spec.anchor is None
    assert all(part.isfinite().all() for part in (*people, *crop))


@pytest.mark.parametrize(("decoder", "body"), KINDS)
def test_every_parameter_gets_a_gradient(decoder: bool, body: str) -> None:
    net = tiny(decoder, body)
    net.zero_grad()
    people, crop = two_people(net)
    sum(part.square().mean() for part in (people.place, *crop)).backward()  # type: ignore[union-attr]
    assert without_gradient(net) == []


@torch.no_grad()
def test_nobody_in_a_batch() -> None:
    for net in (tiny(), tiny(False, "anny"), copy.deepcopy(tiny()).train()):
        at = (torch.zeros(0, dtype=torch.long), torch.zeros(0, 4))
        people, crop = net(picture(60, 80), intrinsics(60, 80)[None], at)
        assert people.rotations.shape == (0, len(net.spec.joints), 3, 3)
        assert crop.hands.shape[:2] == (0, 2)


@torch.no_grad()
def test_half_precision_stays_inside() -> None:
    net = tiny(False, "anny")
    crop = two_people(net).crop
    with torch.autocast("cpu", torch.bfloat16):
        half = two_people(net).crop
    assert {part.dtype for part in half} == {torch.float32}
    torch.testing.assert_close(half.body, crop.body, atol=2, rtol=0)  # pixels


def test_who_is_looked_for() -> None:
    box = torch.tensor([[0.0, 0, 5, 9], [4, 4, 4, 9], [1, 1, 3, 2]])
    (where, kept), chosen = tiny().assign(torch.tensor([0, 0, 1]), torch.zeros(3, 2), box)
    assert chosen.tolist() == [0, 2]
    assert where.tolist() == [0, 1]
    assert kept.tolist() == box[[0, 2]].tolist()


@torch.no_grad()
def test_it_begins_at_somebody_who_looks_into_the_camera() -> None:
    net = OSX(width=64, depth=1, box_width=16, body="anny").eval()
    people, _ = two_people(net)
    still = torch.eye(3).repeat(2, 52, 1, 1)
    still[:, 0] = torch.diag(torch.tensor([1.0, -1, -1]))
    assert roma.rotmat_geodesic_distance(people.rotations, still).max() < 0.6
    body = stand(people, net.spec, Anny())
    torch.testing.assert_close(body.joints[:, 0], people.place)
    assert (body.joints[:, 0, 1] > body.joints[:, Anny().joint("head"), 1]).all()  # y points down


def test_wrong_input() -> None:
    net = tiny(False)
    images, camera = picture(60, 80), intrinsics(60, 80)[None]
    box, first = torch.tensor([[0.0, 0, 5, 9]]), torch.tensor([0])
    with pytest.raises(ValueError, match=r"pictures of shape .*give B×3×H×W"):
        net(images[0], camera, (first, box))
    with pytest.raises(ValueError, match="give 1×3×3"):
        net(images, camera[0], (first, box))
    with pytest.raises(ValueError, match=r"boxes of shape .*give 1×4"):
        net(images, camera, (first, box[0]))
    with pytest.raises(ValueError, match="without area; give left, top, right, bottom"):
        net(images, camera, (first, -box))
    with pytest.raises(ValueError, match=r"people in pictures .* of 1; count from 0"):
        net(images, camera, (first + 3, box))
    with pytest.raises(ValueError, match="give 3×512×384"):
        net.regress(picture(256, 192))
    with pytest.raises(ValueError, match="gives anny or smplx"):
        tiny(body="smpl")
    with pytest.raises(ValueError, match="resnet18 is no plain ViT"):
        OSX(Backbone("resnet18", "none", frozen=False))
    with pytest.raises(ValueError, match="give frozen=False"):
        OSX(Backbone(VIT, "none"))


# --- published layouts


@pytest.mark.parametrize(("decoder", "count"), [(True, 369_896_664), (False, 326_654_872)])
def test_the_published_size_and_what_its_keys_say(decoder: bool, count: int) -> None:
    with torch.device("meta"):
        net = OSX(decoder=decoder)
    assert sum(p.numel() for p in net.parameters()) == count
    told = {"decoder": decoder, "width": 1024, "depth": 24, "box_width": 256}
    assert OSX.describe(net.state_dict()) == told
    assert OSX.describe({"conv.weight": torch.zeros(1)}) is None


PUBLISHED = (
    (r"^(\w+_decoder)\.(neck)\.(\d)\.0\.", r"\1.\2.convs.\3.conv."),
    (r"^(\w+_decoder)\.(neck)\.(\d)\.1\.", r"\1.\2.convs.\3.gn."),
    (r"^(\w+_decoder)\.layers\.", r"\1.keypoint_head.transformer.decoder.layers."),
    (r"^(\w+_decoder)\.(level_embeds|pos_embed)", r"\1.keypoint_head.transformer.\2"),
    (r"\.attention\.", ".attentions.0.attn."),
    (r"\.deformable\.value_(\w+)$", r".attentions.1.value_proj_\1.weight"),
    (r"\.deformable\.", ".attentions.1."),
    (r"\.ffn\.0\.", ".ffns.0.layers.0.0."),
    (r"\.ffn\.3\.", ".ffns.0.layers.1."),
    (r"^(hand|face)_position_net\.features\.", r"\1_position_net.\1_conv."),
)
OLDER = (
    (r"^encoder\.", "backbone."),
    (r"^body_regressor\.", "body_rotation_net."),
    (r"^hand_regressor\.", "hand_rotation_net."),
)
UNUSED = (
    "smplx_layer.v_template",
    "hand_decoder.backbone.layer1.0.conv1.weight",
    "face_decoder.keypoint_head.enc_flow2d.t.0.0.weight",
    "hand_decoder.keypoint_head.fc_sigma_branches.0.2.linear.weight",
    "hand_decoder.keypoint_head.transformer.fc_coord.linear.bias",
    "face_decoder.keypoint_head.transformer.pos_trans_norm.weight",
)


def published(net: OSX, older: bool) -> dict[str, Tensor]:
    """The tensors of a net as a published file holds them."""
    found = dict.fromkeys(UNUSED, torch.zeros(1))
    for name, value in net.state_dict().items():
        for own, theirs in (*PUBLISHED, *(OLDER if older else ())):
            name = re.sub(own, theirs, name)
        found[name] = value.clone()
    return {f"module.{name}": value for name, value in found.items()}


@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize("older", [True, False])
@torch.no_grad()
def test_a_published_file_loads_strictly(decoder: bool, older: bool) -> None:
    net = tiny(decoder)
    state = published(net, older)
    names = set(state)
    assert ("module.backbone.task_tokens" in names) == older
    arguments = OSX.describe(state)
    assert arguments == {"decoder": decoder, "width": 64, "depth": 1, "box_width": 16}
    again = OSX(**arguments).eval()
    again.load_state_dict(OSX.renamed(state), strict=True)
    assert len(OSX.renamed(state)) == len(state) - len(UNUSED)
    crops = F.interpolate(picture(32, 24), CROP)
    if not older:
        for own, other in zip(net.regress(crops), again.regress(crops), strict=True):
            assert torch.equal(own, other)


@torch.no_grad()
def test_a_published_file_as_it_lies_there(tmp_path: Path) -> None:
    """With what its training left beside the net."""
    net = tiny()
    write_gated(tmp_path)
    whole = {"epoch": 1, "network": published(net, older=False), "optimizer": {"state": {}}}
    torch.save(whole, tmp_path / "osx_l.pth.tar")
    loaded = vision.load(tmp_path / "osx_l.pth.tar", body_models=tmp_path / "body_models")
    crops = F.interpolate(picture(32, 24), CROP)
    for own, other in zip(net.regress(crops), loaded.net.regress(crops), strict=True):
        assert torch.equal(own, other)


def test_keys_that_do_not_fit_are_listed() -> None:
    net = tiny()
    state = published(net, older=False)
    lost = "module.hand_decoder.keypoint_head.transformer.decoder.layers.0.ffns.0.layers.1.bias"
    del state[lost]
    state["module.tail_net.conv.0.weight"] = torch.zeros(1)
    assert misfits(net.state_dict(), OSX.renamed(state)) == {
        "missing": ["hand_decoder.layers.0.ffn.3.bias"],
        "surplus": ["tail_net.conv.0.weight"],
    }


# --- the encoder


@pytest.mark.parametrize("join", [0, 5])
@pytest.mark.parametrize("name", [VIT, "vit_small_patch14_reg4_dinov2", "deit3_small_patch16_224"])
@torch.no_grad()
def test_without_task_tokens_it_is_the_vit_itself(name: str, join: int) -> None:
    backbone = Backbone(name, "none", frozen=False).eval()
    encoder = Encoder(0, backbone, backbone.channels[-1], 0, 0.0, join).eval()
    crops = F.interpolate(picture(32, 24), CROP, mode="bicubic").clamp(0, 1)
    size = (16 * backbone.patch, 12 * backbone.patch)
    small = F.interpolate(crops, size, mode="bilinear", antialias=True)
    tokens = backbone.net.forward_features((small - backbone.mean) / backbone.std)[:, -192:]
    features, none = encoder(crops)
    assert none.shape[1] == 0
    torch.testing.assert_close(features.flatten(2).mT, tokens, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("join", [0, 5])
def test_a_vit_of_timm_takes_task_tokens(join: int) -> None:
    net = tiny(True, "anny", Backbone(VIT, "none", frozen=False), join)
    people, crop = two_people(net)
    sum(part.square().mean() for part in (people.place, *crop)).backward()  # type: ignore[union-attr]
    still = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    assert {*without_gradient(net)} == still
    before = [f"encoder.blocks.{i}.mlp.fc1.weight" in still for i in range(12)]
    assert before == [i < join for i in range(12)]
    assert net.encoder.task_tokens.shape == (1, 6 + 22, 192)


def test_task_tokens_join_at_a_block_that_is_there() -> None:
    with pytest.raises(ValueError, match="join=12: the ViT has blocks 0 to 11"):
        tiny(True, "anny", Backbone(VIT, "none", frozen=False), 12)


@torch.no_grad()
def test_the_published_encoder_takes_every_other_pixel() -> None:
    net = tiny()
    crops = F.interpolate(picture(64, 48), CROP)
    changed = crops.clone()
    changed[..., 1::2, :] = 0
    changed[..., :, 1::2] = 0
    assert torch.equal(net.encoder(crops)[0], net.encoder(changed)[0])


# --- parts


def bilinear(map_: Tensor, x: float, y: float) -> Tensor:
    """C×h×w in pixels whose middles are whole numbers, nothing outside → C."""
    out = torch.zeros(len(map_))
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < map_.shape[1] and 0 <= column < map_.shape[2]:
                share = (1 - abs(y - row)) * (1 - abs(x - column))
                out = out + share * map_[:, row, column]
    return out


@torch.no_grad()
def test_deformable_attention_by_loops() -> None:
    dim, heads, levels, points = 8, 2, 3, 4
    net = shaken(DeformableAttention(dim, heads, levels, points))
    query, at = floats(2, 3, dim), torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(3))
    maps = [floats(2, dim, side, side, seed=side) for side in (8, 4, 2)]
    wanted = torch.zeros(2, 3, dim)
    for n in range(2):
        for q in range(3):
            offsets = net.sampling_offsets(query[n, q]).view(heads, levels, points, 2)
            weights = net.attention_weights(query[n, q]).view(heads, -1).softmax(-1)
            parts = []
            for h in range(heads):
                summed = torch.zeros(dim)
                for level, map_ in enumerate(maps):
                    for p in range(points):
                        place = at[n, q] * map_.shape[-1] + offsets[h, level, p] - 0.5
                        seen = bilinear(map_[n], float(place[0]), float(place[1]))
                        summed += weights[h, level * points + p] * seen
                weight = net.value_weight[h * dim : (h + 1) * dim]
                parts.append(summed @ weight + net.value_bias[h])
            wanted[n, q] = net.output_proj(torch.cat(parts))
    torch.testing.assert_close(net(query, maps, at), wanted, atol=1e-5, rtol=1e-5)


def test_soft_argmax_by_hand() -> None:
    heat = torch.full((1, 1, 4, 3, 5), -torch.inf)
    heat[0, 0, 1, 2, 4] = math.log(0.75)
    heat[0, 0, 3, 0, 0] = math.log(0.25)
    shares, point = soft_argmax(heat)
    assert shares.sum() == pytest.approx(1)
    torch.testing.assert_close(point, torch.tensor([[[3.0, 1.5, 1.5]]]))  # x, y, z
    _, flat = soft_argmax(heat[:, :, 1])
    torch.testing.assert_close(flat, torch.tensor([[[4.0, 2.0]]]))


def test_features_are_read_where_points_are() -> None:
    map_ = floats(1, 2, 5, 7)
    points = torch.tensor([[[6.0, 4.0, 9.0], [2.25, 1.5, 9.0]]])
    seen = sample(map_, points)[0]
    torch.testing.assert_close(seen[0], map_[0, :, 4, 6])
    torch.testing.assert_close(seen[1], bilinear(map_[0], 2.25, 1.5))


def test_sines_by_the_formula() -> None:
    found = sines(torch.zeros(1, 1, 4, 4), 8)
    assert found.shape == (16, 4, 4)
    for row, column, i in ((0, 3, 0), (2, 1, 5), (3, 0, 6)):
        turn = 2 * math.pi / (10000 ** (2 * (i // 2) / 8))
        wave = math.cos if i % 2 else math.sin
        assert found[i, row, column] == pytest.approx(wave((row + 0.5) / 4 * turn), abs=1e-5)
        assert found[8 + i, row, column] == pytest.approx(wave((column + 0.5) / 4 * turn), abs=1e-5)


@torch.no_grad()
def test_a_left_hand_is_a_right_hand_in_a_mirror() -> None:
    """Both hands cut out of the same place, left mirrored: what the net says is mirrored too."""
    net = copy.deepcopy(tiny())
    features = floats(2, 64, 16, 12)
    boxes = torch.tensor([[2.0, 3, 8, 9], [1, 1, 4, 4]])[:, None].expand(2, 2, 4)

    class Mirrored(torch.nn.Module):
        def forward(self, features: Tensor, boxes: Tensor) -> list[Tensor]:
            maps = levels(features, boxes)
            return [torch.stack([m[1].flip(-1), m[1]]) for m in maps]

    levels, net.hand_roi_net = net.hand_roi_net, Mirrored()
    assert isinstance(levels, Levels)
    rotations, points = net._hands(features, boxes)
    left, right = (roma.rotmat_to_rotvec(r) for r in rotations.unflatten(1, (2, 15)).unbind(1))
    torch.testing.assert_close(left, right * torch.tensor([1.0, -1, -1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(points[:, 0, :, 0], 15 - points[:, 1, :, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(points[:, 0, :, 1:], points[:, 1, :, 1:], atol=1e-5, rtol=0)


# --- crops and cameras

BOX = torch.tensor([[30.0, 20, 70, 60], [10, -8, 30, 62]])


def test_a_crop_has_its_shape_and_a_margin() -> None:
    corner, scale = crop_of(BOX)
    size = torch.tensor(CROP[::-1]) / scale[:, None]
    torch.testing.assert_close(size[0], torch.tensor([50.0, 50 * 4 / 3]))  # as wide as the box
    torch.testing.assert_close(size[1], torch.tensor([87.5 * 3 / 4, 87.5]))  # as high
    torch.testing.assert_close(corner + size / 2, torch.tensor([[50.0, 40], [20, 27]]))


@given(st.integers(1, 78), st.integers(1, 58))
@settings(deadline=None, max_examples=20)
def test_a_point_of_the_picture_is_found_in_the_crop(x: int, y: int) -> None:
    images = torch.zeros(2, 3, 60, 80)
    images[1, :, y, x] = 1
    corner, scale = crop_of(torch.tensor([[-20.0, -20, 100, 80]]))
    crop = cut_out(images, torch.tensor([1]), corner, scale)[0, 0]
    rows, columns = torch.meshgrid(*(torch.arange(side) * 1.0 for side in CROP), indexing="ij")
    found = torch.stack([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum()
    at = (torch.tensor([x, y]) - corner[0]) * scale[0]
    torch.testing.assert_close(found, at, atol=0.1, rtol=0)


def test_crops_are_those_of_opencv() -> None:
    image = cv2.resize(np.random.default_rng(0).random((12, 16, 3), np.float32), (80, 60))
    corner, scale = crop_of(BOX)
    images = torch.from_numpy(image).permute(2, 0, 1)[None]
    crops = cut_out(images, torch.zeros(2, dtype=torch.long), corner, scale)
    for crop, (x, y), zoom in zip(crops, corner.tolist(), scale.tolist(), strict=True):
        matrix = np.array([[zoom, 0, -x * zoom], [0, zoom, -y * zoom]])
        wanted = cv2.warpAffine(image, matrix, CROP[::-1], flags=cv2.INTER_LINEAR)
        off = np.abs(crop.permute(1, 2, 0).numpy() - wanted)
        assert off.mean() < 0.001  # older OpenCV rounds places to 1/32 of a pixel
        assert off.max() < 0.04


@torch.no_grad()
def test_the_two_cameras_show_the_same() -> None:
    virtual = torch.tensor([[0.1, -0.2, 40.0], [-0.3, 0.1, 25.0]])
    camera = torch.stack([intrinsics(60, 80), intrinsics(60, 80, focal=200)])
    corner, scale = crop_of(BOX)
    place = real_place(virtual, camera, corner, scale)
    imagined = torch.tensor([[FOCAL, 0, 192], [0, FOCAL, 256], [0, 0, 1]])
    in_crop = project(virtual[:, None], imagined)[:, 0]
    in_picture = project(place[:, None], camera)[:, 0]
    torch.testing.assert_close((in_picture - corner) * scale[:, None], in_crop)
    # A metre across is as many pixels in both.
    torch.testing.assert_close(camera[:, 0, 0] / place[:, 2] * scale, FOCAL / virtual[:, 2])


@torch.no_grad()
def test_the_body_is_turned_to_the_ray_of_its_box() -> None:
    plain = tiny(False, "anny")
    turning = OSX(None, False, "anny", 64, 1, box_width=16, along_ray=True).eval()
    turning.load_state_dict(plain.state_dict())
    camera = intrinsics(60, 80)[None]
    box = torch.tensor([[30.0, 10, 50, 50], [60, 20, 70, 40]])  # in the middle, at the side
    at = (torch.zeros(2, dtype=torch.long), box)
    before, after = (net(picture(60, 80), camera, at).people.rotations for net in (plain, turning))
    turn = after[:, 0] @ before[:, 0].mT
    torch.testing.assert_close(turn[0], torch.eye(3), atol=1e-5, rtol=0)
    ray = F.normalize(torch.tensor([25 / camera[0, 0, 0], 0, 1]), dim=0)
    torch.testing.assert_close(turn[1] @ torch.tensor([0.0, 0, 1]), ray, atol=1e-5, rtol=0)
    assert torch.equal(before[:, 1:], after[:, 1:])
    rotation = towards(torch.tensor([[0.3, -0.5, 1.0]]))[0]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3), atol=1e-5, rtol=0)


def test_a_detector_says_where_people_are_and_how_surely() -> None:
    net, image = tiny(body="anny"), np.full((90, 120, 3), 128, np.uint8)
    alone = MeshPredictor(net, Anny())
    assert alone(image).score.tolist() == [1]
    camera = intrinsics(90, 120).double().numpy()
    still, shape = Anny().still(2).clone(), Anny().neutral_shape.expand(2, -1)
    still[:, 0, 1, 1] = still[:, 0, 2, 2] = -1
    stood = Anny()(still, shape, torch.tensor([[-1.0, 0, 4], [1, 0, 5]]))
    found = Recovery(
        np.array([0.9, 0.4], np.float32),
        *(part.numpy() for part in (still, shape, stood.joints[:, 0], stood.vertices)),
        *(stood.joints.numpy(), project(stood.joints.numpy(), camera), camera, np.arange(2)),
    )
    detector: Any = lambda *_: found  # noqa: E731
    detector.fingerprint = "found by hand"
    both = MeshPredictor(net, Anny(), detector=detector)
    assert both(image).score.tolist() == pytest.approx([0.9, 0.4])
    assert (both(image).translation[:, 0] != 0).all()
    with pytest.raises(ValueError, match="OSX finds nobody itself; give the threshold"):
        MeshPredictor(net, Anny(), threshold=0.5)
