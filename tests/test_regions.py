"""Attention by region against the dense form, and where region maps come from."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data.images import ImageError, Picture
from data.regions import superpixels
from vision.layers.regions import BATCHED, Regions, region_attention
from vision.run.regions import labelled, region_source


def dense(q: Tensor, k: Tensor, v: Tensor, labels: Tensor, scale: float) -> Tensor:
    """What region attention is defined by: logits between regions are −∞."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # B×heads×N×d
    alike = labels[:, None, :, None] == labels[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, alike, scale=scale).transpose(1, 2)


def tokens(batch: int, count: int, heads: int = 2, width: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(batch, count, heads, width, generator=generator) for _ in range(3)]


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(1, 3), st.integers(1, 90), st.integers(1, 12))
def test_equals_the_dense_form(draw: Any, batch: int, count: int, most: int) -> None:
    drawn = st.lists(st.integers(0, most), min_size=count, max_size=count)
    labels = torch.tensor([draw.draw(drawn) for _ in range(batch)])
    q, k, v = tokens(batch, count)
    found = region_attention(q, k, v, Regions(labels), 0.7)
    torch.testing.assert_close(found, dense(q, k, v, labels, 0.7), atol=1e-5, rtol=1e-5)


def test_large_and_small_regions_together() -> None:
    labels = torch.zeros(2, 2 * BATCHED + 60, dtype=torch.long)
    labels[0, 7:30], labels[0, 40], labels[1, 100:160] = 3, 9, 3
    q, k, v = tokens(*labels.shape)
    found = region_attention(q, k, v, Regions(labels), 1.0)
    torch.testing.assert_close(found, dense(q, k, v, labels, 1.0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("labels", [[0] * 9, list(range(9)), [10**6] * 4 + [0] * 5])
def test_one_region_each_token_its_own_and_gaps(labels: list[int]) -> None:
    q, k, v = tokens(1, 9)
    regions = torch.tensor([labels])
    found = region_attention(q, k, v, Regions(regions), 1.0)
    torch.testing.assert_close(found, dense(q, k, v, regions, 1.0))


def test_names_of_regions_do_not_matter_but_pictures_are_apart() -> None:
    labels = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]])
    q, k, v = tokens(2, 6)
    renamed = region_attention(q, k, v, Regions(5 - labels), 1.0)
    assert torch.equal(renamed, region_attention(q, k, v, Regions(labels), 1.0))
    alone = region_attention(q[:1], k[:1], v[:1], Regions(labels[:1]), 1.0)
    torch.testing.assert_close(alone, renamed[:1])


def test_gradients_equal_those_of_the_dense_form() -> None:
    labels = torch.randint(0, 5, (2, 40), generator=torch.Generator().manual_seed(0))
    found = []
    for form in (dense, region_attention):
        inputs = [x.requires_grad_() for x in tokens(2, 40)]
        how: Any = Regions(labels) if form is region_attention else labels
        form(*inputs, how, 0.5).square().sum().backward()
        found.append([x.grad for x in inputs])
    for wanted, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("noise", [0, 25, 50])
def test_superpixels_are_about_as_many_as_asked_whatever_the_noise(noise: int) -> None:
    clean = np.linspace(60, 190, 128)[None, :, None] * np.ones((96, 1, 3))
    noisy = clean + noise * np.random.default_rng(0).standard_normal((96, 128, 3))
    rgb = noisy.clip(0, 255).round().astype(np.uint8)
    labels = superpixels(rgb, 64)
    assert labels.shape == (96, 128)
    assert labels.min() == 0
    assert 32 <= labels.max() + 1 <= 96
    assert np.array_equal(labels, superpixels(rgb, 64))
    assert 4 <= superpixels(rgb).max() + 1 <= 12


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 200)])
def test_superpixels_of_any_size(size: tuple[int, int]) -> None:
    assert superpixels(np.full((*size, 3), 90, np.uint8)).shape == size


def test_masks_are_painted_as_rat_does() -> None:
    large, small = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    large[:3], small[1:3, 1:3] = True, True
    labels = labelled([small, large], (4, 6))
    assert labels[0].tolist() == [1] * 6
    assert labels[1].tolist() == [1, 2, 2, 1, 1, 1]
    assert labels[3].tolist() == [3] * 6
    assert labelled([], (2, 2)).tolist() == [[1, 1], [1, 1]]


def test_a_folder_of_maps(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.eye(5, dtype=np.uint8))
    source = region_source(str(tmp_path))
    picture = Picture(np.zeros((5, 5, 3), np.uint8), name="somewhere/a.jpg")
    assert np.array_equal(source(picture), np.eye(5))
    with pytest.raises(ImageError, match=r"b\.jpg: has no region map; add"):
        source(Picture(np.zeros((5, 5, 3), np.uint8), name="b.jpg"))


def test_places_where_there_are_no_maps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--regions nowhere: no such folder"):
        region_source("nowhere")
    with pytest.raises(ValueError, match=r"holds no config\.json; give a folder"):
        region_source(f"sam:{tmp_path}")


@pytest.mark.slow
def test_sam_from_a_folder(tmp_path: Path) -> None:
    from transformers import SamConfig, SamImageProcessor, SamModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 16}
    vision_config = {**sizes, "image_size": 64, "patch_size": 16, "output_channels": 16}
    vision_config |= {"window_size": 2, "num_pos_feats": 8, "global_attn_indexes": [0]}
    prompt_config = {"hidden_size": 16, "image_size": 64, "patch_size": 16}
    prompt_config |= {"image_embedding_size": 4, "mask_input_channels": 4}
    decoder_config = {**sizes, "iou_head_hidden_dim": 16, "iou_head_depth": 2}
    config = SamConfig(
        vision_config=vision_config,
        prompt_encoder_config=prompt_config,
        mask_decoder_config=decoder_config,
    )
    SamModel(config).save_pretrained(tmp_path)
    size = {"longest_edge": 64}
    SamImageProcessor(size=size, pad_size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    source = region_source(f"sam:{tmp_path}")
    labels = source(Picture(np.full((48, 40, 3), 90, np.uint8)))
    assert labels.shape == (48, 40)
    assert labels.min() >= 1
