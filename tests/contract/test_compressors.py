"""The contract of compressors: what an edit may be, and how much of a frame it may keep."""

from __future__ import annotations

from typing import Any

import torch

from contract.plays import Case, equal, frozen, play_of, twin_of
from contract.streams import tokens_of
from headrace import registry
from headrace.engine.step import apply
from headrace.types import Keep, Merge, Replace, VisualTokens

STEPS = 8


def played(case: Case) -> list[tuple[VisualTokens, Any, VisualTokens]]:
    """Tokens, edit and kept tokens of every step."""
    play = play_of(case, None)
    state, seen = play.init(), []
    for i in range(STEPS):
        tokens = play.item(1, i)
        state, edit = play.method.step(state, tokens)
        seen.append((tokens, edit, apply(edit, tokens)))
    return seen


def test_edits_are_in_order(compressor_case: Case):
    """Indices sorted, unique, in range; groups and weights whole; kept tokens in raster order."""
    for tokens, edit, kept in played(compressor_case):
        if isinstance(edit, Keep):
            assert edit.indices.dtype == torch.int64
            assert edit.indices.ndim == 1
            assert bool((edit.indices.diff() > 0).all())
            assert bool(((edit.indices >= 0) & (edit.indices < len(tokens))).all())
        elif isinstance(edit, Merge):
            assert edit.groups.shape == edit.weights.shape == (len(tokens),)
            assert edit.groups.unique().tolist() == list(range(int(edit.groups.max()) + 1))
            assert bool((edit.weights > 0).all())
        else:
            assert isinstance(edit, Replace)
        assert bool((kept.slot.diff() > 0).all())
        assert bool((kept.slot < tokens.dense_len).all())
        assert (kept.grid, kept.frames, kept.times_s) == (tokens.grid, tokens.frames, tokens.times_s)


def least(name: str) -> int:
    """How many tokens every frame keeps at least: 1, unless the twin says 0 (``LEAST``)."""
    return int(getattr(twin_of(name), "LEAST", 1))


def test_every_frame_keeps_something_and_no_more_than_allowed(compressor_case: Case):
    """A method whose paper may drop all tokens of a frame says so in its twin."""
    twin, method = twin_of(compressor_case.name), compressor_case.build()
    fewest = least(compressor_case.name)
    for tokens, _, kept in played(compressor_case):
        for frame in range(len(tokens.frames)):
            num = int((tokens.frame == frame).sum())
            left = int((kept.frame == frame).sum())
            assert fewest <= left, f"a frame keeps {left} tokens; where that is right, the twin says LEAST = {left}"
            assert left <= twin.budget(method, num), f"{left} tokens of {num} are more than budget() allows"


def test_what_is_tuned_holds_from_the_next_step_on(compressor_case: Case):
    """In the middle of a stream, with the state that another value has left."""
    twin, play = twin_of(compressor_case.name), play_of(compressor_case, None)
    for field, values in twin.TUNED.items():
        state = play.init()
        for i, value in enumerate([*values, *values]):
            tuned = play_of(compressor_case, None, **{field: value})
            tokens = play.item(1, i)
            state, edit = tuned.method.step(state, tokens)
            kept = apply(edit, tokens)
            for frame in range(len(tokens.frames)):
                num, left = (int((x.frame == frame).sum()) for x in (tokens, kept))
                assert left <= twin.budget(tuned.method, num)


def test_the_cheapest_end_of_an_effort_keeps_no_more_than_the_fullest(compressor_case: Case):
    for field, ends in registry.lookup(compressor_case.name).method.effort.items():
        kept = []
        for value in ends:
            play = play_of(compressor_case, None, **{field: value})
            state, num = play.init(), 0
            for i in range(STEPS):
                tokens = play.item(1, i)
                state, edit = play.method.step(state, tokens)
                num += len(apply(edit, tokens))
            kept.append(num)
        assert kept[0] < kept[1]


def test_type_device_and_attached_maps_are_kept(compressor_case: Case):
    for tokens, _, kept in played(compressor_case):
        assert kept.features.dtype == tokens.features.dtype
        assert kept.features.device == tokens.features.device
        assert kept.features.shape == (len(kept), tokens.features.shape[1])
        assert (kept.deep is None) == (tokens.deep is None)
        assert kept.deep is None or kept.deep.shape == (tokens.deep.shape[0], *kept.features.shape)
        assert kept.deep is None or kept.deep.dtype == tokens.deep.dtype
        assert kept.frame.device.type == kept.row.device.type == "cpu"
        assert bool(kept.features.isfinite().all())


def test_a_full_budget_changes_nothing(compressor_identity: Case):
    for tokens, _, kept in played(compressor_identity):
        assert equal(frozen(kept), frozen(tokens))


def test_equals_the_naive_twin(compressor_case: Case):
    seen = played(compressor_case)
    method = compressor_case.build()
    want = twin_of(compressor_case.name).twin(method, [tokens for tokens, _, _ in seen])
    for (tokens, edit, kept), expected in zip(seen, want, strict=True):
        if isinstance(edit, Keep):
            assert edit.indices.tolist() == expected
            assert equal(frozen(kept), frozen(tokens.take(torch.tensor(expected, dtype=torch.int64))))
        else:
            torch.testing.assert_close(kept.features, expected.features)
            assert kept.slot.tolist() == expected.slot.tolist()


def test_without_a_state_the_cut_does_not_matter(compressor_case: Case):
    """A method that remembers nothing gives the same for a step of three frames as for its frames one by one."""
    play = play_of(compressor_case, None)
    if play.init() is not None:
        return _may_depend_on_the_past(play)
    dtype, attached = play.dtype, compressor_case.where == "bfloat16"
    whole = tokens_of(1, 2, grid=(4, 5), dtype=dtype, attached=attached, num_frames=3)
    _, together = play.step(None, whole)
    apart = [play.step(None, part)[1] for part in whole.split()]
    for one, other in zip(together.split(), apart, strict=True):
        assert equal(frozen(one), frozen(other))
    return None


def _may_depend_on_the_past(play: Any) -> None:
    """A method with a state must show that it uses it: a second step leaves another state than the first."""
    from headrace.engine.state import fork, same

    state, _ = play.step(play.init(), play.item(1, 0))
    first = fork(state)
    state, _ = play.step(state, play.item(1, 1))
    assert not same(first, state)


def test_the_input_may_have_lost_tokens_already(compressor_case: Case):
    """Frames of uneven size, one of them down to a single token."""
    play = play_of(compressor_case, None)
    tokens = tokens_of(1, 1, grid=(4, 5), dtype=play.dtype, attached=False, num_frames=3)
    thin = tokens.take(torch.tensor([0, 3, 4, 5, 9, 13, 27, 41, 45, 50, 51, 59]))
    _, kept = play.step(play.init(), thin)
    assert all(int((kept.frame == f).sum()) >= least(compressor_case.name) for f in range(3))
    assert set(kept.slot.tolist()) <= set(thin.slot.tolist())
