"""What Video-XL-2's card promises: its mask with timestamps, and its averages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.methods.memories.video_xl_2 import VideoXL2
from headrace.ops.runs import averaged, runs_of
from headrace.types import Cursor, Kind, LayerSpan, Segment, Span, join
from reference.naive.decoder import Decoder, drive, spec, spell_out
from reference.video_xl_2 import Twin

from contract.streams import dice, place, text_rows, turn_of  # isort: skip

P, T, V, N = Kind.PREFIX, Kind.MARKER, Kind.VISUAL, Kind.NEWLINE


def unit(i: int, kinds: list[Kind], axes: int = 1) -> Segment:
    """Rows of one frame."""
    seg = text_rows(i, len(kinds), axes, torch.float32, kind=V, turn=0)
    kind = torch.tensor([int(k) for k in kinds], dtype=torch.int8)
    return type(seg)(
        **{
            **{name: getattr(seg, name) for name in seg.__dataclass_fields__},
            "kind": kind,
            "frame": torch.full((len(kinds),), i),
        }
    )


def units(num: int, kinds: list[Kind], axes: int = 1) -> list[Segment]:
    """A prefix of one row and frames, placed."""
    raw = [text_rows(0, 1, axes, torch.float32, kind=P, turn=0), *(unit(i, kinds, axes) for i in range(num))]
    placed, cursor = [], Cursor()
    for segment in raw:
        segment, cursor = place(segment, cursor)
        placed.append(segment)
    return placed


def seen_by(method: Any, together: int, axes: int) -> dict[int, list[int]]:
    """Which rows every row looks at: keys are zeros, so every row it sees gets the same share of its value.

    The last one is a question's.
    """
    model = spec(windows=(None,), position_rows=axes)
    state, seen = method.init(model), {}
    segments = units(6, [T, V], axes)
    steps = [segments[0], *(join(segments[i : i + together], placed=True) for i in range(1, 7, together))]
    first, (question, _) = 0, turn_of(4, 1, Cursor(next=99), axes, model.dtype)
    for segment in [*steps, question]:
        context, num = method.read(state, model, query=segment is question), len(segment)
        context.begin(segment)
        zeros = torch.zeros(model.heads, num, model.head_dim)
        values = torch.zeros(model.kv_heads, num, model.head_dim)
        for i in range(num):
            values[:, i, first + i] = 1.0  # row r has its one in channel r
        out = context.attend(0, None, zeros, zeros[: model.kv_heads], values)
        for i in range(num):
            seen[first + i] = torch.nonzero(out[0, i] > 1e-6).squeeze(1).tolist()
        state = method.write(state, context.finish())
        first += num
    return seen


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("together", [1, 2, 6])
@pytest.mark.parametrize("timestamps", ["published", "window"])
def test_the_cards_mask(timestamps: str, together: int, axes: int):
    """Six units of a timestamp and a visual row, two per block, one block back; however many come at once."""
    method = VideoXL2(block=2, previous=1, timestamps=timestamps)
    seen = seen_by(method, together, axes)
    assert seen.pop(13) == list(range(14)), "a question sees all"
    name = {0: "P", **{1 + 2 * i: f"T{i}" for i in range(6)}, **{2 + 2 * i: f"V{i}" for i in range(6)}}
    told = {name[row]: [name[x] for x in found] for row, found in seen.items()}
    assert told["V4"] == ["P", "T0", "T1", "T2", "V2", "T3", "V3", "T4", "V4"]
    assert told["V1"] == ["P", "T0", "V0", "T1", "V1"]
    everything = ["P", "T0", "V0", "T1", "V1", "T2", "V2", "T3", "V3", "T4"]
    assert told["T4"] == (everything if timestamps == "published" else [x for x in everything if x not in ("V0", "V1")])


@given(
    visual=st.lists(st.booleans(), max_size=20),
    size=st.integers(1, 5),
    shape=st.sampled_from([(3,), (2, 3)]),
)
def test_runs_are_neighbours_and_their_averages_are_theirs(visual: list[bool], size: int, shape: tuple[int, ...]):
    flags = torch.tensor(visual, dtype=torch.bool)
    run = runs_of(flags, size)
    groups: list[list[int]] = []
    for i, is_visual in enumerate(visual):
        if groups and is_visual and visual[groups[-1][-1]] and len(groups[-1]) < size:
            groups[-1].append(i)
        else:
            groups.append([i])
    assert [[i for i in range(len(visual)) if int(run[i]) == k] for k in range(len(groups))] == groups
    x = torch.randn(*shape[:-1], len(visual), shape[-1], generator=dice(len(visual)))
    got = averaged(x, run)
    for k, group in enumerate(groups):
        torch.testing.assert_close(got[..., k, :], x[..., group, :].mean(-2))
    constant = averaged(torch.ones_like(x), run)
    assert torch.equal(constant, torch.ones_like(constant))


@given(st.lists(st.lists(st.booleans(), max_size=6), max_size=5), st.integers(1, 4))
def test_stretches_have_runs_of_their_own(stretches: list[list[bool]], size: int):
    flags = torch.tensor([flag for stretch in stretches for flag in stretch], dtype=torch.bool)
    run, first = runs_of(flags, size, [len(stretch) for stretch in stretches]), 0
    expected = []
    for stretch in stretches:
        alone = runs_of(torch.tensor(stretch, dtype=torch.bool), size) + first
        expected += alone.tolist()
        first += len(set(alone.tolist()))
    assert run.tolist() == expected


def filled(method: Any, model: Any, segments: list[Segment]) -> Any:
    decoder, state = Decoder(model), method.init(model)
    for segment in segments:
        context = method.read(state, model, query=False)
        drive(decoder, segment, context)
        state = method.write(state, context.finish())
    return state


def answered(method: Any, model: Any, state: Any, after: Segment) -> torch.Tensor:
    context = method.read(state, model, query=True)
    turn, _ = turn_of(4, 4, Cursor(next=int(after.ids.max()) + 1), model.position_rows, model.dtype)
    return drive(Decoder(model), turn, context, watch=True)


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("positions", ["repack", "original"])
def test_averaging_by_ones_or_choosing_all_changes_nothing(positions: str, axes: int):
    model, segments = spec(position_rows=axes), units(9, [T, V, V, V, V, N], axes)
    base = {"block": 2, "previous": 1, "positions": positions}
    state = filled(VideoXL2(**base), model, segments)
    want = answered(VideoXL2(**base, retrieve=100), model, state, segments[-1])
    for other in (VideoXL2(**base, retrieve=0, pool=1), VideoXL2(**base, retrieve=5)):
        torch.testing.assert_close(answered(other, model, state, segments[-1]), want, atol=1e-5, rtol=0)
    thin = answered(VideoXL2(**base, retrieve=1, pool=4), model, state, segments[-1])
    assert float((thin - want).abs().max()) > 1e-4


def test_a_sparse_block_has_a_quarter_of_its_visual_rows():
    model, segments = spec(windows=(None,)), units(8, [T, *([V] * 8), N])
    method = VideoXL2(block=2, previous=1, retrieve=0, pool=4)
    state = filled(method, model, segments)
    context = method.read(state, model, query=True)
    turn, _ = turn_of(4, 4, Cursor(next=999), 1, model.dtype)
    drive(Decoder(model), turn, context)
    dense, sparse = 2 * 10, 2 * (1 + 2 + 1)
    assert len(context._layouts[0].arrival) == 1 + 2 * dense + 2 * sparse


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("pooled", ["unrotated", "published"])
def test_how_many_blocks_are_averaged_in_one_go_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, pooled: str, axes: int
):
    """Also where no row stands between the visual rows of two blocks."""
    model, segments = spec(position_rows=axes), units(23, [V, V, V, V, V], axes)
    method = VideoXL2(block=2, previous=1, retrieve=2, pool=3, pooled=pooled)
    state, answers = filled(method, model, segments), []
    for together in (1, 3, 32):
        monkeypatch.setattr("headrace.methods.memories.video_xl_2.TOGETHER", together)
        answers.append(answered(method, model, state, segments[-1]))
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def test_the_window_holds_what_frames_may_see():
    """Peak attended length: prefix, timestamps, and previous + 1 blocks; what is kept for it is bounded."""
    model, method = spec(windows=(None,)), VideoXL2(block=2, previous=1)
    state = method.init(model)
    for i, segment in enumerate(units(40, [T, V, V])):
        num = len(segment)
        keys = torch.zeros(model.kv_heads, num, model.head_dim)
        state = method.write(state, Span(segment, (LayerSpan(keys, keys, keys, torch.arange(num)),)))
        if i > 8:
            assert state.window.num_rows(0) <= 3 * 2 * 3
            assert len(state.marks[0].rows) + state.window.num_rows(0) // 3 == i


def test_where_timestamps_see_everything_they_see_it_once():
    """Also where a long turn has pushed a part of a frame out of the window."""
    model, method = spec(windows=(None,)), VideoXL2(block=1, previous=0, timestamps="published")
    state = method.init(model)
    for i, segment in enumerate(units(6, [T, V, V, V, V, V])):
        if i == 4:
            turn, _ = turn_of(4, method._most_near(model) - 5, Cursor(next=500), 1, model.dtype)
            context = method.read(state, model, query=True)
            drive(Decoder(model), turn, context)
            state = method.write(state, context.finish())
            assert any(x.first_row < state.window.table.first < x.stop_row for x in state.shelf.blocks)
        context = method.read(state, model, query=False)
        context.begin(segment)
        number = torch.arange(len(segment))
        parts = context._seen(0, torch.zeros(model.heads, len(segment), model.head_dim), number)
        for row in range(len(segment)):
            seen = [p.rows if p.group.mask is None else p.rows[p.group.mask[row]] for p in parts]
            rows = torch.cat([torch.empty(0, dtype=torch.int64), *seen])
            assert len(rows.unique()) == len(rows)
        context = method.read(state, model, query=False)
        drive(Decoder(model), segment, context)
        state = method.write(state, context.finish())


@settings(max_examples=25)
@given(
    blocks=st.sampled_from([(1, None), (3, None), (30, 0), (30, 2), (2, 1)]),
    block=st.integers(1, 3),
    previous=st.sampled_from([0, 1, 5]),
    timestamps=st.sampled_from(["window", "published"]),
    tuned=st.sampled_from([None, 1, 30]),
    axes=st.sampled_from([1, 3]),
)
def test_what_frames_look_back_on_does_not_hang_on_how_many_are_kept(
    blocks: tuple[int, int | None], block: int, previous: int, timestamps: str, tuned: int | None, axes: int
):
    """However few frames are kept for questions, frames and questions see what the naive twin sees."""
    method = VideoXL2(
        max_blocks=blocks[0], ram_blocks=blocks[1], block=block, previous=previous, timestamps=timestamps, retrieve=1
    )
    model = spec(windows=(None, None), position_rows=axes)
    decoder, twin, state = Decoder(model), Twin(method, model), method.init(model)
    cursor, first = Cursor(), 0
    raws = [text_rows(0, 2, axes, torch.float32, kind=P, turn=0), *(unit(i, [T, V, V, N], axes) for i in range(9))]
    for i, raw in enumerate(raws):
        if i == 6 and tuned is not None:
            method = twin.method = replace(method, max_blocks=tuned)
        segment, cursor = place(raw, cursor)
        context = method.read(state, model, query=False)
        want = spell_out(decoder, segment, twin.rows, twin, first=first)
        torch.testing.assert_close(drive(decoder, segment, context).double(), want.hidden, atol=2e-5, rtol=0)
        state = method.write(state, context.finish())
        twin.write(want.rows)
        first += len(segment)
        context = method.read(state, model, query=True)
        asked, _ = turn_of(i, 3, cursor, axes, model.dtype)
        want = spell_out(decoder, asked, twin.rows, twin, first=first, query=True)
        torch.testing.assert_close(drive(decoder, asked, context).double(), want.hidden, atol=2e-5, rtol=0)
