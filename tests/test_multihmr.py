"""Multi-HMR: both variants, people of a batch together, and released checkpoints."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roma
import torch
import torch.nn.functional as F
from bodies import write_smplx
from nets import shaken, without_gradient
from torch import Tensor, nn

import vision
from vision.backbones import Backbone
from vision.body import Anny, AnnyMakeHuman
from vision.body.camera import intrinsics
from vision.mesh import MultiHMR, MultiHMRAnny, MultiHMRLoss
from vision.mesh.grid import assign, peaks
from vision.mesh.multihmr import RELEASED, Decoder, rays
from vision.mesh.multihmr_anny import RELEASED as RELEASED_ANNY
from vision.mesh.multihmr_anny import sines
from vision.mesh.people import stand
from vision.run.mesh import MeshPredictor
from vision.tasks.mesh import MeshTask

SIZE = 112


def backbone(name: str = "vit_tiny_patch16_224") -> Backbone:
    return Backbone(name, weights="none", frozen=False)


def small(body: str = "anny") -> MultiHMR:
    return MultiHMR(backbone(), SIZE, body, dim=32, depth=2, heads=2, head_dim=8, mlp=48)  # type: ignore[arg-type]


def variant() -> MultiHMRAnny:
    return MultiHMRAnny(backbone(), SIZE, dim=32, depth=2, heads=2, head_dim=8)


def with_middle(around: bool = True) -> MultiHMRAnny:
    own: dict[str, Any] = {"middle": 5, "mixing": 1, "around": around}
    return MultiHMRAnny(backbone(), SIZE, dim=32, depth=2, heads=2, head_dim=8, **own)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


CAMERA = intrinsics(SIZE, SIZE).expand(3, 3, 3)
AT = (torch.tensor([0, 2, 2]), torch.tensor([1, 3, 5]), torch.tensor([0, 6, 2]))


@pytest.mark.parametrize("body", ["anny", "smplx"])
def test_shapes(body: str, images: Tensor) -> None:
    seen = small(body)(images, CAMERA, AT)
    joints, shapes = (52, 6) if body == "anny" else (53, 20)
    assert seen.heat.shape == (3, 7, 7)
    assert seen.people.rotations.shape == (3, joints, 3, 3)
    assert seen.people.shape.shape == (3, shapes)
    assert seen.people.place.shape == (3, 3)
    assert (seen.people.place[:, 2] > 0).all()


@pytest.mark.parametrize("make", [small, variant, with_middle])
def test_every_parameter_gets_a_gradient(make: type, images: Tensor) -> None:
    net = shaken(make())
    seen = net(images, CAMERA, AT)
    parts = [*seen.people[1:], seen.heat, seen.offset]
    if seen.fov is not None:
        parts.append(seen.fov)
    sum((part * torch.randn_like(part)).sum() for part in parts).backward()
    assert without_gradient(net) == []


@pytest.mark.slow
@pytest.mark.parametrize("make", [small, variant])
def test_nobody(make: type, images: Tensor) -> None:
    seen = make()(images, CAMERA, threshold=0.99)
    assert len(seen.people.picture) == 0
    assert seen.people.rotations.shape[1:] == (52, 3, 3)


@pytest.mark.slow
@pytest.mark.parametrize("make", [small, variant])
def test_people_of_one_picture_see_each_other_and_no_others(make: type, images: Tensor) -> None:
    net = shaken(make()).eval()
    with torch.no_grad():
        together = net(images, CAMERA, AT).people
        without_first = net(images, CAMERA, tuple(part[1:] for part in AT)).people
        alone = net(images, CAMERA, tuple(part[1:2] for part in AT)).people
    torch.testing.assert_close(together.rotations[1:], without_first.rotations)
    assert (together.rotations[1] - alone.rotations[0]).abs().max() > 1e-4


@pytest.mark.slow
def test_a_crowd(images: Tensor) -> None:
    """A person in every patch: more than anybody's picture holds."""
    row, column = (part.flatten() for part in torch.meshgrid(*[torch.arange(7)] * 2, indexing="ij"))
    at = (torch.zeros(49, dtype=torch.long), row, column)
    seen = small()(images[:1], CAMERA[:1], at)
    assert seen.people.rotations.isfinite().all()


def test_the_decoder_is_what_its_formula_says() -> None:
    """Against attention written out, for one picture with all its people."""
    torch.manual_seed(0)
    decoder = Decoder(12, 10, 2, 3, 4, 16)
    x, context = torch.randn(5, 12), torch.randn(1, 10, 2, 3)
    at = (torch.zeros(5, dtype=torch.long),) * 3
    wanted, patches = x, context[0].flatten(1).T
    for self_part, cross_part, mlp_part in decoder.layers:  # type: ignore[misc]
        normal = self_part.norm(wanted)
        q, k, v = self_part.fn.to_qkv(normal).chunk(3, -1)
        wanted = wanted + self_part.fn.to_out(_attention(q, k, v, 3))
        k, v = cross_part.fn.to_kv(patches).chunk(2, -1)
        q = cross_part.fn.to_q(cross_part.norm(wanted))
        wanted = wanted + cross_part.fn.to_out(_attention(q, k, v, 3))
        wanted = wanted + mlp_part.fn.net(mlp_part.norm(wanted))
    torch.testing.assert_close(decoder(x, context, at), wanted)


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    parts = zip(*(t.chunk(heads, -1) for t in (q, k, v)), strict=True)
    return torch.cat([(q @ k.T / math.sqrt(k.shape[1])).softmax(-1) @ v for q, k, v in parts], -1)


@pytest.mark.slow
def test_depth_numbers_are_depths(images: Tensor) -> None:
    for net in (small(), variant()):
        seen = net(images, CAMERA, AT)
        number = net.depth_number(seen.people.place[:, 2], CAMERA)
        torch.testing.assert_close(number, seen.depth, atol=1e-4, rtol=0)
        torch.testing.assert_close(seen.people.place[:, 2], torch.full((3,), 4.0), atol=0.5, rtol=0)


def test_rays_of_the_middle_and_in_the_released_order() -> None:
    camera = torch.tensor([[[50.0, 0, 20], [0, 50, 30], [0, 0, 1]]])
    found = rays(camera, 4, 16, swapped=False)
    assert found.shape == (1, 99, 4, 4)
    torch.testing.assert_close(
        found[0, :3, 1, 2], torch.tensor([(40 - 20) / 50, (24 - 30) / 50, 1])
    )
    angle = math.pi * 0.4 * 32
    assert found[0, 3 + 15, 1, 2] == pytest.approx(math.sin(angle), abs=1e-4)
    assert found[0, 3 + 48 + 15, 1, 2] == pytest.approx(math.cos(angle), abs=1e-4)
    other = rays(camera, 4, 16, swapped=True)
    torch.testing.assert_close(other[0, :2, 1, 2], torch.tensor([(24 - 20) / 50, (40 - 30) / 50]))


def test_sines_tell_rows_from_columns() -> None:
    found = sines(16, 5)
    assert found.shape == (5, 5, 16)
    torch.testing.assert_close(found[2, 3, :4], torch.sin(3 * 10000 ** -(torch.arange(4) / 4)))
    torch.testing.assert_close(found[2, 3, 8:12], torch.sin(2 * 10000 ** -(torch.arange(4) / 4)))


@pytest.mark.slow
def test_any_vit_will_do() -> None:
    for name in ("vit_tiny_patch16_224", "deit_tiny_patch16_224"):
        net = MultiHMR(backbone(name), SIZE, "anny", dim=32, depth=1, heads=2, mlp=32)
        assert net.grid == 7
    other = backbone("eva02_tiny_patch14_224")  # a class of timm's own, with a class token
    assert MultiHMR(other, SIZE, "anny", dim=32, depth=1, heads=2, mlp=32).grid == 8
    with pytest.raises(ValueError, match="resnet18 is no ViT with a class token; use one such"):
        MultiHMR(Backbone("resnet18", "none", frozen=False), SIZE + 16)
    with pytest.raises(ValueError, match="size=100: give a multiple of the 16 pixels"):
        MultiHMR(backbone(), 100)
    with pytest.raises(ValueError, match="give 3×112×112"):
        small()(torch.rand(1, 3, 96, 112), CAMERA[:1])


# ---- cells


def test_peaks_stand_out() -> None:
    scores = torch.zeros(2, 5, 5)
    scores[0, 1, 1], scores[0, 1, 2], scores[0, 4, 4], scores[1, 0, 3] = 0.9, 0.8, 0.4, 0.3
    picture, row, column = peaks(scores, 0.3, 3)
    assert picture.tolist() == [0, 0, 1]
    assert row.tolist() == [1, 4, 0]
    assert column.tolist() == [1, 4, 3]
    assert peaks(scores, 0.3, 3, most=1)[0].tolist() == [0, 1]


@pytest.mark.parametrize("around", [False, True])
def test_mixed_patches_say_where_heads_are_if_asked(around: bool, images: Tensor) -> None:
    net = with_middle(around).eval()
    before = net(images, CAMERA, AT).heat
    with torch.no_grad():
        for parameter in net.mix.parameters():
            parameter.mul_(3)
    assert net(images, CAMERA, AT).heat.equal(before) != around


def test_the_larger_of_two_in_a_cell_is_kept() -> None:
    picture = torch.tensor([0, 0, 1, 1])
    anchor = torch.tensor([[17.0, 3], [20, 5], [20, 5], [-1, 5]])
    box = torch.tensor([[0.0, 0, 5, 5], [0, 0, 9, 9], [0, 0, 1, 1], [0, 0, 90, 90]])
    (pictures, row, column), kept = assign(picture, anchor, box, 7, 16)
    assert kept.tolist() == [1, 2]
    assert pictures.tolist() == [0, 1]
    assert row.tolist() == [0, 0]
    assert column.tolist() == [1, 1]


# ---- released checkpoints


def named(net: nn.Module, names: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    found = {}
    for name, value in net.state_dict().items():
        new = next(old + name.removeprefix(ours) for old, ours in names if name.startswith(ours))
        new = new.replace(".fn.to_out.", ".fn.to_out.0.").replace(".fn.net.2.", ".fn.net.3.")
        found[new] = value
    return found


def released(net: MultiHMR) -> dict[str, Tensor]:
    """Its tensors under the released names, with what comes beside them."""
    found = named(net, RELEASED)
    head = "x_attention_head"
    found[f"{head}.transformer.pos_embedding"] = net.start.detach()[None, None]
    for name in ("init_body_pose", "init_betas", "init_cam"):
        found[f"{head}.{name}"] = found[f"{head}.{name}"][None]
    found[f"{head}.init_betas_kid"] = torch.zeros(1, 11)
    found[f"{head}.init_expression"] = torch.zeros(1, 10)
    found["smpl_layer.neutral_10.bm_x.v_template"] = torch.zeros(4, 3)
    found["backbone.encoder.mask_token"] = torch.zeros(1, net.backbone.channels[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("betas", [10, 11])
def test_a_released_checkpoint_loads_as_it_is(betas: int, tmp_path: Path) -> None:
    """With an argparse Namespace in it; the places of DINOv2's 37×37 patches are resampled."""
    dinov2 = backbone("vit_small_patch14_dinov2")
    sizes = {"dim": 64, "heads": 8, "head_dim": 8, "mlp": 48, "betas": betas}
    net = shaken(MultiHMR(dinov2, SIZE, "smplx", **sizes, swapped_rays=True))
    state = released(net)
    places = torch.randn(1, 1 + 37 * 37, 384)
    state["backbone.encoder.pos_embed"] = places
    words = argparse.Namespace(img_size=[SIZE], backbone="dinov2_vits14")
    path = tmp_path / "multiHMR_112_S.pt"
    torch.save({"epoch": 1, "iter": 2, "model_state_dict": state, "args": words}, path)
    write_smplx(tmp_path / "models" / "smplx" / "SMPLX_NEUTRAL.npz")
    found = vision.load(path, body_models=tmp_path / "models", threshold=0.01)
    assert isinstance(found, MeshPredictor)
    own, ours = found.net.state_dict(), net.state_dict()
    for name in ours.keys() - {"backbone.net.pos_embed"}:
        torch.testing.assert_close(own[name], ours[name])
    square = places[:, 1:].mT.unflatten(-1, (37, 37))
    square = F.interpolate(square, scale_factor=(8.1 / 37, 8.1 / 37), mode="bicubic")
    torch.testing.assert_close(own["backbone.net.pos_embed"][:, 1:], square.flatten(2).mT)
    assert found.net.swapped_rays is True
    image = (torch.rand(60, 90, 3) * 255).byte().numpy()
    recovery = found(image)
    assert len(recovery.score)
    assert recovery.vertices.shape[1:] == (10475, 3)
    assert recovery.shape.shape[1] == betas + 10
    assert found.body.shape_names[betas - 1 : betas + 1] == (f"beta{betas - 1}", "expression0")
    with pytest.raises(FileNotFoundError, match="register at https://smpl-x"):
        vision.load(path, body_models=tmp_path)


def test_more_betas_than_the_body_model_has(tmp_path: Path) -> None:
    """Older files of SMPL-X have 10 betas and 10 expressions."""
    path = tmp_path / "smplx" / "SMPLX_NEUTRAL.npz"
    write_smplx(path)
    with np.load(path) as data:
        np.savez(path, **{**data, "shapedirs": data["shapedirs"][..., :20]})
    net = MultiHMR(backbone(), SIZE, "smplx", dim=32, heads=2, mlp=32, betas=11)
    with pytest.raises(ValueError, match=r"SMPLX_NEUTRAL.npz: 10 betas, 11 are wanted"):
        MeshTask(net, MultiHMRLoss(), str(tmp_path))


def test_a_body_of_other_shapes_than_the_net_gives(images: Tensor) -> None:
    net = small("smplx")
    people = net(images, CAMERA, AT).people
    with pytest.raises(ValueError, match="have 20 numbers, those of Anny 6; take the body of"):
        stand(people, net.spec, Anny())


def released_for_anny() -> dict[str, Tensor]:
    """Tensors of the released names and shapes: 163 bones, of which 2 in 3 turn; 11 phenotypes."""
    bones, dim = 163, 32
    net = shaken(
        MultiHMRAnny(
            backbone("vit_small_patch14_dinov2"),
            SIZE,
            AnnyMakeHuman().joint_names,
            dim,
            depth=1,
            heads=16,
            head_dim=2,
            body="anny_makehuman",
        )
    )
    found = named(net, RELEASED_ANNY)
    found["mlp_pose.0.weight"] = torch.randn(dim, dim + 6 * bones) / 8
    found["mlp_shape.2.weight"], found["mlp_shape.2.bias"] = torch.randn(11, dim), torch.randn(11)
    found["init_body_pose"] = torch.randn(1, 6 * bones)
    found["useful_rotmat"] = (torch.arange(bones) % 3 < 2).float()[None]
    found["dec_pos_emb"] = net.places.flatten(0, 1)
    found["eye"], found["encoder.fov_max"] = torch.eye(3)[None], torch.tensor([math.pi])
    found["body_model.anchors.age"] = torch.zeros(5)
    found["encoder.backbone.mask_token"] = torch.zeros(1, 384)
    return found


@pytest.mark.slow
def test_the_released_variant_for_anny(tmp_path: Path, images: Tensor) -> None:
    """Its pose head, by its formula: it sees the mean pose too, and a mask keeps bones still."""
    torch.manual_seed(0)
    state = released_for_anny()
    words = argparse.Namespace(img_size=[SIZE])
    path = tmp_path / "multiHMR_112_S_anny.pt"
    torch.save({"epoch": 1, "iter": 2, "model_state_dict": state, "args": words}, path)
    found = vision.load(path)
    assert isinstance(found, MeshPredictor)
    net, heard = found.net, []
    assert isinstance(net, MultiHMRAnny)
    net.decoder.register_forward_hook(lambda *call: heard.append(call[2]))
    seen = net(images, CAMERA, AT)
    (token,) = heard
    mean, mask = state["init_body_pose"], state["useful_rotmat"][0].bool()
    hidden = torch.cat([token, mean.expand(3, -1)], 1) @ state["mlp_pose.0.weight"].T
    hidden = (hidden + state["mlp_pose.0.bias"]).relu()
    numbers = hidden @ state["mlp_pose.2.weight"].T + state["mlp_pose.2.bias"] + mean
    wanted = roma.special_gramschmidt(numbers.unflatten(1, (-1, 3, 2)))[:, mask]
    standing = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # theirs lies on its back
    wanted = torch.cat([wanted[:, :1] @ standing, wanted[:, 1:]], 1)
    torch.testing.assert_close(seen.people.rotations, wanted, atol=1e-4, rtol=0)
    assert len(net.spec.joints) == int(mask.sum())
    people = stand(seen.people, net.spec, found.body)
    assert people.vertices.shape == (3, 13_718, 3)
    head = people.joints[:, found.body.joint("head")]
    torch.testing.assert_close(head, seen.people.place)


def test_the_released_variant_for_another_rig() -> None:
    state = released_for_anny()
    state["useful_rotmat"] = torch.ones(1, 104)
    with pytest.raises(ValueError, match="useful_rotmat has not 163 values"):
        MultiHMRAnny.describe(state)


@pytest.mark.slow
def test_a_released_checkpoint_that_does_not_fit(tmp_path: Path) -> None:
    net = MultiHMR(backbone("vit_small_patch14_dinov2"), SIZE, dim=64, heads=8, head_dim=8, mlp=48)
    state = released(net)
    del state["mlp_classif.0.bias"]
    state["mlp_new.bias"] = torch.zeros(1)
    path = tmp_path / "a.pt"
    torch.save({"model_state_dict": state}, path)
    with pytest.raises(ValueError, match=r"missing: detect\.0\.bias; surplus: mlp_new\.bias"):
        vision.load(path)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (nn.Module.register_buffer, ("x",))


def test_words_beside_the_tensors_are_words(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model_state_dict": {}, "args": argparse.Namespace(x=Harmful())}, path)
    with pytest.raises(ValueError, match="holds more than tensors and plain values"):
        vision.load(path)
