"""Weighted k-means, pooling of what is there, and the first generation's operators."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.ops.cluster import first_of_each, nearest_rows, spread, squared_distances, weighted_kmeans
from headrace.ops.grid import pool_cells
from headrace.ops.star import key_frames, update_abstract
from headrace.types import VisualTokens


def rows_of(num: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed))


def test_separate_groups_are_found_whatever_the_start() -> None:
    """Group means, weights as sizes times the rows' own weights."""
    groups = torch.tensor([0, 1, 2, 0, 1, 0, 2, 2, 2])
    rows = 100.0 * torch.eye(3)[groups] + rows_of(9, 3, 1)
    weights = torch.arange(1.0, 10.0)
    for start in ([0, 1, 2], [8, 4, 3], [7, 1, 5]):
        found = weighted_kmeans(rows, weights, rows[start])
        for cluster, row in enumerate(start):
            own = groups == groups[row]
            torch.testing.assert_close(
                found.centroids[cluster], (rows[own] * weights[own, None]).sum(0) / weights[own].sum()
            )
            assert found.weights[cluster] == weights[own].sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 12), st.integers(0, 1000), st.booleans())
def test_weight_is_kept_and_no_cluster_is_empty(num: int, more: int, seed: int, doubled: bool) -> None:
    """Also with equal rows, which leave clusters without rows of their own."""
    rows = rows_of(num + more, 4, seed)
    if doubled:
        rows[1::2] = rows[0]
    weights = torch.rand(num + more, generator=torch.Generator().manual_seed(seed)) + 0.1
    found = weighted_kmeans(rows, weights, rows[:num])
    assert torch.bincount(found.labels, minlength=num).min() >= 1
    torch.testing.assert_close(found.weights.sum(), weights.sum())
    torch.testing.assert_close((found.centroids * found.weights[:, None]).sum(0), (rows * weights[:, None]).sum(0))
    again = weighted_kmeans(rows, weights, rows[:num])
    assert torch.equal(found.labels, again.labels)


def test_an_empty_cluster_takes_the_row_that_fits_worst() -> None:
    rows = torch.tensor([[0.0], [1.0], [10.0]])
    found = weighted_kmeans(rows, torch.ones(3), torch.tensor([[0.5], [99.0]]), max_iter=1)
    assert found.labels.tolist() == [0, 0, 1]


def test_a_mean_of_two_is_nearest_to_the_first() -> None:
    """Whatever the rounding says."""
    for seed in range(30):
        rows = rows_of(5, 64, seed)
        mean = (rows[1] + rows[3]) / 2
        assert nearest_rows(mean[None], rows[[3, 1]]).tolist() == [0]
        assert nearest_rows(mean[None], rows).tolist() == [1]


def test_distances_of_equal_rows_are_nothing_and_never_negative() -> None:
    rows = 1e3 + rows_of(40, 64, 0)
    distances = squared_distances(rows, rows)
    assert bool((distances >= 0).all())
    assert float(distances.diag().max()) < 1e-6


def test_first_of_each_keeps_the_order() -> None:
    rows = torch.tensor([[3.0], [1.0], [3.0], [2.0], [1.0]])
    first, same = first_of_each(rows)
    assert (first.tolist(), same.tolist()) == ([0, 1, 3], [0, 1, 0, 2, 1])


def test_spread_leaves_out_what_is_close_to_another() -> None:
    rows = torch.tensor([[0.0], [5.0], [5.1], [9.0]])
    assert spread(rows, 3).tolist() == [0, 1, 3]


def test_pooling_averages_what_is_there() -> None:
    """A 3 x 3 grid: cells of 4, 2, 2 and 1 tokens; then with holes."""
    place = torch.arange(9)
    tokens = VisualTokens(torch.arange(9.0)[:, None], place * 0, place // 3, place % 3, (3, 3), (0,), (0.0,))
    assert pool_cells(tokens).flatten().tolist() == [2.0, 3.5, 6.5, 8.0]
    thin = tokens.take(torch.tensor([1, 4, 8]))
    torch.testing.assert_close(pool_cells(thin).flatten(), torch.tensor([2.5, 13 / 3, 13 / 3, 8.0]))
    last = torch.full((1, 4, 1), -1.0)
    assert pool_cells(thin, last).flatten().tolist() == [2.5, -1.0, -1.0, 8.0]
    assert pool_cells(tokens.take(torch.tensor([], dtype=torch.int64)), last) is last
    assert pool_cells(tokens.take(torch.tensor([], dtype=torch.int64))) is None


def test_pooling_treats_deepstack_features_alike() -> None:
    place = torch.arange(4)
    features = rows_of(4, 6, 3)
    deep = torch.stack((2 * features, features + 1))
    tokens = VisualTokens(features, place * 0, place // 2, place % 2, (2, 2), (0,), (0.0,), deep=deep)
    pooled = pool_cells(tokens)
    torch.testing.assert_close(
        pooled[:, 0], torch.stack((features.mean(0), 2 * features.mean(0), features.mean(0) + 1))
    )


def test_abstract_memory_replaces_a_fifth() -> None:
    """One new row: every slot moves towards it by the rate, whatever the projections."""
    memory, new = rows_of(3, 4, 1), rows_of(1, 4, 2)
    found = update_abstract(memory, new, rows_of(3, 8, 3), rows_of(1, 8, 4))
    torch.testing.assert_close(found, 0.8 * memory + 0.2 * new)


def test_key_frames_of_paper_and_release_differ() -> None:
    bank = torch.tensor([[0.0], [1.0], [9.0], [10.0], [11.0]])
    centroids, weights = torch.tensor([[0.5], [10.1]]), torch.tensor([2.0, 3.0])
    assert key_frames(centroids, weights, bank, 2).tolist() == [3, 0]
    assert key_frames(centroids, weights, bank, 2, rule="released").tolist() == [1, 0]
