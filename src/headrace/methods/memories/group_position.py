"""Group position encoding: what is shown and what is said count their positions apart.

Paper: LLM as Effective Streaming Processor: Bridging Streaming-Batch Mismatches with Group Position Encoding (arXiv
2505.16983, Findings of ACL 2025). Original: EIT-NLP/StreamingLLM (licence unknown).

While a model speaks, more may be shown. With one count of positions every frame moves the words behind it, and what was
said would have to be encoded again. So there are two groups. Frames see the prefix and the frames before them, never a
word, and stand where they would if nobody had spoken. Words (questions and answers) see all that has been shown and
said so far, and count on their own from ``offset``. Keys are rotated once and never again: a frame that comes changes
no word, and a word no frame.

Ours differs: the card's segments are frames, and a question belongs to what is said, with what the template puts around
it; nothing is read or written by a schedule, a stream is shown frames and asked as ever. Where a clip's positions count
from its start (Qwen2.5-VL) a turn ends the clip, and frames behind it count from a new start. A model should be tuned
to it. The past grows without end.

``S`` rows of the past, ``T`` new rows, ``P`` position rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from headrace.cache import CacheContext, KVCache, Past, Seen
from headrace.ops.positions import check_policy, resolve_policy
from headrace.protocols import Card, Method
from headrace.types import Kind, LayerSpan, ModelSpec, Segment, Span, VisualTokens


def said(segment: Segment) -> Tensor:
    """(T,) bool which rows were said: all but frames and prefix, so also what a template puts around a turn."""
    return (segment.frame < 0) & (segment.kind != Kind.PREFIX)


@dataclass(slots=True)
class GroupPositionState:
    """The two groups.

    Attributes:
        shown: Prefix and frames, rotated at places of their own count.
        said: Questions and answers, rotated at places of theirs.
        turns: Rows shown and rows said whenever words began.
    """

    shown: KVCache
    said: KVCache
    turns: tuple[tuple[int, int], ...] = ()


class GroupContext(CacheContext):
    """Words see everything, what is shown sees what was shown; each group counts its own positions."""

    def __init__(self, spec: ModelSpec, state: GroupPositionState, *, offset: int, positions: str) -> None:
        shown, said = state.shown.table.view(), state.said.table.view()
        came = _arrivals(state) if any(spec.windows) else (None, None)
        past = [
            Past(state.shown.snapshot(), shown, arrivals=came[0]),
            Past(state.said.snapshot(), said, arrivals=came[1]),
        ]
        super().__init__(spec, past, next_row=shown.stop + said.stop, positions=positions)
        self._offset, self._num_shown, self._num_said = offset, shown.stop, said.stop
        self._words = torch.empty(0, dtype=torch.bool)  # which rows of this prompt are words

    def _place_of(self, segment: Segment) -> Tensor:
        words, before = said(segment), self._words
        self._words = torch.cat((before, words))
        num_said = self._num_said + int(before.sum()) + words.cumsum(0) - words.long()
        num_shown = self._num_shown + self._num - len(segment) - int(before.sum()) + (~words).cumsum(0) - 1
        own = segment.ids - num_said if self._positions == "original" else num_shown.expand(len(segment.ids), -1)
        return torch.where(words, self._offset + num_said, own)

    def _seen(self, layer: int, q: Tensor, number: Tensor) -> list[Seen]:
        return [part for seen in super()._seen(layer, q, number) if (part := self._heard(seen, number)) is not None]

    def _new(self, layer: int, q: Tensor, new: LayerSpan) -> list[Seen]:
        (seen,), number = super()._new(layer, q, new), new.rows[-q.shape[1] :]
        words = self._words[new.rows]
        if not bool((words[:-1] & ~words[1:]).any()):  # no frame behind a word: the order of the rows says it all
            return [seen]
        if seen.group.causal:
            causal = (new.rows[None] <= number[:, None]).to(q.device)
            seen = replace(seen, group=replace(seen.group, mask=causal, causal=False))
        found = self._heard(seen, number)
        assert found is not None, "a row sees itself"
        return [found]

    def _heard(self, seen: Seen, number: Tensor) -> Seen | None:
        """A part of the past without its words for queries that are none; None where nothing is left."""
        asks, first = self._words[number], self._past[0].rows.stop
        at = seen.rows + seen.offset
        if bool(asks.all()) or int(at[-1]) < first:
            return seen
        prompt = at - self._num_past()
        words = (prompt < 0) if not len(self._words) else self._words[prompt.clamp(min=0)] | (prompt < 0)
        sees = asks[:, None] | ~(words & (at >= first))[None]
        if seen.group.mask is not None:
            sees &= seen.group.mask.cpu()
        mask = None if bool(sees.all()) else sees.to(seen.group.keys.device)
        return replace(seen, group=replace(seen.group, mask=mask)) if bool(sees.any()) else None


@dataclass(frozen=True, kw_only=True)
class GroupPosition(Method):
    """Keep every row; frames and words count their positions apart."""

    offset: int = 0  # where words begin to count; published: 0, which is said to matter little
    positions: str = "auto"  # repack: one per row; original: ids with gaps where tokens were dropped; auto: as trained

    card: ClassVar[Card] = Card(
        "Group position encoding",
        paper="https://arxiv.org/abs/2505.16983",
        licence="unknown",
        differs="frames are the source, questions and answers the target; no schedule of reading and writing",
    )
    shorthand: ClassVar[str] = "offset"
    kind: ClassVar[str] = "kv"

    def __post_init__(self) -> None:
        check_policy(self.positions)
        if self.offset < 0:
            raise ValueError(f"offset: must be 0 or more, not {self.offset}")

    def init(self, spec: ModelSpec) -> GroupPositionState:
        """Nothing shown, nothing said."""
        return GroupPositionState(KVCache(spec), KVCache(spec, block_rows=512))

    def read(self, state: GroupPositionState, spec: ModelSpec, *, query: bool) -> GroupContext:
        """See what a row's group may see."""
        policy = resolve_policy(self.positions, spec.positions)
        return GroupContext(spec, state, offset=self.offset, positions=policy)

    def write(self, state: GroupPositionState, span: Span) -> GroupPositionState:
        """Append every run of rows to its group."""
        words = said(span.segment)
        edges = [0, *(torch.nonzero(words.diff()).squeeze(1) + 1).tolist(), len(words)]
        for start, stop in pairwise(edges):
            part = span.cut(start, stop)
            if stop > start and bool(words[start]):
                state.turns = (*state.turns, (state.shown.table.stop, state.said.table.stop))
                state.said.append(part)
            elif stop > start:
                state.shown.append(part)
        return state

    def recall(self, state: GroupPositionState) -> tuple[VisualTokens | Segment, ...]:
        """Nothing to run again."""
        return ()

    def num_bytes(self, state: GroupPositionState) -> int:
        """Bytes of both groups."""
        return state.shown.num_bytes() + state.said.num_bytes()

    def bound_bytes(self, spec: ModelSpec) -> None:
        """Grows without end."""
        return


def _arrivals(state: GroupPositionState) -> tuple[Tensor, Tensor]:
    """When the (S,) rows of each group came, counted over both."""
    turns = torch.tensor(state.turns, dtype=torch.int64).view(-1, 2)
    shown, said = (torch.arange(cache.table.stop) for cache in (state.shown, state.said))
    said_by = torch.cat((turns[:, 1], said.new_tensor([len(said)])))
    num_turns = torch.searchsorted(turns[:, 0].contiguous(), shown, right=True)
    return shown + said_by[num_turns], said + turns[
        torch.searchsorted(turns[:, 1].contiguous(), said, right=True) - 1, 0
    ]
