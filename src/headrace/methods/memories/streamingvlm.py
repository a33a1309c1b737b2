"""StreamingVLM: a short window of pictures, a long window of words, and positions without holes.

Paper: StreamingVLM: Real-Time Understanding for Infinite Video Streams (arXiv 2510.09608, 2025).
Original: mit-han-lab/streaming-vlm (MIT).

A round is a frame (or what a tower takes at once) and the words after it: remembered questions and answers. The last
``window`` rounds keep their pictures, the last ``text_rounds`` their words in place. What else was said moves, keys and
values as they are, to one block of text behind the prefix, of which the first and the newest rows stay. Positions are
counted anew over what is left, so they never grow and nothing in between is missing.

Ours differs: rounds leave after a step, not before the next, so a step sees one round more. Nothing is re-rotated for
good: the newest rounds keep their rotation, as their distances do not change; the few rows before them are turned to
stand close for each Context. Spans are tracked, not found by their tokens. Words are whole turns (``text="turns"``);
``answers`` is as published: what was asked leaves with its round. A window that holds too many words gives up early.

``P`` position rows, ``R`` rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from headrace.cache import CacheContext, KVCache, Past, frame_rows
from headrace.ops.positions import check_policy, resolve_policy
from headrace.protocols import Card, Method
from headrace.types import Kind, ModelSpec, Segment, Span, VisualTokens


@dataclass(slots=True)
class Kept:
    """Rows that left the window.

    Attributes:
        cache: Their keys and values, un-rotated.
        arrivals: (R,) int64 when each came, counted over the stream's rows.
        passed: (R,) int64 how many words had left from behind older pictures when each came here.
        rounds: Number of each round that has rows here, and how many.
    """

    cache: KVCache
    arrivals: Tensor
    passed: Tensor
    rounds: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.arrivals)

    def add(self, span: Span, arrivals: Tensor, number: int, passed: int) -> None:
        """Append rows of a round."""
        if len(arrivals):
            self.cache.append(span)
            self.arrivals = torch.cat((self.arrivals, arrivals))
            self.passed = torch.cat((self.passed, torch.full_like(arrivals, passed)))
            self.rounds = (*self.rounds, (number, len(arrivals)))

    def drop(self, num: int) -> None:
        """Forget the first rows."""
        self.cache.evict_before(self.cache.table.first + num)
        self.arrivals, self.passed = self.arrivals[num:], self.passed[num:]

    def pop(self) -> tuple[Span, Tensor, int]:
        """Take out the oldest round: its rows, when they came, and its number."""
        number, num = self.rounds[0]
        first = self.cache.table.first
        out = (self.cache.copied(torch.arange(first, first + num)), self.arrivals[:num], number)
        self.drop(num)
        self.rounds = self.rounds[1:]
        return out

    def places(self, policy: str) -> Tensor:
        """Where the rows stood when they came: (P, R)."""
        view = self.cache.table.view()
        return view.column("ids") if policy == "original" else self.arrivals.expand(self.cache.spec.position_rows, -1)

    def past(self, places: Tensor) -> Past:
        """These rows, turned to stand at (P, R) places."""
        return Past(self.cache.snapshot(), self.cache.table.view(), moved=places, arrivals=self.arrivals)


@dataclass(slots=True)
class StreamingVLMState:
    """What is kept, in the order in which it is seen.

    Attributes:
        sinks: The prefix, and the first words that left.
        text: The newest words that left.
        words: Words of rounds whose pictures left before them.
        pictures: Pictures of rounds whose words left before them.
        window: The newest rounds, whole; row numbers are arrivals.
        rounds: Per round of the window its first row and its first word.
        num_rounds: Rounds seen.
        num_prefix: Rows of the prefix.
        passed: Words that left the window so far.
    """

    sinks: Kept
    text: Kept
    words: Kept
    pictures: Kept
    window: KVCache
    rounds: tuple[tuple[int, int], ...] = field(default=())
    num_rounds: int = 0
    num_prefix: int = 0
    passed: int = 0


@dataclass(frozen=True, kw_only=True)
class StreamingVLM(Method):
    """Keep pictures of the newest rounds, and words for longer."""

    window: int = 16  # rounds whose pictures are kept
    text_rounds: int = 16  # rounds whose words stay in their place
    text_sink: int = 512  # rows of the first words that left their place
    text_window: int = 512  # rows of the newest words that left it
    text: str = "turns"  # what counts as words: turns: questions and answers; answers: as published
    counting: str = "shrink"  # shrink: positions close up, as published; append: they grow, and gaps stay
    positions: str = "auto"  # repack: one per row; original: ids with gaps where tokens were dropped; auto: as trained

    card: ClassVar[Card] = Card(
        "StreamingVLM",
        paper="https://arxiv.org/abs/2510.09608",
        licence="MIT",
        differs="rounds leave after a step, not before the next; older rows are turned per Context instead of all rows;"
        " needs its trained weights to comment by itself",
    )
    tunable: ClassVar[frozenset[str]] = frozenset({"window"})
    digests: ClassVar[bool] = True
    shorthand: ClassVar[str] = "window"
    kind: ClassVar[str] = "kv"

    def __post_init__(self) -> None:
        check_policy(self.positions)
        for name, least in (("window", 1), ("text_rounds", 1), ("text_sink", 0), ("text_window", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be at least {least}, not {getattr(self, name)}")
        for name, known in (("text", ("turns", "answers")), ("counting", ("shrink", "append"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r} is unknown; known: {', '.join(known)}")

    def init(self, spec: ModelSpec) -> StreamingVLMState:
        """Nothing kept."""
        none = torch.empty(0, dtype=torch.int64)

        def room(num_rows: int) -> Kept:
            return Kept(KVCache(spec, block_rows=_block_rows(num_rows)), none, none)

        sinks, text, words, pictures = (room(num) for num in self._most(spec)[:4])
        return StreamingVLMState(sinks, text, words, pictures, KVCache(spec, block_rows=self._window_rows(spec)))

    def _most(self, spec: ModelSpec) -> tuple[int, int, int, int, int]:
        """Most rows of sinks, text, words, pictures and window."""
        frame = frame_rows(spec)
        whole = min(self.window, self.text_rounds) * frame + self.text_window
        rest = max(self.window - self.text_rounds, 0) * frame
        return spec.prefix_rows + self.text_sink, self.text_window, self.text_window, rest, whole

    def _window_rows(self, spec: ModelSpec) -> int:
        return _block_rows(self._most(spec)[4])

    def one_by_one(self) -> bool:
        """Frames of a step come in turn: each finds what the one before it has left."""
        return True

    def read(self, state: StreamingVLMState, spec: ModelSpec, *, query: bool) -> CacheContext:
        """See the words in one line, then pictures, up to the window, which stands where it was."""
        policy, window = resolve_policy(self.positions, spec.positions), state.window.table.view()
        line, pictures = (state.sinks, state.text, state.words), state.pictures
        places = [part.places(policy) for part in (*line, pictures)]
        if self.counting == "shrink" and window.stop > window.first:
            places[3] = places[3] + (state.passed - pictures.passed)
            first = torch.tensor([window.first], dtype=torch.int64)
            oldest = window.ids_of(window.first) if policy == "original" else first
            oldest = places[3][:, 0] if len(pictures) else oldest.expand(spec.position_rows)
            num = sum(len(part) for part in line)
            before = oldest[:, None] - num + torch.arange(num)
            places[:3] = before.split([len(part) for part in line], dim=1)
        kept = zip((*line, pictures), places, strict=True)
        past = [part.past(at) for part, at in kept if len(part)]
        past.append(Past(state.window.snapshot(), window))
        return CacheContext(spec, past, next_row=window.stop, positions=policy)

    def write(self, state: StreamingVLMState, span: Span) -> StreamingVLMState:
        """Append to the window; rounds that grow too old leave it, and their words move."""
        seg, spec = span.segment, state.window.spec
        if not state.window.table.stop and bool((seg.kind == Kind.PREFIX).all()):
            rows = torch.arange(len(seg))
            state.sinks.add(span.bare(rows), rows, -1, 0)
            state.num_prefix = len(seg)
            state.window = KVCache(spec, block_rows=self._window_rows(spec), first_row=len(seg))
            return state
        if not len(seg):
            return state
        state.window.block_rows = self._window_rows(spec)  # a tuned window: the next blocks follow it
        state.pictures.cache.block_rows = _block_rows(self._most(spec)[3])
        first = state.window.table.stop
        state.window.append(span)
        new = _rounds(seg, first)
        if new:
            state.rounds, state.num_rounds = (*state.rounds, *new), state.num_rounds + len(new)
        elif not state.rounds:
            state.rounds, state.num_rounds = ((first, first),), state.num_rounds + 1
        elif state.rounds[-1][1] == first:  # the newline that ends a clip goes with the pictures before it
            lead = int((torch.cumsum((seg.kind >= Kind.TEXT).int(), 0) == 0).sum())
            state.rounds = (*state.rounds[:-1], (state.rounds[-1][0], first + lead))
        self._age(state)
        return state

    def _age(self, state: StreamingVLMState) -> None:
        """Let go of what is too old, or too much; oldest first, so that words stay in order."""
        _, _, most_words, most_pictures, most = self._most(state.window.spec)
        words, pictures = state.words, state.pictures
        newest = state.num_rounds - 1
        while words.rounds and (newest - words.rounds[0][0] >= self.text_rounds or len(words) > most_words):
            self._say(state, *words.pop())
        while len(state.rounds) > min(self.window, self.text_rounds) or (
            len(state.rounds) > 1 and state.window.table.stop - state.window.table.first > most
        ):
            self._shed(state, state.rounds[1][0])
        if state.window.table.stop - state.window.table.first > most:
            self._shed(state, state.window.table.stop - most)
        while words.rounds and len(words) > most_words:
            self._say(state, *words.pop())
        while pictures.rounds and (newest - pictures.rounds[0][0] >= self.window or len(pictures) > most_pictures):
            pictures.drop(pictures.rounds[0][1])
            pictures.rounds = pictures.rounds[1:]

    def _shed(self, state: StreamingVLMState, stop: int) -> None:
        """Take the oldest round out of the window, up to the row ``stop``."""
        (first, word), number = state.rounds[0], state.num_rounds - len(state.rounds)
        seen, said = torch.arange(first, min(word, stop)), torch.arange(min(word, stop), stop)
        if self.window > self.text_rounds:
            state.pictures.add(state.window.copied(seen), seen, number, state.passed)
        state.passed += len(said)
        if len(said) and self.window < self.text_rounds:
            state.words.add(state.window.copied(said), said, number, state.passed)
        elif len(said):
            self._say(state, state.window.copied(said), said, number)
        state.window.evict_before(stop)
        rest = ((stop, max(word, stop)),) if stop < state.window.table.stop and len(state.rounds) == 1 else ()
        state.rounds = (*rest, *state.rounds[1:])

    def _say(self, state: StreamingVLMState, span: Span, arrivals: Tensor, number: int) -> None:
        """Move words to the block of text: the first fill the sinks, of the others the newest stay."""
        if self.text == "answers":
            own = torch.nonzero(span.segment.kind == Kind.ANSWER).squeeze(1)
            span, arrivals = span.bare(own), arrivals[own]
        room, num = max(0, state.num_prefix + self.text_sink - len(state.sinks)), len(arrivals)
        state.sinks.add(span.cut(0, min(room, num)), arrivals[:room], number, 0)
        state.text.add(span.cut(min(room, num), num), arrivals[room:], number, 0)
        state.sinks.rounds = state.text.rounds = ()
        state.text.drop(max(0, len(state.text) - self.text_window))

    def recall(self, state: StreamingVLMState) -> tuple[VisualTokens | Segment, ...]:
        """Nothing to run again."""
        return ()

    def num_bytes(self, state: StreamingVLMState) -> int:
        """Bytes of all parts."""
        parts = (state.sinks, state.text, state.words, state.pictures)
        return state.window.num_bytes() + sum(part.cache.num_bytes() + 16 * len(part) for part in parts)

    def bound_bytes(self, spec: ModelSpec) -> int:
        """All parts full, each with the evicted rows of one block; the window with rotated keys beside."""
        most = self._most(spec)
        rows = [num + _block_rows(num) for num in most]
        table = (sum(rows) + 5 * 4096) * (37 + 8 * spec.position_rows)
        return sum(rows[:4]) * spec.row_bytes + rows[4] * spec.row_bytes * 3 // 2 + sum(rows) * 8 * spec.layers + table


def _block_rows(num: int) -> int:
    """Rows per block: a power of two, so that the blocks of all parts fill in step and the bytes repeat early."""
    return min(512, max(64, 1 << max(num // 4, 1).bit_length() - 1))


def _rounds(seg: Segment, first: int) -> list[tuple[int, int]]:
    """First row and end of every frame of a step; rows of no frame go with the next one, at the end with the last."""
    shown = torch.nonzero(seg.frame >= 0).squeeze(1)
    if not len(shown):
        return []
    new = shown[1:][seg.frame[shown].diff() != 0]
    before = torch.searchsorted(shown, new) - 1
    starts = [first, *(first + 1 + shown[before]).tolist()]
    return list(zip(starts, [*starts[1:], first + len(seg)], strict=True))
