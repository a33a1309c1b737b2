"""What the card of group position encoding says holds when it is right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from contract.streams import dice, place, text_rows
from headrace import registry
from headrace.cache import KVCache
from headrace.types import Cursor, Kind, Segment, join
from reference.naive.attention import attend
from reference.naive.decoder import Decoder, drive, spec, turn

AXES = pytest.mark.parametrize("axes", [1, 3])


class Talk:
    """Segments that are shown and words that are said, in the order of a wait-k schedule or any other."""

    def __init__(self, axes: int, lengths: list[int], **values: Any) -> None:
        self.spec = spec(position_rows=axes, trained_length=10**6)
        self.decoder, self.method = Decoder(self.spec), registry.build("group_position", **values)
        self.state, self.cursor = self.method.init(self.spec), Cursor()
        self.lengths, self.num_read, self.num_said = lengths, 0, 0
        self.fed: list[tuple[Segment, torch.Tensor, int]] = []  # rows, what came out, how many had been shown

    def read(self, num: int) -> None:
        """Show segments until there are ``num``; the first is the prefix."""
        for i in range(self.num_read, min(num, len(self.lengths))):
            kind = Kind.PREFIX if i == 0 else Kind.VISUAL
            raw = text_rows(i, self.lengths[i], self.spec.position_rows, torch.float32, kind=kind, turn=0)
            self.feed(replace(raw, frame=raw.frame * 0 + i - 1))
            self.num_read += 1

    def say(self, num: int) -> None:
        self.num_said += 1
        self.feed(text_rows(500 + self.num_said, num, self.spec.position_rows, torch.float32, kind=Kind.ANSWER, turn=1))

    def feed(self, raw: Segment) -> None:
        segment, self.cursor = place(raw, self.cursor)
        context = self.method.read(self.state, self.spec, query=False)
        out = drive(self.decoder, segment, context)
        self.state = self.method.write(self.state, context.finish())
        self.fed.append((segment, out, len(self.state.shown)))

    def at_once(self) -> torch.Tensor:
        """All rows in one forward, what is shown before what is said, under the mask of training."""
        said = [bool(seg.kind[0] >= Kind.TEXT) for seg, _, _ in self.fed]
        order = sorted(range(len(said)), key=lambda i: said[i])
        fed = [self.fed[i] for i in order]
        rows = torch.cat([seg.embeds for seg, _, _ in fed]).double()
        num_shown = sum(len(seg) for seg, _, _ in fed if seg.kind[0] < Kind.TEXT)
        saw = torch.cat([torch.full((len(seg),), shown) for seg, _, shown in fed])
        at, num = torch.arange(len(rows)), len(rows)
        sees = (at[None] <= at[:, None]) & ((at[None] < saw[:, None]) | (at[None] >= num_shown))
        offset = self.method.offset
        ids = [(int(i if i < num_shown else offset + i - num_shown),) * self.spec.position_rows for i in range(num)]
        h = rows
        for layer in range(self.spec.layers):
            q, k, v = self.decoder.project(layer, h)
            out, _ = attend(*(turn(x, ids, self.spec.rope) for x in (q, k)), v, sees, self.spec.scale)
            h = self.decoder.close(layer, h, out)
        order = [
            i for said in (False, True) for i, part in enumerate(self.fed) if (part[0].kind[0] >= Kind.TEXT) == said
        ]
        parts = dict(zip(order, h.split([len(self.fed[i][0]) for i in order]), strict=True))
        return torch.cat([parts[i] for i in range(len(self.fed))])

    def came_out(self) -> torch.Tensor:
        return torch.cat([out for _, out, _ in self.fed]).double()


def wait_k(talk: Talk, k: int, words: list[int]) -> Talk:
    """Word ``i`` is said when ``k + i`` segments have been shown, or all."""
    for i, num in enumerate(words):
        talk.read(k + i)
        talk.say(num)
    talk.read(len(talk.lengths))
    return talk


@AXES
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("positions", ["repack", "original"])
def test_reading_and_writing_in_turn_is_one_forward_under_the_training_mask(axes: int, k: int, positions: str) -> None:
    numbers = torch.randint(1, 5, (9,), generator=dice(k)).tolist()
    talk = wait_k(Talk(axes, numbers[:5], offset=2 * k - 2, positions=positions), k, numbers[5:])
    torch.testing.assert_close(talk.came_out(), talk.at_once(), atol=1e-5, rtol=0)


def test_the_cards_example_of_what_words_see() -> None:
    """Segments of 3, 2 and 2 rows, one before the first word: words see 3, 5, 7 and 7 rows."""
    talk = wait_k(Talk(1, [3, 2, 2]), 1, [1, 1, 1, 1])
    assert [shown for seg, _, shown in talk.fed if seg.kind[0] == Kind.ANSWER] == [3, 5, 7, 7]
    torch.testing.assert_close(talk.came_out(), talk.at_once(), atol=1e-5, rtol=0)


def held(cache: KVCache) -> list[torch.Tensor]:
    return [x for layer in range(2) for run in cache.runs(layer) for x in (run.keys, run.values, run.rotated)]


@AXES
def test_what_is_shown_does_not_know_of_words_and_words_said_stay_as_they_are(axes: int) -> None:
    silent, talk = Talk(axes, [4, 3, 2, 5]), Talk(axes, [4, 3, 2, 5])
    silent.read(4)
    talk.read(2)
    talk.say(3)
    before = [x.clone() for x in held(talk.state.said)]
    talk.read(4)
    assert all(torch.equal(a, b) for a, b in zip(held(talk.state.said), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(held(talk.state.shown), held(silent.state.shown), strict=True))
    talk.say(2)
    torch.testing.assert_close(talk.came_out(), talk.at_once(), atol=1e-5, rtol=0)


@AXES
@pytest.mark.parametrize("positions", ["repack", "original"])
def test_words_that_count_on_from_what_is_shown_are_an_ordinary_prompt(axes: int, positions: str) -> None:
    """All is shown before the first word, and the offset is the number of its rows: full memory."""
    talk = Talk(axes, [4, 3, 5], offset=12, positions=positions)
    talk.read(3)
    for num in (3, 1, 2):
        talk.say(num)
    full = registry.build("full", positions=positions)
    state = full.init(talk.spec)
    for segment, out, _ in talk.fed:
        context = full.read(state, talk.spec, query=False)
        torch.testing.assert_close(drive(talk.decoder, segment, context), out, atol=1e-5, rtol=0)
        state = full.write(state, context.finish())


@AXES
@pytest.mark.parametrize("windows", [(None, None), (5, None)])
def test_rows_of_both_groups_may_come_in_one_segment(axes: int, windows: tuple[int | None, ...]) -> None:
    """A newline before a question, a frame behind an answer: the same as one run after the other."""
    apart, joined = Talk(axes, [4, 3, 2, 5]), Talk(axes, [4, 3, 2, 5])
    for talk in (apart, joined):
        talk.spec = replace(talk.spec, windows=windows)
        talk.decoder = Decoder(talk.spec)
        talk.read(1)
    apart.read(2)
    apart.say(3)
    apart.read(3)
    apart.say(1)
    parts = [segment for segment, _, _ in apart.fed[1:]]
    whole = join(parts, placed=True)
    context = joined.method.read(joined.state, joined.spec, query=False)
    got = drive(joined.decoder, whole, context)
    torch.testing.assert_close(
        got.double(), torch.cat([out for _, out, _ in apart.fed[1:]]).double(), atol=1e-5, rtol=0
    )
    joined.state = joined.method.write(joined.state, context.finish())
    assert joined.state.turns == apart.state.turns
    joined.num_said = apart.num_said
    for talk in (apart, joined):
        talk.say(2)
    torch.testing.assert_close(joined.fed[-1][1], apart.fed[-1][1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", ["repack", "original"])
def test_what_a_template_puts_around_a_turn_was_said(positions: str) -> None:
    """The newline that closes a clip before a question, and the text that opens one after it, move no frame."""
    silent, talk = Talk(1, [4, 3, 2, 5], positions=positions), Talk(1, [4, 3, 2, 5], positions=positions)
    silent.read(4)
    talk.read(2)
    closing = text_rows(70, 1, 1, torch.float32, kind=Kind.NEWLINE, turn=1)
    talk.feed(join([closing, text_rows(71, 3, 1, torch.float32, kind=Kind.TEXT, turn=1)]))
    talk.feed(text_rows(72, 2, 1, torch.float32, kind=Kind.ANSWER, turn=1))
    opening = text_rows(73, 6, 1, torch.float32, kind=Kind.MARKER, turn=1)
    frame = text_rows(2, 2, 1, torch.float32, kind=Kind.VISUAL, turn=0)
    talk.feed(join([opening, replace(frame, frame=frame.frame * 0 + 1)]))
    talk.num_read += 1
    talk.read(4)
    assert (len(talk.state.shown), len(talk.state.said)) == (4 + 3 + 2 + 5, 1 + 3 + 2 + 6)
    for a, b in zip(held(talk.state.shown), held(silent.state.shown), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
