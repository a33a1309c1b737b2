"""The attention bench compares what it says."""

from __future__ import annotations

import pytest
import torch

from headrace.bench import attention as bench
from unit.tiny import objects, run


def test_both_ways_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[bool | None, list[int]]] = []
    real = bench.joint_attention

    def spying(q, groups, *, scale, products):
        called.append((products, [group.keys.shape[1] for group in groups]))
        return real(q, groups, scale=scale, products=products)

    monkeypatch.setattr(bench, "joint_attention", spying)
    monkeypatch.setattr(bench, "BLOCK_ROWS", 20)
    found = bench.attention("tiny", [1, 6], [0, 45], repeats=2)
    assert [(one.rows, one.past) for one in found] == [(1, 0), (1, 45), (6, 0), (6, 45)]
    assert called[:3] == [(False, [1]), (True, [1]), (None, [1])]
    assert called[-1] == (None, [20, 20, 5, 6])
    assert len(called) == 4 * 3 * 3
    for one in found:
        assert (one.heads, one.kv_heads, one.width) == (4, 2, 8)
        assert min(one.fused_ms, one.products_ms, one.chosen_ms) > 0
        assert one.products_error < 3e-3
        assert one.fused_error < 1e-2


def test_full_precision_is_near_fp64() -> None:
    (one,) = bench.attention("tiny", [6], [45], dtype=torch.float32, repeats=1)
    assert max(one.fused_error, one.products_error) < 1e-6


def test_the_width_of_a_head_is_the_shapes_own() -> None:
    (one,) = bench.attention("qwen3-vl-4b", [1], [0], repeats=1)
    assert (one.heads, one.kv_heads, one.width) == (32, 8, 128)


def test_the_command() -> None:
    words = ["bench", "attention", "--model-shape", "tiny", "--rows", "2", "--past", "0,9", "--repeats", "1"]
    code, stdout, _ = run(*words, "--json")
    assert code == 0
    assert [(x["rows"], x["past"]) for x in objects(stdout)] == [(2, 0), (2, 9)]
    code, stdout, _ = run(*words)
    assert code == 0
    assert "| 4 / 2 x 8 | 2 | 9 |" in stdout
    for wrong, says in (("x", "--rows: 'x' is no list"), ("0", "at least 1")):
        code, _, stderr = run("bench", "attention", "--model-shape", "tiny", "--rows", wrong)
        assert code == 2
        assert says in stderr
        assert stderr.count("\n") == 1
