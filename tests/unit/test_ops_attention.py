"""Several key groups under one softmax equal one softmax over all keys."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.ops.attention import KeyGroup, attention_mass, joint_attention, plain_attention
from reference.naive.attention import attend

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2}


def random(*shape: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def compare(got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, atol=TOLERANCE[dtype], rtol=0)


def split(keys: torch.Tensor, values: torch.Tensor, sizes: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(torch.split(keys, sizes, 1), torch.split(values, sizes, 1), strict=True))


shapes = st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 5]), st.sampled_from([1, 2, 6]))


@given(
    shape=shapes,
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 0),
    dtype=st.sampled_from(list(TOLERANCE)),
    width=st.sampled_from([4, 6, 16, 64]),
    seed=st.integers(0, 10_000),
)
def test_any_split_equals_one_softmax(shape: tuple[int, int, int], sizes: list[int], dtype, width: int, seed: int):
    kv_heads, repeat, rows = shape
    q = random(kv_heads * repeat, rows, width, seed=seed, dtype=dtype)
    keys = random(kv_heads, sum(sizes), width, seed=seed + 1, dtype=dtype)
    values = random(kv_heads, sum(sizes), width, seed=seed + 2, dtype=dtype)
    got = joint_attention(q, [KeyGroup(k, v) for k, v in split(keys, values, sizes)], scale=width**-0.5)
    want, _ = attend(q, keys, values, torch.ones(rows, sum(sizes), dtype=torch.bool), width**-0.5)
    compare(got, want, dtype)


@given(
    shape=shapes,
    past=st.lists(st.integers(1, 6), max_size=3),
    dtype=st.sampled_from(list(TOLERANCE)),
    own_is_masked=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_masks_and_causal_rows(shape: tuple[int, int, int], past: list[int], dtype, own_is_masked: bool, seed: int):
    """Some groups are masked, some rows see nothing in a group, and the last group is the rows themselves."""
    kv_heads, repeat, rows = shape
    width, sizes = 8, [*past, rows]
    q = random(kv_heads * repeat, rows, width, seed=seed, dtype=dtype)
    keys = random(kv_heads, sum(sizes), width, seed=seed + 1, dtype=dtype)
    values = random(kv_heads, sum(sizes), width, seed=seed + 2, dtype=dtype)
    sees = torch.rand(rows, sum(sizes), generator=torch.Generator().manual_seed(seed)) > 0.5
    if past:
        sees[0, : past[0]] = False  # the first row sees nothing at all of the first group
    own = torch.ones(rows, rows, dtype=torch.bool).tril()
    sees[:, -rows:] = own
    masks = list(torch.split(sees, sizes, 1))
    groups = [KeyGroup(k, v, mask) for (k, v), mask in zip(split(keys, values, sizes), masks, strict=True)]
    if not own_is_masked:
        groups[-1] = KeyGroup(groups[-1].keys, groups[-1].values, causal=True)
    got = joint_attention(q, groups, scale=0.3)
    want, _ = attend(q, keys, values, sees, 0.3)
    compare(got, want, dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_large_logits_do_not_overflow(dtype: torch.dtype):
    """Shares are taken from log-sum-exps, so logits of several hundred in one group only do no harm."""
    q = random(4, 3, 8, seed=1, dtype=dtype) * 30
    keys, values = random(2, 12, 8, seed=2, dtype=dtype) * 30, random(2, 12, 8, seed=3, dtype=dtype)
    got = joint_attention(q, [KeyGroup(k, v) for k, v in split(keys, values, [5, 7])], scale=0.35)
    want, _ = attend(q, keys, values, torch.ones(3, 12, dtype=torch.bool), 0.35)
    assert bool(got.isfinite().all())
    torch.testing.assert_close(got.double(), want, atol=max(TOLERANCE[dtype], 1e-3), rtol=0)


def test_keys_need_not_lie_together_in_memory():
    """Views of larger blocks and transposed tensors, as caches and decoders hand them over."""
    block = random(2, 40, 8, seed=1, dtype=torch.float32)
    values = random(40, 2, 8, seed=2, dtype=torch.float32).transpose(0, 1)
    q = random(5, 4, 8, seed=3, dtype=torch.float32).transpose(0, 1)
    groups = [KeyGroup(block[:, 3:11], values[:, 3:11]), KeyGroup(block[:, 30:37], values[:, 30:37])]
    at = [*range(3, 11), *range(30, 37)]
    want, _ = attend(q, block[:, at], values[:, at], torch.ones(5, 15, dtype=torch.bool), 0.4)
    compare(joint_attention(q, groups, scale=0.4), want, torch.float32)


def test_inputs_are_left_alone():
    q, keys = random(4, 3, 8, seed=1, dtype=torch.float64), random(2, 9, 8, seed=2, dtype=torch.float64)
    copies = q.clone(), keys.clone()
    joint_attention(q, [KeyGroup(keys[:, :4], keys[:, :4]), KeyGroup(keys[:, 4:], keys[:, 4:])], scale=0.4)
    assert torch.equal(q, copies[0])
    assert torch.equal(keys, copies[1])


def test_plain_attention_of_a_row_that_sees_nothing():
    q, k = random(1, 2, 3, 8, seed=1, dtype=torch.float32), random(1, 2, 4, 8, seed=2, dtype=torch.float32)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1] = False
    out, lse = plain_attention(q, k, k, 0.3, mask=mask)
    assert bool((out[:, :, 1] == 0).all())
    assert bool((lse[:, :, 1] == float("-inf")).all())
    assert bool(out[:, :, [0, 2]].isfinite().all())
    logits = (q @ k.transpose(-1, -2)) * 0.3
    torch.testing.assert_close(lse[:, :, 0], logits.logsumexp(-1)[:, :, 0])


@given(
    shape=shapes,
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    masked=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_attention_mass_equals_the_softmax(shape: tuple[int, int, int], sizes: list[int], masked: bool, seed: int):
    kv_heads, repeat, rows = shape
    q = random(kv_heads * repeat, rows, 8, seed=seed, dtype=torch.float32)
    keys = random(kv_heads, sum(sizes), 8, seed=seed + 1, dtype=torch.float32)
    sees = torch.ones(rows, sum(sizes), dtype=torch.bool)
    if masked:
        sees = torch.rand(rows, sum(sizes), generator=torch.Generator().manual_seed(seed)) > 0.5
        sees[:, -1] = True
    masks = torch.split(sees, sizes, 1) if masked else [None] * len(sizes)
    groups = [KeyGroup(k, v, m) for (k, v), m in zip(split(keys, keys, sizes), masks, strict=True)]
    got = attention_mass(q, groups, scale=0.6)
    assert [len(x) for x in got] == sizes
    whole = torch.cat(got)
    assert abs(float(whole.sum()) - 1) < 1e-5
    _, weights = attend(q, keys, keys, sees, 0.6)
    torch.testing.assert_close(whole.double(), weights.mean((0, 1)), atol=1e-6, rtol=0)
