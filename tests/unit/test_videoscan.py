"""What the card of VideoScan says holds when it is right."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from contract.streams import place, text_rows, thinned, turn_of, wrapped
from headrace import registry
from headrace.methods.memories.videoscan import most_alike, with_means
from headrace.types import Cursor, Kind, Segment
from reference.naive.attention import attend
from reference.naive.decoder import Decoder, drive, spec
from reference.naive.rope import rotate_heads


def steps(axes: int, num: int, **values: Any) -> tuple[Any, Any, list[Segment], list[torch.Tensor]]:
    """Frames one by one through the memory: its state, what was fed, and what came out."""
    model = spec(position_rows=axes, windows=(None, None), trained_length=10**6)
    decoder, method = Decoder(model), registry.build("videoscan", **values)
    state, cursor, fed, out = method.init(model), Cursor(), [], []
    raws = [text_rows(0, 5, axes, torch.float32, kind=Kind.PREFIX, turn=0)]
    raws += [wrapped(part, axes) for i in range(num) for part in thinned(1, i, torch.float32).split()[:1]]
    for raw in raws:
        segment, cursor = place(method.carry(raw), cursor)
        context = method.read(state, model, query=False)
        out.append(drive(decoder, segment, context))
        state = method.write(state, context.finish())
        fed.append(segment)
    context = method.read(state, model, query=True)
    asked, _ = turn_of(7, 3, cursor, axes, torch.float32)
    fed.append(asked)
    out.append(drive(decoder, asked, context))
    return state, decoder, fed, out


def at_once(decoder: Decoder, fed: list[Segment]) -> torch.Tensor:
    """All rows in one forward under the mask of the second training stage."""
    owner = torch.tensor([i for i, seg in enumerate(fed) for _ in range(len(seg))])
    carrier = torch.cat([torch.arange(len(seg)) == len(seg) - 1 for seg in fed])
    ids = torch.cat([seg.ids for seg in fed], dim=1).T.tolist()
    num = len(owner)
    row, col = torch.arange(num)[:, None], torch.arange(num)[None]
    sees = (col <= row) & ((owner[row] == owner[col]) | (owner[col] == 0) | carrier[col])
    h = torch.cat([seg.embeds for seg in fed]).double()
    for layer in range(decoder.spec.layers):
        q, k, v = decoder.project(layer, h)
        turned = [rotate_heads(x, ids, decoder.spec.rope) for x in (q, k)]
        o, _ = attend(*turned, v, sees, decoder.spec.scale)
        h = decoder.close(layer, h, o)
    return h


@pytest.mark.parametrize("axes", [1, 3])
def test_frame_by_frame_equals_one_forward_under_the_training_mask(axes: int) -> None:
    """The central equivalence: the same ids, prefix causal, frames see themselves and all earlier carriers."""
    _, decoder, fed, out = steps(axes, 7, capacity=64, counting="stream", positions="original")
    assert all(len(seg) for seg in fed)
    torch.testing.assert_close(torch.cat(out).double(), at_once(decoder, fed), atol=1e-5, rtol=0)


@pytest.mark.parametrize("counting", ["kept", "released"])
def test_what_stays_is_one_row_per_frame_and_stands_as_it_is_counted(counting: str) -> None:
    state, _, fed, _ = steps(1, 6, capacity=64, counting=counting, positions="repack")
    frames = fed[1:-1]
    assert len(state.arrivals) == 5 + len(frames)
    method = registry.build("videoscan", counting=counting, positions="repack")
    model = spec(windows=(None, None))
    moved = method.read(state, model, query=True)._past[0].moved[0] - state.num_rows + len(state.arrivals)
    own = [5 + i + len(seg) - 1 for i, seg in enumerate(frames)]
    assert moved.tolist() == [*range(5), *(range(5, 5 + len(frames)) if counting == "kept" else own)]


def test_the_older_of_the_most_alike_neighbours_leaves() -> None:
    """The card's example: a, a, b, c leaves a, b, c, with the second one's keys and values."""
    a, b, c = torch.eye(24)[:3]
    assert most_alike(torch.stack((a, a, b, c))) == 0
    assert most_alike(torch.stack((a, b, 2 * b, c))) == 1
    model = spec(windows=(None, None))
    decoder, method = Decoder(model), registry.build("videoscan", capacity=4)
    state, cursor, rows = method.init(model), Cursor(), []
    for i, row in enumerate((a, a, b, c)):
        tokens = thinned(1, 0, torch.float32)
        raw = wrapped(tokens, 1)
        raw = with_means(Segment(**{**_fields(raw), "embeds": row.expand(len(raw), -1), "frame": raw.frame * 0 + i}))
        segment, cursor = place(raw, cursor)
        context = method.read(state, model, query=False)
        drive(decoder, segment, context)
        span = context.finish()
        rows.append(span.layers[1].keys[:, -1])
        state = method.write(state, span)
        state.cache.check()
    assert torch.equal(state.carriers, torch.stack((a, b, c)))
    assert state.cache.table.view().column("frame").tolist() == [1, 2, 3]
    held = torch.cat([run.keys for run in state.cache.runs(1)], dim=1)
    assert torch.equal(held, torch.stack(rows[1:], dim=1))


def _fields(seg: Segment) -> dict[str, Any]:
    return {name: getattr(seg, name) for name in Segment.__dataclass_fields__}


@pytest.mark.parametrize("axes", [1, 3])
def test_a_carrier_is_the_mean_of_its_frame(axes: int) -> None:
    tokens = thinned(1, 1, torch.float32)  # two frames, thinned
    raw = wrapped(tokens, axes)
    found = with_means(raw)
    assert len(found) == len(raw) + 2
    assert found.advance == raw.advance + (2 if axes == 1 else 0)
    ends = [i for i in range(len(found)) if found.kind[i] == Kind.NEWLINE]
    for end, index in zip(ends, tokens.frames, strict=True):
        assert int(found.frame[end]) == index
        torch.testing.assert_close(found.embeds[end], raw.embeds[raw.frame == index].mean(0))
    assert ends[-1] == len(found) - 1
    if axes == 1:
        assert bool((found.ids.diff() > 0).all())
        assert int(found.ids[0, ends[0]]) < 6 + 1 <= int(found.ids[0, ends[0] + 1]) + 6


@pytest.mark.parametrize("num", [200, pytest.param(10_000, marks=pytest.mark.long)])
def test_any_number_of_frames_stays_within_capacity(num: int) -> None:
    """Only the memory's own work: keys and values are made up."""
    from headrace.types import LayerSpan, Span

    model = spec(windows=(None,))
    method = registry.build("videoscan", capacity=8)
    state = method.init(model)
    raw = wrapped(thinned(1, 0, torch.float32), 1)
    for i in range(num):
        seg = Segment(**{**_fields(raw), "frame": raw.frame * 0 + i, "embeds": torch.randn(len(raw), 24)})
        keys = torch.zeros(2, len(raw), 16)
        state = method.write(state, Span(seg, (LayerSpan(keys, keys, keys, torch.arange(len(raw))),)))
    assert len(state.arrivals) == len(state.carriers) == 7
    assert method.num_bytes(state) <= method.bound_bytes(model)


def test_the_newline_that_closes_a_clip_goes_with_the_words_behind_it() -> None:
    """A thousand remembered turns leave no more rows than a few."""
    from headrace.types import LayerSpan, Span, join

    model = spec(windows=(None,))
    method, cursor = registry.build("videoscan", capacity=4, turn_rows=8), Cursor()
    state = method.init(model)
    for i in range(1000):
        newline = text_rows(9, 1, 1, torch.float32, kind=Kind.NEWLINE, turn=i)
        said = join([newline, text_rows(i, 4, 1, torch.float32, kind=Kind.TEXT, turn=i)])
        for raw in (wrapped(thinned(1, 0, torch.float32).split()[0], 1), said):
            segment, cursor = place(raw, cursor)
            keys = torch.zeros(2, len(segment), 16)
            state = method.write(state, Span(segment, (LayerSpan(keys, keys, None, torch.arange(len(segment))),)))
    kinds = state.cache.table.view().column("kind").tolist()
    assert len(kinds) == 3 + 8
    assert kinds.count(Kind.NEWLINE) == 1
    assert method.num_bytes(state) <= method.bound_bytes(model)
