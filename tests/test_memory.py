"""The memory of normal features: a bounded uniform draw, exact distances."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vision.anomaly import FeatureMemory


def vectors(count: int, channels: int = 8, seed: int = 0) -> Tensor:
    draw = torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))
    return F.normalize(draw, dim=-1)


def numbered(count: int) -> Tensor:
    """N×1 'vectors' that hold their own number, exact in float16."""
    return torch.arange(count).float()[:, None]


def filled(
    batches: Iterable[Tensor], channels: int, capacity: int, seed: int = 0, dims: int = 128
) -> FeatureMemory:
    memory = FeatureMemory(channels, capacity, seed, dims)
    memory.fill(batches)
    return memory


# --- the draw


def test_it_holds_no_more_than_its_capacity_in_half_precision() -> None:
    bank = filled((vectors(30, seed=i) for i in range(5)), 8, 50).bank
    assert bank.shape == (50, 8)
    assert bank.dtype == torch.float16
    assert len(filled([vectors(30)], 8, 50).bank) == 30


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 60))
def test_the_draw_does_not_depend_on_the_batches(sizes: list[int], capacity: int) -> None:
    everything = numbered(sum(sizes) + 1)
    split = filled(everything.split([*sizes, 1]), 1, capacity).bank
    whole = filled([everything], 1, capacity).bank
    assert sorted(split.flatten().tolist()) == sorted(whole.flatten().tolist())
    assert len(split.unique()) == min(capacity, len(everything))


def test_the_draw_is_uniform() -> None:
    seeds, count, capacity = 400, 40, 10
    kept = np.zeros(count)
    for seed in range(seeds):
        bank = filled(numbered(count).split(7), 1, capacity, seed).bank
        kept[bank.flatten().long().numpy()] += 1
    expected = seeds * capacity / count  # 100 times each
    # Without replacement a count varies by (1 − capacity/count) of its mean; then it is chi².
    chi2 = ((kept - expected) ** 2).sum() / (expected * (1 - capacity / count))
    assert 16 < chi2 < 75  # all but 1 in 1000, on 39 degrees of freedom, on either side


def test_the_seed_decides_the_draw() -> None:
    first, again, other = (filled([vectors(99)], 8, 9, seed).bank for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_filling_again_forgets() -> None:
    memory = filled([vectors(20)], 8, 50)
    memory.fill([vectors(5, seed=1)])
    assert torch.equal(memory.bank, vectors(5, seed=1).half())


# --- the distance


def brute_force(queries: Tensor, bank: Tensor) -> Tensor:
    """Half the squared distance to the nearest of `bank`, in float64."""
    gaps = queries.double()[..., None, :] - bank.double()
    return gaps.square().sum(-1).amin(-1).float() / 2


def test_distances_equal_brute_force() -> None:
    memory = filled([vectors(70)], 8, 50)
    queries = torch.stack([vectors(11, seed=1), vectors(11, seed=2)])  # 2×11×8
    torch.testing.assert_close(memory(queries), brute_force(queries, memory.bank))
    # Not far from 1 − cosine to the vectors before they were rounded to float16.
    drawn = filled([vectors(70)], 8, 70).bank.float()
    cosines = 1 - torch.einsum("bnc,mc->bnm", queries, drawn).amax(-1)
    torch.testing.assert_close(filled([vectors(70)], 8, 70)(queries), cosines, atol=1e-3, rtol=0)


def test_distances_by_hand() -> None:
    memory = filled([torch.eye(3)[:2]], 3, 5)
    queries = torch.tensor([[[1.0, 0, 0], [0, 0, 1], [0, -1, 0], [0.6, 0.8, 0]]])
    assert memory(queries).tolist()[0] == pytest.approx([0, 1, 1, 0.2])


def test_distances_keep_their_precision_under_autocast() -> None:
    memory, queries = filled([vectors(50)], 8, 50), vectors(9, seed=1)[None]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(memory(queries), memory(queries))
        half = memory(queries)
    assert half.dtype == torch.float32
    assert torch.equal(half, memory(queries))


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_only_what_is_wanted_gets_a_distance(seed: int) -> None:
    memory = filled([vectors(40)], 8, 50, dims=5)
    queries = torch.stack([vectors(9, seed=1), vectors(9, seed=2), vectors(9, seed=3)])
    wanted = torch.rand(3, 9, generator=torch.Generator().manual_seed(seed)) > 0.5
    wanted[1] = False
    distances = memory(queries, wanted)
    assert not distances[~wanted].any()
    torch.testing.assert_close(distances[wanted], memory(queries)[wanted], atol=1e-6, rtol=0)
    assert torch.equal(memory(queries, torch.ones(3, 9, dtype=torch.bool)), memory(queries))


# --- distances relative to the spacing of the memory


def relative(pictures: Iterable[Tensor], channels: int, capacity: int = 50) -> FeatureMemory:
    memory = FeatureMemory(channels, capacity, relative=True)
    memory.fill(pictures)
    return memory


def test_spacing_by_hand() -> None:
    # Two vectors of the first picture lie on each other, which says nothing of other pictures.
    memory = relative([numbered(1).repeat(2, 1), 2 + numbered(1), 6 + numbered(1)], 1)
    half_squares = [(2**2 + 6**2) / 4, (2**2 + 6**2) / 4, (2**2 * 2 + 4**2) / 6]
    assert memory.spacing.tolist() == pytest.approx([*half_squares, (6**2 * 2 + 4**2) / 6])
    distances = memory(torch.tensor([[[0.5], [9.0], [20.0]]]))[0].tolist()
    assert distances == pytest.approx([0, 0, 14**2 / 2 - (6**2 * 2 + 4**2) / 6])


def test_one_picture_alone_has_no_spacing() -> None:
    memory = relative([vectors(9)], 8)
    assert not memory.spacing.any()
    plain = filled([vectors(9)], 8, 50)
    assert torch.equal(memory(vectors(4, seed=1)[None]), plain(vectors(4, seed=1)[None]))


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 200), min_size=2, max_size=5), st.integers(4, 400))
def test_spacing_equals_brute_force(sizes: list[int], capacity: int) -> None:
    pictures = [vectors(n, seed=i) for i, n in enumerate(sizes)]
    memory = relative(pictures, 8, capacity)
    bank = memory.bank.double()
    apart = (bank[:, None] - bank).square().sum(-1) / 2
    rounded = [p.half().double() for p in pictures]
    owner = torch.tensor([[(p == v).all(1).any().item() for p in rounded] for v in bank])
    owner = owner.float().argmax(1)
    apart[owner[:, None] == owner] = torch.inf
    near = apart.sort(dim=1).values[:, :3]
    wanted = [row[row.isfinite()].mean().nan_to_num(0).item() for row in near]
    assert memory.spacing.tolist() == pytest.approx(wanted, abs=1e-5)


def test_whitening_gives_the_components_one_spread() -> None:
    everything = vectors(90, 6) * torch.linspace(2, 0.2, 6)  # few enough to be all looked at
    spreads = {}
    for whiten in (0.0, 0.5, 1.0):
        memory = FeatureMemory(6, 90, dims=5, whiten=whiten)
        memory.fill([everything])
        spreads[whiten] = memory.bank.float().std(0)
    assert (spreads[1.0] / spreads[1.0].mean() - 1).abs().max() < 0.01
    torch.testing.assert_close(
        spreads[0.5] / spreads[0.5][0],
        (spreads[0.0] / spreads[0.0][0]).sqrt(),
        atol=2e-3,
        rtol=0,
    )


@pytest.mark.parametrize("whiten", [-0.1, 1.5])
def test_an_impossible_whitening(whiten: float) -> None:
    with pytest.raises(ValueError, match="give a value from 0 to 1"):
        FeatureMemory(8, whiten=whiten)


# --- principal components


def low_rank(count: int, channels: int = 24, rank: int = 6) -> Tensor:
    """Unit vectors that differ from a common one within a subspace of `rank` dimensions only."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(channels, rank + 1, generator=generator)).Q.T
    inside = F.normalize(torch.randn(count, rank, generator=generator), dim=-1) @ axes[1:]
    return 0.6 * axes[0] + 0.8 * inside


def test_the_basis_is_orthonormal_and_ordered() -> None:
    everything = vectors(200, 16) * torch.linspace(2, 0.5, 16)
    memory = filled(everything.split(30), 16, 150, dims=5)
    assert memory.bank.shape == (150, 5)
    assert memory.basis.shape == (16, 5)
    torch.testing.assert_close(memory.basis.T @ memory.basis, torch.eye(5), atol=1e-6, rtol=0)
    spread = ((everything - memory.centre) @ memory.basis).std(0)
    assert (spread.diff() < 0.05).all()  # the leading ones come first
    assert spread[0] > everything.std(0).max() - 0.05


def test_distances_in_the_projected_space_equal_brute_force() -> None:
    memory = filled([vectors(120, 16)], 16, 100, dims=5)
    queries = torch.stack([vectors(11, 16, seed=1), vectors(11, 16, seed=2)])
    projected = (queries - memory.centre) @ memory.basis
    wanted = brute_force(projected, memory.bank)
    torch.testing.assert_close(memory(queries), wanted, atol=1e-6, rtol=1e-5)


def test_nothing_is_lost_where_the_rank_is_low() -> None:
    data = low_rank(300)
    normal, queries = data[:250], data[250:]
    memory = filled([normal], 24, 250, dims=6)
    full = brute_force(queries, normal)
    torch.testing.assert_close(memory(queries[None])[0], full, atol=2e-3, rtol=0)  # float16
    place = (data.double() - memory.centre) @ memory.basis.double()  # before float16
    projected, whole = (torch.cdist(x[250:], x[:250]) for x in (place, data.double()))
    torch.testing.assert_close(projected, whole, atol=1e-5, rtol=0)
    assert torch.equal(projected.argsort()[:, :5], whole.argsort()[:, :5])  # the same neighbours


def test_fewer_vectors_than_components() -> None:
    memory = filled([vectors(3, 16)], 16, 50, dims=8)
    torch.testing.assert_close(memory.basis.T @ memory.basis, torch.eye(8), atol=1e-6, rtol=0)
    assert memory(vectors(3, 16)[None]).max() < 1e-5


# --- its state


def test_it_loads_any_number_of_vectors() -> None:
    source, target = filled([vectors(30)], 8, 50), filled([vectors(3, seed=1)], 8, 50)
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.bank, source.bank)
    assert target.bank.dtype == torch.float16
    empty = FeatureMemory(8)
    target.load_state_dict(empty.state_dict())
    assert len(target.bank) == 0


def test_a_round_trip_keeps_centre_and_basis() -> None:
    source, target = filled([vectors(60, 16)], 16, 50, dims=5), FeatureMemory(16, 50, dims=5)
    target.load_state_dict(source.state_dict())
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name
    assert {"bank", "spacing", "centre", "basis"} == source.state_dict().keys()
    queries = vectors(9, 16, seed=1)[None]
    assert torch.equal(target(queries), source(queries))


def test_it_refuses_vectors_of_another_length() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for bank"):
        FeatureMemory(8).load_state_dict(filled([vectors(5, 6)], 6, 9).state_dict())


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 8)]])
def test_it_must_see_something(batches: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="saw no good picture; give at least one"):
        FeatureMemory(8).fill(batches)


def test_an_empty_memory_has_no_distances() -> None:
    with pytest.raises(ValueError, match=r"memory is empty; run `train\.py fit` first"):
        FeatureMemory(8)(vectors(3)[None])
    with pytest.raises(
        ValueError, match=r"capacity=0, dims=128: the memory must hold .* give 1 or more"
    ):
        FeatureMemory(8, 0)
    with pytest.raises(ValueError, match="capacity=9, dims=0: the memory must hold"):
        FeatureMemory(8, 9, dims=0)
