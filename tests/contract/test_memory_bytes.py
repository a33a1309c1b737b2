"""The contract of memories in bytes: what is held, how it grows, and what a tuned value does to it."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import torch

from contract.plays import LAYOUTS, Case, check_state, twin_of
from contract.streams import dice, place, places, text_rows, wrapped
from headrace.engine.state import fork, pack
from headrace.types import Cursor, Kind, LayerSpan, ModelSpec, Span, VisualTokens
from reference.naive.decoder import DIM, HEAD_DIM, KV_HEADS, spec

BIG = (8, 8)


def _span(model: ModelSpec, i: int, kind: str, num_rows: int = 64) -> Span:
    """A frame of 64 rows (or a prefix), with keys and values made up."""
    generator = dice(i)
    frame, row, col = places(1, BIG)
    if num_rows < 64:
        seg = text_rows(i, num_rows, model.position_rows, model.dtype, kind=Kind.PREFIX, turn=0)
        return Span(seg, _layers(model, num_rows, generator))
    deep = torch.randn(len(model.taps), 64, DIM, generator=generator) if model.taps else None
    features = torch.randn(64, DIM, generator=generator)
    tokens = VisualTokens(features, frame, row, col, BIG, (i,), (float(i),), deep=deep)
    seg, _ = place(wrapped(tokens, model.position_rows), Cursor(next=5 + 64 * i))
    return Span(seg, tokens=tokens) if kind == "tokens" else Span(seg, _layers(model, 64, generator))


def _layers(model: ModelSpec, num: int, generator: torch.Generator) -> tuple[LayerSpan, ...]:
    def random() -> torch.Tensor:
        return torch.randn(KV_HEADS, num, HEAD_DIM, generator=generator)

    return tuple(LayerSpan(random(), random(), random(), torch.arange(num)) for _ in range(model.layers))


def _fill(method: Any, model: ModelSpec, state: Any, steps: range) -> tuple[Any, list[int]]:
    sizes = []
    for i in steps:
        state = method.write(state, _span(model, i, method.kind, num_rows=5 if i == 0 and method.kind == "kv" else 64))
        check_state(state)
        sizes.append(method.num_bytes(state))
    return state, sizes


def test_bytes_stay_below_the_declared_bound(memory_case: Case):
    """200 frames of 64 rows; flat where a bound is declared, honest growth where there is none.

    Visual tokens may have deepstack features; the rows of a kv memory are the decoder's, whatever joined them.
    """
    method = memory_case.build()
    plain = spec(position_rows=LAYOUTS[memory_case.where][0], grid=BIG)
    for taps in ((), (0, 1)) if method.kind == "tokens" else ((),):
        _check_bytes(method, dataclasses.replace(plain, taps=taps))


def _check_bytes(method: Any, model: ModelSpec) -> None:
    bound = method.bound_bytes(model)
    state, sizes = _fill(method, model, method.init(model), range(200))
    if bound is None:
        steps = {b - a for a, b in pairwise(sizes[100:])}  # parts of it may be bounded, and are full by then
        assert len(steps) == 1, "a memory without a bound grows by the same bytes per frame"
        assert steps.pop() >= 64 * (model.row_bytes if method.kind == "kv" else model.dim * model.dtype.itemsize)
        return
    assert max(sizes) <= bound
    assert max(sizes[100:]) <= max(sizes[:100])
    held = sum(x.numel() * x.itemsize for x in _held(state))
    assert sizes[-1] >= held, "num_bytes leaves something out"


def _held(state: Any) -> list[torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    pack(state, tensors)
    return list(tensors.values())


def test_bytes_follow_a_tuned_value(memory_variant: Case):
    """After a tunable field changed, the bytes soon go below the bound of the new value."""
    method, model = memory_variant.build(), spec(grid=BIG)
    table = twin_of(memory_variant.name).TUNED
    assert table.keys() == set(method.tunable)
    for field, values in table.items():
        wide = dataclasses.replace(method, **{field: 1500 if isinstance(values[0], int) else 1.0})
        full, _ = _fill(wide, model, wide.init(model), range(40))
        for value in values:
            tuned = dataclasses.replace(method, **{field: value})
            _, sizes = _fill(tuned, model, fork(full), range(40, 60))
            bound = tuned.bound_bytes(model)
            assert bound is None or max(sizes[10:]) <= bound, f"{field}: 1500 -> {value}"
