"""What the card of StreamingVLM says holds when it is right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from contract.streams import place, text_rows, turn_of, wrapped
from headrace import registry
from headrace.types import Cursor, Kind, VisualTokens
from reference.naive.decoder import Decoder, drive, spec

GRID = (2, 3)


def frame(i: int, num: int = 6) -> VisualTokens:
    slot = torch.arange(6)
    features = torch.randn(6, 24, generator=torch.Generator().manual_seed(i))
    return VisualTokens(features, slot * 0, slot // 3, slot % 3, GRID, (i,), (float(i),)).take(slot[:num])


class Talk:
    """A stream of frames and remembered turns on one layer, and everything that was fed."""

    def __init__(self, axes: int, *, layers: int = 1, **values: Any) -> None:
        windows = (None,) * layers
        self.spec = replace(spec(position_rows=axes, windows=windows, trained_length=10**6), prefix_rows=3)
        self.decoder, self.method = Decoder(self.spec), registry.build("streamingvlm", **values)
        self.state, self.cursor = self.method.init(self.spec), Cursor()
        self.fed: list[tuple[int, torch.Tensor]] = []
        self.feed(text_rows(0, 3, axes, torch.float32, kind=Kind.PREFIX, turn=0))

    def feed(self, raw: Any) -> None:
        segment, self.cursor = place(raw, self.cursor)
        context = self.method.read(self.state, self.spec, query=False)
        drive(self.decoder, segment, context)
        self.state = self.method.write(self.state, context.finish())
        self.fed += [(int(kind), row) for kind, row in zip(segment.kind, segment.embeds, strict=True)]

    def show(self, i: int, num: int = 6) -> None:
        self.feed(wrapped(frame(i, num), self.spec.position_rows))

    def say(self, i: int, num: int = 4, kind: Kind = Kind.TEXT) -> None:
        self.feed(text_rows(i, num, self.spec.position_rows, torch.float32, kind=kind, turn=1))

    def ask(self) -> torch.Tensor:
        context = self.method.read(self.state, self.spec, query=True)
        asked, _ = turn_of(7, 3, self.cursor, self.spec.position_rows, torch.float32)
        return drive(self.decoder, asked, context)

    def parts(self) -> tuple[Any, ...]:
        return self.state.sinks, self.state.text, self.state.words, self.state.pictures

    def num_rows(self) -> int:
        return sum(map(len, self.parts())) + self.state.window.num_rows(0)


@pytest.mark.parametrize("axes", [1, 3])
def test_a_one_layer_model_answers_as_from_a_fresh_prompt_of_what_is_left(axes: int) -> None:
    """Positions of the fresh prompt are those a model gives it: nothing of what left shows in them."""
    talk = Talk(axes, window=3, text_rounds=3, text_sink=3, text_window=5, positions="original")
    for i in range(12):
        talk.show(i)
        if i % 2:
            talk.say(100 + i, 4 + i % 3)
    said = [
        row
        for i in range(9)
        if i % 2
        for row in embeds(text_rows(100 + i, 4 + i % 3, axes, torch.float32, kind=Kind.TEXT, turn=1))
    ]
    fresh = Talk(axes, window=99, text_rounds=99, positions="original")
    words = said[:3] + said[3:][-5:]
    raw = text_rows(1, len(words), axes, torch.float32, kind=Kind.TEXT, turn=1)
    fresh.feed(replace(raw, embeds=torch.stack(words)))
    for i in range(9, 12):
        fresh.show(i)
        if i % 2:
            fresh.say(100 + i, 4 + i % 3)
    assert fresh.num_rows() == talk.num_rows()
    torch.testing.assert_close(talk.ask(), fresh.ask(), atol=1e-5, rtol=0)


def embeds(seg: Any) -> list[torch.Tensor]:
    return list(seg.embeds)


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize(("window", "text_rounds"), [(3, 3), (2, 5), (5, 2)])
def test_positions_are_contiguous_and_bounded(window: int, text_rounds: int, axes: int) -> None:
    """One place per row on every axis."""
    talk = Talk(axes, window=window, text_rounds=text_rounds, text_sink=4, text_window=6)
    for i in range(40):
        talk.show(i)
        if i % 3 == 0:
            talk.say(i)
        context = talk.method.read(talk.state, talk.spec, query=True)
        *moved, last = context._past
        assert all(torch.equal(axis, part.moved[0]) for part in moved for axis in part.moved)
        places = [part.moved[0] for part in moved] + [torch.arange(last.rows.first, last.rows.stop)]
        whole = torch.cat(places)
        assert whole.diff().eq(1).all(), "one row after the other"
        assert int(whole[-1]) + 1 == context._next_row


def test_the_cache_is_bounded_and_periodic() -> None:
    talk = Talk(1, window=4, text_rounds=4, text_sink=5, text_window=7)
    sizes = []
    for i in range(200):
        talk.show(i, num=2 + i % 4)
        if i % 5 == 0:
            talk.say(i, 3)
        sizes.append(talk.num_rows())
    assert sizes[40:120] == sizes[80:160] == sizes[120:200]
    assert max(sizes) <= 3 + 5 + 7 + 4 * 6 + 3


def test_the_block_of_text_holds_the_first_and_the_newest_words() -> None:
    """By what was fed: one layer's values are a linear map of the embeddings."""
    talk = Talk(1, window=2, text_rounds=2, text_sink=5, text_window=6)
    spoken = []
    for i in range(15):
        talk.show(i)
        talk.say(i, 2 + i % 3)
        spoken.append(text_rows(i, 2 + i % 3, 1, torch.float32, kind=Kind.TEXT, turn=1).embeds)
    left = torch.cat(spoken[:-2])
    want = talk.decoder.project(0, torch.cat((left[:5], left[-6:])))[2]
    sinks, text = talk.state.sinks.cache, talk.state.text.cache
    got = torch.cat([run.values for cache in (sinks, text) for run in cache.runs(0)], dim=1)[:, 3:]
    torch.testing.assert_close(got, want)


def test_only_answers_stay_as_published() -> None:
    talk = Talk(1, window=1, text_rounds=1, text="answers")
    for i in range(4):
        talk.show(i)
        talk.say(i, 3)
        talk.say(50 + i, 2, Kind.ANSWER)
    assert len(talk.state.sinks) == 3 + 3 * 2
    assert set(talk.state.sinks.cache.table.view().column("kind")[3:].tolist()) == {Kind.ANSWER}


@pytest.mark.parametrize(("window", "text_rounds"), [(3, 3), (1, 4), (4, 1)])
def test_a_flood_of_words_stays_within_the_bound(window: int, text_rounds: int) -> None:
    talk = Talk(1, window=window, text_rounds=text_rounds, text_sink=4, text_window=16)
    bound = talk.method.bound_bytes(talk.spec)
    for i in range(60):
        if i % 10 == 0:
            talk.show(i)
        talk.say(i, 50)
        assert talk.method.num_bytes(talk.state) <= bound
        assert bool(talk.ask().isfinite().all())
        assert talk.num_rows() <= sum(talk.method._most(talk.spec))


def test_the_newline_that_ends_a_clip_leaves_with_its_pictures() -> None:
    talk = Talk(1, window=1, text_rounds=3)
    talk.show(0)
    turn = text_rows(1, 4, 1, torch.float32, kind=Kind.TEXT, turn=1)
    turn.kind[0] = Kind.NEWLINE
    talk.feed(turn)
    talk.show(1)
    assert len(talk.state.words) == 3
    assert talk.num_rows() == 3 + 3 + 6
