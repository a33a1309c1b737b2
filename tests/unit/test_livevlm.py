"""What LiveVLM's card promises of its bucketing and its pages."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.methods.memories.livevlm import LiveVLM, best_pages, bucketed
from reference.livevlm import pick


@pytest.mark.parametrize(("buckets", "room", "kept"), [(4, 1, [0, 2, 4, 6]), (2, 2, [0, 1, 4, 5])])
def test_the_cards_example(buckets: int, room: int, kept: list[int]):
    scores = torch.tensor([9.0, 8, 7, 6, 5, 4, 3, 2])
    assert bucketed(scores, torch.arange(8), buckets, room, 1).tolist() == kept


@given(
    num=st.integers(1, 60),
    rows=st.integers(1, 30),
    bucket=st.integers(1, 5),
    salient=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    holes=st.integers(0, 3),
    seed=st.integers(0, 500),
)
def test_bucketing_equals_row_after_row(num: int, rows: int, bucket: int, salient: float, holes: int, seed: int):
    """Never more than the budget, in order, and what the card's loop keeps."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(num, generator=generator)
    positions = torch.randint(1, holes + 2, (num,), generator=generator).cumsum(0) - 1
    method = LiveVLM(rows=rows, bucket=bucket, salient=salient)
    buckets, room = max(rows // bucket, 1), min(bucket, rows)
    kept = bucketed(scores, positions, buckets, room, round(salient * rows))
    assert len(kept) <= max(rows, 1)
    assert bool((kept.diff() > 0).all())
    if num > buckets * room:
        assert set(kept.tolist()) == pick(scores.tolist(), positions.tolist(), method)
    else:
        assert kept.tolist() == list(range(num))


def test_every_stretch_of_a_stream_without_favourites_keeps_a_row():
    kept = bucketed(torch.ones(1000), torch.arange(1000), 50, 1, 0)
    assert (kept // 20).tolist() == list(range(50))


def test_pages_do_not_know_positions_and_a_planted_one_is_found():
    """Keys are un-rotated, so only their content counts; the last page is shorter."""
    generator = torch.Generator().manual_seed(1)
    q, keys = torch.randn(4, 3, 16, generator=generator), torch.randn(2, 70, 16, generator=generator)
    keys[:, 32:48] = 3 * q.mean(1).view(2, 2, 16).mean(1)[:, None]
    pages, mass = best_pages(keys, q, 16, 0.4, 0.25)
    assert (len(mass), len(pages)) == (5, 2)
    assert 2 in pages.tolist()
    assert abs(float(mass.sum()) - 1) < 1e-5
