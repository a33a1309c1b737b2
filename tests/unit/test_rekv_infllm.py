"""What the cards of ReKV and InfLLM promise, on a small random decoder and on nano."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace import load, registry
from headrace.cache import Disk, RecallContext, VectorIndex
from headrace.cache.uses import HALVES
from headrace.engine.pipeline import Pipeline
from headrace.engine.state import fork, same
from headrace.methods.memories.infllm import InfLLM
from headrace.methods.memories.rekv import ReKV
from headrace.ops.retrieval import best_chunks
from headrace.types import Cursor, Frame, Kind, LayerSpan, Segment, Span, join
from reference.naive.decoder import Decoder, drive, spec
from reference.rekv import one_softmax

from contract.streams import dice, place, text_rows, thinned, turn_of, wrapped  # isort: skip

LAYOUTS = [(1, "plain", "repack"), (1, "plain", "original"), (3, "interleaved", "original")]


def stream(model: Any, num: int, *, seed: int = 1) -> list[Segment]:
    """A prefix and ragged frames, placed."""
    raw = [text_rows(0, 5, model.position_rows, model.dtype, kind=Kind.PREFIX, turn=0)]
    for i in range(num):
        tokens = thinned(seed, i, model.dtype)
        raw += [wrapped(part, model.position_rows) for part in tokens.split()]
    placed, cursor = [], Cursor()
    for segment in raw:
        segment, cursor = place(segment, cursor)
        placed.append(segment)
    return placed


def shown(method: Any, decoder: Decoder, segments: list[Segment], state: Any = None) -> Any:
    """Run segments through a memory."""
    state = method.init(decoder.spec) if state is None else state
    for segment in segments:
        context = method.read(state, decoder.spec, query=False)
        drive(decoder, segment, context)
        state = method.write(state, context.finish())
    return state


def asked(method: Any, decoder: Decoder, state: Any, after: Segment, *, first: list[Segment] = []) -> torch.Tensor:  # noqa: B006
    """Hidden rows of a question of four rows and two answer rows; ``first`` waits for its step and is shown before."""
    context, rows = method.read(state, decoder.spec, query=True), decoder.spec.position_rows
    for segment in first:
        drive(decoder, segment, context)
        after = segment
    cursor, outs = Cursor(next=int(after.ids.max()) + 1), []
    for num in (4, 1, 1):
        turn, cursor = turn_of(num, num, cursor, rows, decoder.spec.dtype)
        outs.append(drive(decoder, turn, context, watch=True))
    return torch.cat(outs)


@pytest.mark.parametrize(("rows", "kind", "positions"), LAYOUTS)
@pytest.mark.parametrize("waiting", [0, 2])
def test_looking_everything_up_answers_as_full_memory_does(rows: int, kind: str, positions: str, waiting: int):
    """Also with frames that wait for their step, and through a sliding window in the second layer."""
    model = spec(position_rows=rows, kind=kind, windows=(None, 5))
    decoder, segments = Decoder(model), stream(model, 8)
    now, later = segments[: len(segments) - waiting], segments[len(segments) - waiting :]
    full = registry.build("full", positions=positions)
    want = asked(full, decoder, shown(full, decoder, now), now[-1], first=later)
    for method in (
        ReKV(retrieve=50, positions=positions),
        ReKV(retrieve=0, recent=50, positions=positions),
        InfLLM(positions=positions),
    ):
        got = asked(method, decoder, shown(method, decoder, now), now[-1], first=later)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("retriever", ["embedding", "recency"])
def test_blocks_that_are_imposed_on_all_layers_answer_as_full_memory_does(retriever: str):
    """Retrieval from outside, with room for everything."""
    model = spec()
    decoder, segments = Decoder(model), stream(model, 6)
    full, method = registry.build("full"), ReKV(retrieve=50)
    state = shown(method, decoder, segments, method.init(model, registry.build(retriever)))
    want = asked(full, decoder, shown(full, decoder, segments), segments[-1])
    torch.testing.assert_close(asked(method, decoder, state, segments[-1]), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("method", [ReKV(window=7, retrieve=3), InfLLM(window=7, retrieve=2)], ids=["rekv", "infllm"])
def test_frames_one_by_one_or_several_at_once_give_the_same(method: Any, axes: int):
    """A frame is a step whatever it comes with, also with the first rows still in the window."""
    model = spec(position_rows=axes)
    decoder, segments = Decoder(model), stream(model, 8)
    one = shown(method, decoder, segments)
    several = [segments[0], *(join(segments[i : i + 3], placed=True) for i in range(1, len(segments), 3))]
    other = shown(method, decoder, several)
    assert one.shelf.bounds.tolist() == other.shelf.bounds.tolist()
    assert torch.equal(one.shelf.worth, other.shelf.worth)
    assert bool((one.shelf.worth > one.shelf.ids / HALVES).any()) == isinstance(method, InfLLM), "frames look up here"
    got, want = (asked(method, decoder, state, segments[-1]) for state in (other, one))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sinks", [0, 3, 5, 9])
def test_every_row_is_a_sink_or_in_one_block(sinks: int):
    model = spec()
    decoder, segments = Decoder(model), stream(model, 9)
    total = sum(map(len, segments))
    state = shown(ReKV(window=6, sinks=sinks), decoder, segments)
    kept = state.sinks.num_rows(0) + sum(map(len, state.shelf.blocks))
    assert kept == total
    method = InfLLM(window=8, sinks=sinks, block=4, exec_rows=5)
    state = method.init(model)
    for i, segment in enumerate(segments):
        state = shown(method, decoder, [segment], state)
        seen, waiting = sum(map(len, segments[: i + 1])), state.scores.shape[2]
        num_sinks = min(max(seen - 8, 0), sinks)
        assert num_sinks + 4 * len(state.shelf) + waiting == seen
        assert waiting < 8 + 4 + max(0, sinks - num_sinks)


def test_equal_frames_are_as_many_blocks_as_the_card_counts():
    """floor((rows - sinks) / rows of a frame), after every frame."""
    model, method, seen = spec(), ReKV(window=9), 5
    state, cursor = method.init(model), Cursor()
    for i in range(12):
        raw = text_rows(i, 6 if i else 5, 1, model.dtype, kind=Kind.VISUAL if i else Kind.PREFIX, turn=0)
        segment, cursor = place(dataclasses.replace(raw, frame=raw.frame * 0 + i - 1), cursor)
        state = shown(method, Decoder(model), [segment], state)
        assert len(state.shelf) == (seen - 5) // 6
        seen += 6


def test_the_cards_example_of_a_short_last_chunk():
    scores = torch.tensor([0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.6])
    assert best_chunks(scores, 4, 2).tolist() == [2, 3, 6]
    assert best_chunks(scores, 7, 2).tolist() == list(range(7))
    assert best_chunks(scores, 3).tolist() == [1, 3, 5]


def planted(model: Any, keys: torch.Tensor, name: int) -> Any:
    """A ReKV state whose 1,000 blocks have random keys, but for one."""
    method, state = ReKV(retrieve=3, max_blocks=1000, window=8), None
    state = method.init(model)
    generator = dice(4)
    axes = model.position_rows
    prefix = text_rows(0, 5, axes, model.dtype, kind=Kind.PREFIX, turn=0)
    for i in range(1000):
        segment = dataclasses.replace(
            prefix if i == 0 else text_rows(i, 2, axes, model.dtype, kind=Kind.VISUAL, turn=0),
            frame=torch.full((5 if i == 0 else 2,), -1 if i == 0 else i),
        )
        layers = []
        for _ in range(model.layers):
            x = torch.randn(model.kv_heads, len(segment), model.head_dim, generator=generator)
            own = keys[:, None].expand_as(x) if i == name else x
            layers.append(LayerSpan(own, x, x, torch.arange(len(segment))))
        state = method.write(state, Span(segment, tuple(layers)))
    return method, state


@pytest.mark.parametrize("axes", [1, 3])
def test_a_planted_block_is_found_among_a_thousand(axes: int):
    model = spec(position_rows=axes)
    q = torch.randn(model.heads, 4, model.head_dim, generator=dice(1))
    wanted = q.mean(1).view(model.kv_heads, -1, model.head_dim).sum(1)
    method, state = planted(model, wanted, 500)
    context = method.read(state, model, query=True)
    question, _ = turn_of(1, 4, Cursor(next=9999), axes, model.dtype)
    context.begin(question)
    k = torch.randn(model.kv_heads, 4, model.head_dim, generator=dice(2))
    for layer in range(model.layers):
        context.attend(layer, None, q, k, k)
        (place,) = state.shelf.find(torch.tensor([499]))  # the prefix has no block
        assert 499 in context.found(layer).ids.tolist()
        assert int(state.shelf.blocks[place].notes.frame[0]) == 500


@pytest.mark.parametrize("method", [ReKV(window=9), InfLLM(window=9)])
def test_blocks_keep_what_is_known_of_their_rows_in_one_table(method: Any):
    """Small things of every block's own, kept long, would keep an allocator's heap from shrinking."""
    model = spec()
    segments = stream(model, 20)
    shelf = shown(method, Decoder(model), segments).shelf
    assert len({id(chunk) for block in shelf.blocks for chunk in block.notes.chunks}) == 1
    frames = torch.cat([segment.frame for segment in segments])
    assert all(torch.equal(block.notes.frame, frames[block.first_row : block.stop_row]) for block in shelf.blocks)


@pytest.mark.parametrize("axes", [1, 3])
def test_infllm_finds_a_block_that_agrees_with_the_mean_far_query(axes: int):
    """Among 1,000 random vectors."""
    model, generator = spec(position_rows=axes), dice(3)
    method = InfLLM(retrieve=2, window=8)
    state = shown(method, Decoder(model), stream(model, 8))
    q = torch.randn(model.heads, 4, model.head_dim, generator=generator)
    context = method.read(state, model, query=True)
    far = context._far_query(q).mean(1).flatten()
    shelf, index = state.shelf, VectorIndex.empty(model.layers, len(far), model.device)
    block = shelf.blocks[0]
    big = type(shelf)()
    for i in range(1000):
        vector = far if i == 321 else torch.randn(len(far), generator=generator)
        big, index = big.add(block), index.add(i, vector.expand(model.layers, -1))
    state.shelf, state.index = big, index
    context = method.read(state, model, query=True)
    question, _ = turn_of(1, 4, Cursor(next=9999), axes, model.dtype)
    context.begin(question)
    k = torch.randn(model.kv_heads, 4, model.head_dim, generator=generator)
    context.attend(0, None, q, k, k)
    assert 321 in context.selected[0][0]


@pytest.mark.parametrize("axes", [1, 3])
def test_infllm_with_all_looked_up_sees_near_rows_where_they_are_and_all_others_from_afar(axes: int):
    """One softmax over every row before: less than a window away at its distance, otherwise at the window's far end."""
    model, reach = spec(windows=(None,), position_rows=axes), 11
    decoder, segments = Decoder(model), stream(model, 9)
    method = InfLLM(window=reach, retrieve=1000)
    state, outs = method.init(model), []
    for segment in segments:
        context = method.read(state, model, query=False)
        outs.append(drive(decoder, segment, context))
        state = method.write(state, context.finish())
    assert len(state.shelf) > 5
    rows, ids = (torch.cat([getattr(x, name) for x in segments], at) for name, at in (("embeds", 0), ("ids", 1)))
    q, k, v = decoder.project(0, rows.double())
    places = [(i,) * axes if model.positions == "repack" else tuple(x) for i, x in enumerate(ids.T.tolist())]
    keys, values = (dict(enumerate(x.unbind(1))) for x in (k, v))
    for i in range(len(rows) - 1, 0, -7):
        far = ((reach - 1,) * axes, (0,) * axes)
        pairs = [(j, *((places[i], places[j]) if i - j < reach else far)) for j in range(i + 1)]
        out, _ = one_softmax(q[:, i], pairs, keys, values, model)
        want = decoder.close(0, rows[i : i + 1].double(), out[:, None])
        torch.testing.assert_close(torch.cat(outs)[i : i + 1].double(), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "axes"), [(1, 1), (3, 1), (64, 1), (3, 3), (64, 3)])
def test_infllms_step_size_does_not_matter_when_all_is_looked_up(size: int, axes: int):
    """The paper's mask, in the order of the rows; the released one sees some rows twice, and differs."""
    model = spec(windows=(None,), position_rows=axes)
    decoder, segments = Decoder(model), stream(model, 10)
    whole = [segments[0], join(segments[1:], placed=True)]
    outs = {}
    for remainder in ("paper", "released"):
        for rows in (1, size):
            method = InfLLM(window=12, retrieve=1000, block=4, sinks=0, exec_rows=rows, remainder=remainder)
            context = method.read(shown(method, decoder, whole[:1]), model, query=False)
            outs[remainder, rows] = drive(decoder, whole[1], context)
    torch.testing.assert_close(outs["paper", size], outs["paper", 1], atol=1e-4, rtol=0)
    torch.testing.assert_close(outs["released", 1], outs["paper", 1], atol=1e-4, rtol=0)
    if size > 1:
        assert float((outs["released", size] - outs["paper", size]).abs().max()) > 1e-2


@pytest.mark.parametrize(
    "method",
    [ReKV(window=7, retrieve=4, ram_blocks=2), InfLLM(window=7, retrieve=4, ram_blocks=2)],
    ids=["rekv", "infllm"],
)
def test_answers_do_not_hang_on_where_blocks_lie(tmp_path: Path, method: Any):
    """With all but two on disk the same bits come out, also in a fork, while the origin forgets."""
    model = spec()
    decoder, segments = Decoder(model), stream(model, 8)
    roomy = dataclasses.replace(method, ram_blocks=None)
    want = asked(roomy, decoder, shown(roomy, decoder, segments), segments[-1])
    state = method.house(method.init(model), Disk(tmp_path))
    state = shown(method, decoder, segments, state)
    assert state.shelf.disk_bytes() > 0
    assert torch.equal(asked(method, decoder, state, segments[-1]), want)
    twin = fork(state)
    small = dataclasses.replace(method, max_blocks=1)
    later, _ = place(text_rows(9, 4, 1, model.dtype, kind=Kind.TEXT, turn=1), Cursor(next=500))
    state = shown(small, decoder, [later], state)
    assert len(state.shelf) == 1
    assert torch.equal(asked(method, decoder, twin, segments[-1]), want)


@pytest.mark.parametrize("name", ["rekv", "video_xl_2"])
def test_a_full_disk_keeps_what_was_looked_up(tmp_path: Path, name: str):
    """By questions that are remembered; of one that is only asked there is no trace."""
    model = spec()
    decoder, segments = Decoder(model), stream(model, 30)
    method = registry.build(name, ram_blocks=1, retrieve=1, **({"block": 1} if name == "video_xl_2" else {}))

    def run(disk: Disk, *, remember: bool | None) -> tuple[Any, set[int]]:
        state, looked = shown(method, decoder, segments[:12], method.house(method.init(model), disk)), set[int]()
        if remember is not None:
            context = method.read(state, model, query=True)
            turn, _ = turn_of(4, 4, Cursor(next=900), 1, model.dtype)
            drive(decoder, turn, context)
            span = context.finish()
            looked = set(torch.cat([look.ids for look in span.trace]).tolist())
            state = method.write(state, span) if remember else state
        return shown(method, decoder, segments[12:], state), looked

    limit = 9 * shown(method, decoder, segments[:12]).shelf.blocks[0].held_bytes
    plain, _ = run(Disk(tmp_path, limit_bytes=limit), remember=None)
    asked_only, looked = run(Disk(tmp_path, limit_bytes=limit), remember=False)
    assert same(asked_only.shelf, plain.shelf)
    assert plain.shelf.ids.tolist() == list(range(int(plain.shelf.ids[0]), plain.shelf.next_id)), "the oldest went"
    assert not looked & set(plain.shelf.ids.tolist())
    told, looked = run(Disk(tmp_path, limit_bytes=limit), remember=True)
    assert looked
    assert looked < set(told.shelf.ids.tolist())
    assert told.shelf.disk_bytes() <= limit


@pytest.mark.parametrize("per_head", [False, True])
def test_answers_do_not_hang_on_how_many_copies_are_near(per_head: bool):
    """Blocks in 8 bits are widened once and kept: the same bits with room for none, some, and all."""
    model = spec()
    decoder, segments, outs, shelves = Decoder(model), stream(model, 14), [], []
    for near in (0, 1, 3, 50):
        method = InfLLM(window=7, retrieve=3, narrow=True, near=near, per_head=per_head)
        state = shown(method, decoder, segments)
        outs.append(asked(method, decoder, state, segments[-1]))
        shelves.append(state.shelf)
        twin = fork(state)
        assert torch.equal(asked(method, decoder, twin, segments[-1]), outs[-1])
    assert all(torch.equal(out, outs[0]) for out in outs)
    none, *_, all_of_them = (shelf.near for shelf in shelves)
    assert none.num_bytes() == none.hits == 0
    assert all_of_them.hits + all_of_them.misses == none.misses
    assert all_of_them.hits > 0


def test_narrow_blocks_hardly_change_an_answer():
    """8 bits for what is behind the window: the hidden rows of a question move by less than a hundredth."""
    model = spec()
    decoder, segments = Decoder(model), stream(model, 10)
    whole, small = ReKV(window=7, retrieve=50), ReKV(window=7, retrieve=50, narrow=True)
    want = asked(whole, decoder, shown(whole, decoder, segments), segments[-1])
    state = shown(small, decoder, segments)
    assert any(block.is_narrow for block in state.shelf.blocks)
    error = (asked(small, decoder, state, segments[-1]) - want).abs().max()
    assert 0 < float(error) < 0.01


def test_evidence_names_what_was_looked_up():
    model = spec()
    decoder, segments = Decoder(model), stream(model, 10)
    method = ReKV(window=7, retrieve=2)
    state = shown(method, decoder, segments)
    context = method.read(state, model, query=True)
    assert isinstance(context, RecallContext)
    turn, _ = turn_of(4, 4, Cursor(next=900), 1, model.dtype)
    drive(decoder, turn, context, watch=True)
    attention = context.finish().attention
    assert attention is not None
    assert abs(float(attention.mass.sum()) - 1) < 1e-5
    frames = [
        {int(block.notes.frame.max()) for block in state.shelf.take(state.shelf.find(context.found(layer).ids))}
        for layer in range(2)
    ]
    for moment in attention.moments(10):
        assert moment.chosen == sum(moment.frame in found for found in frames) / 2 > 0
        assert 0 <= moment.worth <= 1
    assert {moment.frame for moment in attention.moments(10)} == frames[0] | frames[1]


def test_a_stream_of_nano_with_the_papers_main_setting(tmp_path: Path):
    """rekv+stc through the engine: asked twice the same, evidence with scores, a remembered turn, and chunks."""
    engine = load("nano")
    assert Pipeline.parse("rekv+stc") == Pipeline.parse("rekv+stc_cacher+stc_pruner+rekv_internal")
    pictures = torch.randint(0, 256, (8, 48, 64, 3), generator=dice(5), dtype=torch.uint8)
    settings = ("memory.window=130", "memory.retrieve=3", "memory.ram_blocks=4")
    answers = {}
    for chunk in (1, 4):
        name = "rekv+uniform:0.5"
        with engine.open(name, settings=settings, chunk_frames=chunk, disk=tmp_path) as stream:
            for i, picture in enumerate(pictures):
                stream.push(Frame(i, float(i), picture))
            first = stream.ask("how many things are there", max_tokens=3, evidence=5)
            assert stream.ask("how many things are there", max_tokens=3, evidence=5).tokens == first.tokens
            assert all(moment.chosen is not None for moment in first.evidence)
            stream.ask("how many things are there", max_tokens=3, remember=True)
            answers[chunk] = (first.tokens, stream.ask("what time is it", max_tokens=3).tokens)
    assert answers[1] == answers[4]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "settings", "what"),
    [
        ("full", (), "disk: full keeps no blocks"),
        ("rekv", (), r"disk: rekv keeps all its blocks in memory; set memory.ram_blocks"),
    ],
)
def test_a_disk_that_would_stay_empty_is_refused(tmp_path: Path, name: str, settings: tuple[str, ...], what: str):
    with pytest.raises(ValueError, match=what):
        load("nano").open(name, settings=settings, disk=tmp_path)
    with pytest.raises(ValueError, match="disk_mb"):
        load("nano").open("rekv", disk_mb=5)
