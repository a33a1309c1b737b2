"""Plain products and the fused kernel agree, and products are nearer to fp64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headrace.ops import attention, blocked
from headrace.ops.attention import KeyGroup, joint_attention
from reference.naive.attention import attend


def random(*shape: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def wanted(q: Tensor, keys: Tensor, values: Tensor, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of one plain softmax in fp64."""
    repeat = q.shape[0] // keys.shape[0]
    k, v = (x.double().repeat_interleave(repeat, 0) for x in (keys, values))
    logits = q.double() @ k.transpose(1, 2) * scale
    if causal:
        logits = logits.masked_fill(torch.ones(logits.shape[1:], dtype=torch.bool).triu(1), float("-inf"))
    return logits.softmax(-1) @ v, logits.logsumexp(-1)


@settings(deadline=None)
@given(
    heads=st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 3, 7])),
    rows=st.integers(1, 40),
    num=st.integers(1, 90),
    width=st.sampled_from([4, 16, 64]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
    causal=st.booleans(),
    steps=st.tuples(st.sampled_from([1, 64, 1 << 19]), st.sampled_from([1, 7, 128])),
    sharp=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 10_000),
)
def test_products_equal_one_softmax(heads, rows, num, width, dtype, causal, steps, sharp, seed):
    """Whatever the sizes of the pieces: nothing is rounded to half precision on the way."""
    kv_heads, repeat = heads
    num = rows if causal else num
    q = random(kv_heads * repeat, rows, width, seed=seed, dtype=dtype) * sharp
    keys, values = (random(kv_heads, num, width, seed=seed + i, dtype=dtype) for i in (1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked, "LOGITS", steps[0])
        patch.setattr(blocked, "CAUSAL_ROWS", steps[1])
        work = blocked.attend_causally if causal else blocked.attend
        out, lse = work(q, keys, values, width**-0.5)
    want, sums = wanted(q, keys, values, width**-0.5, causal=causal)
    assert out.dtype == lse.dtype == torch.float32
    torch.testing.assert_close(out.double(), want, atol=2e-5 * max(1.0, sharp), rtol=0)
    torch.testing.assert_close(lse.double(), sums, atol=1e-5 * max(1.0, sharp), rtol=1e-6)


@settings(deadline=None)
@given(
    rows=st.integers(1, 30),
    past=st.lists(st.integers(0, 60), max_size=3),
    fewest=st.sampled_from([0, 500]),
    masked=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_both_ways_join(rows: int, past: list[int], fewest: int, masked: bool, seed: int) -> None:
    """Groups cut into pieces, some attended by the kernel, some by products, some masked, under one softmax."""
    q, sizes = random(6, rows, 16, seed=seed), [*past, rows]
    keys, values = (random(2, sum(sizes), 16, seed=seed + i) for i in (1, 2))
    sees = torch.ones(rows, sum(sizes), dtype=torch.bool).tril(sum(past))
    groups = [KeyGroup(k, v) for k, v in zip(keys.split(sizes, 1), values.split(sizes, 1), strict=True)]
    groups[-1] = KeyGroup(groups[-1].keys, groups[-1].values, causal=True)
    if masked and past:
        mask = torch.rand(rows, past[0], generator=torch.Generator().manual_seed(seed)) > 0.5
        groups[0] = KeyGroup(groups[0].keys, groups[0].values, mask)
        sees[:, : past[0]] = mask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked, "FEWEST", fewest)
        patch.setattr(blocked, "KEYS", 25)
        patch.setattr(blocked, "_processor", lambda: True)
        got = joint_attention(q, groups, scale=0.25)
    want, _ = attend(q, keys, values, sees, 0.25)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), want, atol=2e-2, rtol=0)


@pytest.mark.parametrize("sharp", [1.0, 4.0])
def test_no_further_from_fp64_than_the_kernel(sharp: float) -> None:
    q, keys, values = (random(n, 196, 64, seed=i) for i, n in ((1, 14), (2, 2), (3, 2)))
    q = q * sharp
    want, sums = wanted(q, keys, values, 0.125, causal=False)
    fused, fused_lse = attention._kernel(q.view(1, 2, -1, 64), keys[None], values[None], 0.125)
    out, lse = blocked.attend(q, keys, values, 0.125)

    def error(x: Tensor) -> float:
        return float((x.to(torch.bfloat16).double().reshape(want.shape) - want).norm() / want.norm())

    assert error(out) <= error(fused)
    assert (lse.double() - sums).abs().max() <= (fused_lse.double().reshape(sums.shape) - sums).abs().max()
    assert error(want) == pytest.approx(error(out), rel=0.01), "nothing is lost but the last rounding"


def test_keys_may_lie_apart_and_nothing_is_written() -> None:
    block, q = random(2, 60, 8, seed=1), random(20, 4, 8, seed=2).transpose(0, 1)
    before = block.clone(), q.clone()
    out, _ = blocked.attend(q, block[:, 20:50], block[:, 21:51], 0.4)
    want, _ = wanted(q, block[:, 20:50], block[:, 21:51], 0.4, causal=False)
    torch.testing.assert_close(out.double(), want, atol=2e-5, rtol=0)
    assert torch.equal(block, before[0])
    assert torch.equal(q, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_precision_keeps_the_kernel(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits of fp32 and fp64 are those of the kernel, whatever this processor prefers for half precision."""
    monkeypatch.setattr(blocked, "_processor", lambda: True)
    assert not blocked.pays(random(14, 196, 64, seed=1, dtype=dtype), 4096)
    assert blocked.pays(random(14, 196, 64, seed=1), 4096)
    assert not blocked.pays(random(14, 1, 64, seed=1), 1024), "a few logits are not worth it"


def test_tiles_keep_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for tiles in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda tiles=tiles: tiles)
        assert blocked._processor.__wrapped__() is not tiles
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not blocked._processor.__wrapped__()


def test_what_the_kernel_attends_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row is too little work for products, however long the past; a frame's rows are not."""
    monkeypatch.setattr(blocked, "_processor", lambda: True)
    keys = torch.empty(4, 5000, 128, dtype=torch.bfloat16)
    group = KeyGroup(keys, keys)
    assert attention._pieces(random(28, 1, 128, seed=1), group, None) == [group]
    pieces = attention._pieces(random(28, 64, 128, seed=1), group, None)
    assert [len(piece.keys[0]) for piece in pieces] == [2048, 2048, 904]
