"""Copies of blocks that are kept near: hits are those of a simulated cache, and blocks go as they would without."""

from __future__ import annotations

import gc

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.cache.near import Near
from unit.test_cache_tiers import LAYERS, sealed

CPU = torch.device("cpu")


@settings(max_examples=40)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, LAYERS - 1), st.lists(st.integers(0, 6), unique=True, max_size=4), st.integers(0, 4)),
        max_size=25,
    )
)
def test_hits_are_those_of_a_simulated_cache(steps: list[tuple[int, list[int], int]]):
    blocks, near = [sealed(4 * i, 3).narrowed() for i in range(7)], Near()
    lists: list[list[int]] = [[] for _ in range(LAYERS)]  # what was wanted last stands last
    hits = misses = 0
    for layer, wanted, most in steps:
        got = near.bring(layer, [blocks[i] for i in wanted], CPU, most)
        for i, pair in zip(wanted, got, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(pair, blocks[i].layer(layer), strict=True))
        hits += sum(i in lists[layer] for i in wanted)
        misses += sum(i not in lists[layer] for i in wanted)
        kept = [i for i in lists[layer] if i not in wanted] + wanted
        lists[layer] = kept[len(kept) - min(most, len(kept)) :]
        assert (near.hits, near.misses) == (hits, misses)
    assert near.num_bytes() == sum(
        sum(x.numel() * x.itemsize for x in blocks[i].layer(layer)) for layer, kept in enumerate(lists) for i in kept
    )


def test_a_block_that_lies_there_is_read_in_place_and_nobody_is_kept_alive():
    near, block, small = Near(), sealed(0, 4), sealed(4, 4).narrowed()
    ((keys, _), _) = near.bring(0, [block, small], CPU, 9)
    assert keys.data_ptr() == block.layer(0)[0].data_ptr()
    assert (near.hits, near.misses) == (0, 1)
    assert near.num_bytes() > 0
    del small
    gc.collect()
    assert near.num_bytes() == 0
