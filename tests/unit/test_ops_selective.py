"""Which rows a selective pass computes anew, and which implementation does it."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.ops import selective
from headrace.ops.selective import METRICS, choose, similarity


@pytest.fixture(autouse=True)
def _forget():
    """What a device can do is found out once."""
    selective.kernels_on.cache_clear()
    yield
    selective.kernels_on.cache_clear()


@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 5), st.sampled_from(METRICS), st.data())
def test_rows_go_out_and_come_back(num_frames: int, num: int, width: int, metric: str, data: st.DataObject) -> None:
    many = data.draw(st.integers(1, num))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    keys, h = (torch.randn(num_frames, num, width, generator=draw) for _ in "kh")
    reference, added = (torch.randn(num, width, generator=draw) for _ in "ra")
    found = choose(keys, reference, num=many, metric=metric)
    scores = similarity(keys, reference, metric)
    for frame in range(num_frames):
        order = sorted(range(num), key=lambda row: (float(scores[frame, row]), row))
        assert found.rows[frame].tolist() == order[:many]
    x, picked = found.pick(keys, h)
    v, settled = found.put(reference, x), found.settle(h, added, picked, x)
    for frame in range(num_frames):
        rows = found.rows[frame].tolist()
        for row in range(num):
            if row in rows:
                at = rows.index(row)
                assert torch.equal(x[frame, at], keys[frame, row])
                assert torch.equal(picked[frame, at], h[frame, row])
                assert torch.equal(v[frame, row], keys[frame, row])
                assert torch.equal(settled[frame, row], h[frame, row] + keys[frame, row])
            else:
                assert torch.equal(v[frame, row], reference[row])
                assert torch.equal(settled[frame, row], h[frame, row] + added[row])


@pytest.mark.parametrize("metric", METRICS)
def test_half_precision_keys_are_compared_in_single(metric: str) -> None:
    """Keys of a still picture differ by little; in eight bits of mantissa most of them would tie."""
    draw = torch.Generator().manual_seed(0)
    reference = torch.randn(196, 64, generator=draw).bfloat16()
    keys = (reference.float() + 0.02 * torch.randn(1, 196, 64, generator=draw)).bfloat16()
    found = choose(keys, reference, num=49, metric=metric)
    assert torch.equal(found.rows, choose(keys.float(), reference.float(), num=49, metric=metric).rows)


def test_a_key_without_length_is_like_nothing() -> None:
    keys = torch.ones(1, 4, 3)
    keys[0, 2] = 0
    assert similarity(keys, torch.ones(4, 3), "cosine")[0, 2] == 0
    assert choose(keys, torch.ones(4, 3), num=1, metric="cosine").rows.tolist() == [[2]]


def test_nothing_that_is_given_changes() -> None:
    keys, reference = torch.randn(2, 6, 4).transpose(0, 1).contiguous().transpose(0, 1), torch.randn(6, 4)
    before = keys.clone(), reference.clone()
    found = choose(keys, reference, num=3, metric="cosine")
    x, picked = found.pick(keys, keys)
    found.put(reference, x)
    found.settle(keys, reference, picked, x)
    assert torch.equal(keys, before[0])
    assert torch.equal(reference, before[1])


def stand_in(monkeypatch: pytest.MonkeyPatch, check, asked: list) -> None:
    """Kernels that do by plain operations what is asked of them, and note it."""

    def plainly(keys, reference, **settings):
        asked.append(keys.dtype)
        return selective.choose_plainly(keys, reference, **settings)

    monkeypatch.setitem(sys.modules, "headrace.ops.kernels", SimpleNamespace(check=check, choose=plainly))
    monkeypatch.delattr("headrace.ops.kernels", raising=False)


@pytest.mark.parametrize(
    "wrong", [RuntimeError("Failed to find C compiler.\nmore"), ImportError("no triton"), OSError()]
)
def test_a_device_without_kernels_runs_plain_operations(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: Exception
) -> None:
    def check(device):
        raise wrong

    stand_in(monkeypatch, check, asked := [])
    keys, caplog = torch.empty(1, 6, 4, device="meta"), caplog
    with torch.no_grad(), caplog.at_level(logging.INFO):
        for _ in range(2):
            assert choose(keys, keys[0], num=2, metric="dot", fused=True).rows.shape == (1, 2)
    assert not asked
    (record,) = caplog.records
    assert record.levelname == ("INFO" if isinstance(wrong, ImportError) else "WARNING")
    assert (str(wrong).splitlines() or ["OSError"])[0] in record.getMessage()


def test_kernels_that_are_asked_for_run_in_half_and_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, lambda device: None, asked := [])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        keys = torch.empty(1, 6, 4, device="meta", dtype=dtype)
        choose(keys, keys[0], num=2, metric="l2", fused=True)
        with torch.no_grad():
            choose(keys, keys[0], num=2, metric="l2")
            choose(keys, keys[0], num=2, metric="l2", fused=True)
            choose(torch.zeros(1, 6, 4, dtype=dtype), torch.zeros(6, 4, dtype=dtype), num=2, metric="l2", fused=True)
    assert asked == [torch.float16, torch.bfloat16, torch.float32]
