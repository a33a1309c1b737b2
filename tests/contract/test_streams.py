"""What holds for every method with a state, whatever its role: the state is a value that belongs to one stream."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from contract.plays import (
    Case,
    Play,
    check_state,
    equal,
    frozen,
    leaves,
    play_of,
    run,
    state_bytes,
    through_bytes,
    twin_of,
)
from headrace import registry
from headrace.engine.pipeline import Pipeline
from headrace.engine.state import fork, pack, same

BEFORE, STEPS, DISTURB = 4, 10, 3


_ALONE: dict[tuple[str, int], list[Any]] = {}


def alone(play: Play, seed: int) -> list[Any]:
    """What a stream gives that nothing disturbs; run once per case."""
    key = (str(play.case), seed)
    if key not in _ALONE:
        _ALONE[key] = run(play, play.init(), seed, range(STEPS))[1]
    return _ALONE[key]


def test_every_role_has_its_cases():
    from contract.plays import WHERE

    used = {entry.role for entry in registry.entries().values()}
    assert used <= WHERE.keys(), f"methods of these roles have no contract yet: {used - WHERE.keys()}"


def test_two_streams_in_turn_equal_each_alone(play: Play):
    want = [alone(play, seed) for seed in (1, 2)]
    states, outs = [play.init(), play.init()], [[], []]
    for i in range(STEPS):
        for stream, seed in enumerate((1, 2)):
            states[stream], out = run(play, states[stream], seed, range(i, i + 1))
            outs[stream] += out
    assert equal(outs, want)


@pytest.mark.parametrize("at", [1, BEFORE])
def test_a_fork_and_its_origin_have_the_same_future(play: Play, at: int):
    want = alone(play, 1)
    for disturbed in ("fork", "origin"):
        origin, _ = run(play, play.init(), 1, range(at))
        copy = fork(origin)
        assert same(copy, origin)
        other, kept = (copy, origin) if disturbed == "fork" else (origin, copy)
        run(play, other, 2, range(at, at + DISTURB))
        _, outs = run(play, kept, 1, range(at, STEPS))
        assert equal(outs, want[at:]), f"the {disturbed} changed the other's future"


def test_a_fork_may_outlive_its_origin_and_forks_of_forks_agree(play: Play):
    want = alone(play, 1)
    state, outs = play.init(), []
    for i in range(STEPS):
        old, state = state, fork(state)
        state, out = run(play, state, 1, range(i, i + 1))
        run(play, old, 3, range(i, i + 1))
        outs += out
    assert equal(outs, want)


@pytest.mark.parametrize("at", [0, BEFORE])
def test_a_resumed_stream_has_the_same_future(play: Play, at: int):
    want = alone(play, 1)
    state, _ = run(play, play.init(), 1, range(at))
    saved = through_bytes(state, play.spec)
    check_state(saved)
    assert same(saved, state)
    run(play, state, 2, range(at, at + DISTURB))
    state, outs = run(play, saved, 1, range(at, STEPS))
    assert equal(outs, want[at:])


def test_outputs_and_inputs_stay_as_they_were(play: Play):
    """What was given out is not touched later, so an output cannot depend on later frames; nor is what was given in."""
    state = play.init()
    seen = []
    for i in range(STEPS):
        item = play.item(1, i)
        before = frozen(item)
        state, out = play.step(state, item)
        seen.append((item, before, out, frozen(out)))
    for item, before, out, after in seen:
        assert equal(frozen(item), before)
        assert equal(frozen(out), after)


def test_a_step_leaves_the_state_it_was_given_alone(stepped_case: Case, backbones):
    """The engine keeps the old state until the whole step has gone well; what changed in place would stay changed."""
    play = play_of(stepped_case, backbones)
    state = play.init()
    for i in range(BEFORE):
        tensors: dict[str, torch.Tensor] = {}
        tree = pack(state, tensors)
        after, _ = play.step(state, play.item(1, i))
        now: dict[str, torch.Tensor] = {}
        whole = pack(state, now) == tree and equal(frozen(now), frozen(tensors))
        assert whole, f"{stepped_case.name}: step {i} changed the state it was given; build the next one beside it"
        state = after


def test_outputs_do_not_depend_on_later_items(play: Play):
    one = alone(play, 1)
    state, two = run(play, play.init(), 1, range(BEFORE))
    run(play, state, 2, range(BEFORE, BEFORE + DISTURB))
    assert equal(one[:BEFORE], two)


def test_tunable_fields_may_change_at_any_moment(case: Case, backbones):
    """Any value, in mid-stream, and back: the state stays valid and the outputs finite."""
    play = play_of(case, backbones)
    table = twin_of(case.name).TUNED
    assert table.keys() == set(play.method.tunable), f"{case.name}: TUNED of its twin must name the tunable fields"
    for field, values in table.items():
        assert len(values) >= 3, f"{case.name}.{field}: give at least three values"
        state, _ = run(play, play.init(), 1, range(BEFORE))
        for i, value in enumerate(values):
            other = play_of(case, backbones, **{field: value})
            state, outs = run(other, state, 1, range(BEFORE + 2 * i, BEFORE + 2 * i + 2))
            tensors = [leaf for leaf in leaves(outs) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
            assert all(bool(leaf.isfinite().all()) for leaf in tensors)
        run(play, state, 1, range(1))


def test_only_tunable_fields_change_while_a_stream_runs(name: str):
    entry = registry.lookup(name)
    if entry.role in ("encoder", "compressor", "memory", "speaker"):
        pipeline = Pipeline.parse(name)
    elif entry.role == "retriever":
        pipeline = Pipeline.parse(f"rekv+{name}")
    else:
        pipeline = Pipeline(**{**Pipeline.parse().methods(), entry.role: registry.build(name)})
    for field in [*registry.fields(name), "no_such_field"]:
        if field in entry.method.tunable:
            for value in twin_of(name).TUNED[field]:
                tuned = pipeline.tuned(**{entry.role: {field: value}})
                assert getattr(getattr(tuned, entry.role), field) == value
                assert getattr(getattr(pipeline, entry.role), field) == registry.fields(name)[field]
        else:
            with pytest.raises(ValueError, match=f"{entry.role}.{field}"):
                pipeline.tuned(**{entry.role: {field: 1}})


def test_the_state_of_a_part_without_a_past_does_not_grow(case: Case, backbones):
    """Memories say their own bound; everything else must be flat."""
    play = play_of(case, backbones)
    state, sizes = play.init(), []
    if case.role == "memory":
        assert play.method.bound_bytes(play.spec) is None or play.method.bound_bytes(play.spec) > 0
    else:
        num = 40 if case.role == "encoder" else 200  # a tower costs time
        for i in range(num):
            state, _ = play.step(state, play.item(1, i))
            sizes.append(state_bytes(state))
        assert max(sizes[num // 2 :]) <= 1.02 * max(sizes[: num // 2]) + 64


def test_all_methods_are_played(name: str):
    from contract.plays import cases

    entry = registry.lookup(name)
    assert name in {case.name for case in cases("VARIANTS", entry.role)}
