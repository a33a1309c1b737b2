"""Decoder rows: what goes in, what keys and values come out, and where the stream stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from headrace.types.visual import VisualTokens


class Kind(IntEnum):
    """What a decoder row stands for; stored per row as int8."""

    PREFIX = 0  # system prompt and everything before the first frame
    VISUAL = 1  # one (pooled) visual token
    NEWLINE = 2  # the row that closes a clip, or a frame where every frame is a clip
    MARKER = 3  # delimiters and timestamps around visual rows
    TEXT = 4  # questions
    ANSWER = 5  # rows the model produced


@dataclass(frozen=True, slots=True)
class Clip:
    """A run of frames whose positions count from its start, as long as nothing comes between them.

    Attributes:
        start_s: Time of its first temporal step.
        step_s: Seconds from its first step to its second, 0 before that.
        reach: Positions from its start to where the next row would stand if it ended here.
    """

    start_s: float
    step_s: float
    reach: int


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A run of new rows for the decoder.

    Attributes:
        embeds: (T, D) input embeddings.
        ids: (P, T) int64 position ids. Relative to the segment's start as a backbone builds it; canonical (counted
            over the whole stream, before anything was dropped) after ``Backbone.place``.
        advance: Positions this run consumes, dropped tokens included.
        kind: (T,) int8, a ``Kind`` per row.
        frame: (T,) int64 stream index of the frame a row shows, -1 for text.
        time_s: (T,) float64 time of that frame in seconds, -1 for text.
        tokens: (T,) int64 vocabulary ids, -1 for rows that are no vocabulary entries.
        turn: Number of the conversation turn, 0 before the first question.
        deep: (J, V, D) features added after decoder layers 0..J-1 to the V visual rows, or None.
        clip: The clip its frames belong to, as it stands after them; None for other rows, and in families whose frames
            stand on their own.
    """

    embeds: Tensor
    ids: Tensor
    advance: int
    kind: Tensor
    frame: Tensor
    time_s: Tensor
    tokens: Tensor
    turn: int = 0
    deep: Tensor | None = None
    clip: Clip | None = None

    def __len__(self) -> int:
        return self.embeds.shape[0]

    def cut(self, start: int, stop: int) -> Segment:
        """Take the rows ``start..stop`` of a segment that has been run (deepstack features are gone by then)."""
        part = slice(start, stop)
        return replace(
            self,
            embeds=self.embeds[part],
            ids=self.ids[:, part],
            advance=stop - start,
            kind=self.kind[part],
            frame=self.frame[part],
            time_s=self.time_s[part],
            tokens=self.tokens[part],
            deep=None,
            clip=None,
        )

    def take(self, rows: Tensor) -> Segment:
        """Take some rows ((K,) int64, ascending) of a segment that has been run; they stand where they stood."""
        return replace(
            self,
            embeds=self.embeds[rows.to(self.embeds.device)],
            ids=self.ids[:, rows],
            advance=len(rows),
            kind=self.kind[rows],
            frame=self.frame[rows],
            time_s=self.time_s[rows],
            tokens=self.tokens[rows],
            deep=None,
        )

    def num_bytes(self) -> int:
        """Bytes of all attached tensors."""
        parts = (self.embeds, self.ids, self.kind, self.frame, self.time_s, self.tokens, self.deep)
        return sum(x.numel() * x.itemsize for x in parts if x is not None)

    def fork(self) -> Segment:
        """Return itself: the value is never changed in place, so streams may share it."""
        return self


def join(segments: Sequence[Segment], *, placed: bool = False) -> Segment:
    """Concatenate segments.

    Args:
        segments: At least one.
        placed: The ids are canonical already. Otherwise they are relative, and each segment starts where the one
            before it ended.

    Returns:
        One segment, with the first one's turn.
    """
    start, ids = 0, []
    for seg in segments:
        ids.append(seg.ids if placed else seg.ids + start)
        start += seg.advance
    deep = [seg.deep for seg in segments if seg.deep is not None]
    return replace(
        segments[0],
        embeds=torch.cat([seg.embeds for seg in segments]),
        ids=torch.cat(ids, dim=1),
        advance=start,
        kind=torch.cat([seg.kind for seg in segments]),
        frame=torch.cat([seg.frame for seg in segments]),
        time_s=torch.cat([seg.time_s for seg in segments]),
        tokens=torch.cat([seg.tokens for seg in segments]),
        deep=torch.cat(deep, dim=1) if deep else None,
        clip=segments[-1].clip,
    )


@dataclass(frozen=True, slots=True, eq=False)
class LayerSpan:
    """The new rows of one decoder layer.

    Attributes:
        keys: (G, T, D) un-rotated keys (after a key norm, where the family has one).
        values: (G, T, D).
        rotated: (G, T, D) keys rotated at the positions the Context chose, or None.
        rows: (T,) int64, which rows of the span these are; ascending. Fewer than all after a pruner dropped some.
        early: What the decoder has done with them already.
    """

    keys: Tensor
    values: Tensor
    rotated: Tensor | None
    rows: Tensor
    early: Early | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Early:
    """What does not depend on the past: new rows rotated, and attended to each other causally.

    Attributes:
        turned: (H, T, D) rotated queries.
        rotated: (G, T, D) rotated keys.
        out: (H, T, D) what the rows get from each other.
        lse: (H, T) fp32 log-sum-exp of the logits that took.
    """

    turned: Tensor
    rotated: Tensor
    out: Tensor
    lse: Tensor


@dataclass(frozen=True, slots=True)
class Moment:
    """A frame an answer rests on.

    Attributes:
        frame: Its stream index.
        time_s: Its time in seconds.
        score: Its share of attention, 0..1.
        chosen: Share of the layers that looked it up, 0..1; None where nothing was looked up.
        worth: What it was worth to them on average, from 0 (the lowest of all blocks) to 1 (the highest).
    """

    frame: int
    time_s: float
    score: float
    chosen: float | None = None
    worth: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Retrieved:
    """What a question looked up in the past.

    Attributes:
        frame: (K,) int64 stream index of the frame of each block, -1 for text; a frame may come several times.
        chosen: (K,) float32 share of the layers that looked the block up, 0..1.
        worth: (K,) float32 what it was worth to them on average, from 0 (the lowest of all) to 1 (the highest).
    """

    frame: Tensor
    chosen: Tensor
    worth: Tensor

    def of(self, frame: int) -> tuple[float, float]:
        """Share of layers and worth of a frame: its best block's."""
        mine = self.frame == frame
        return (float(self.chosen[mine].max()), float(self.worth[mine].max())) if bool(mine.any()) else (0.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """How much attention the watched rows paid to each frame.

    Attributes:
        frame: (R,) int64 stream index of the frame, -1 for text.
        time_s: (R,) float64.
        mass: (R,) float32 attention per row, mean over layers and heads; sums to 1.
        retrieved: What was looked up, or None where the memory looks nothing up.
    """

    frame: Tensor
    time_s: Tensor
    mass: Tensor
    retrieved: Retrieved | None = None

    def moments(self, num: int) -> tuple[Moment, ...]:
        """Return the ``num`` frames with most attention, heaviest first (earlier first on a tie)."""
        visual = self.frame >= 0
        if not bool(visual.any()):
            return ()
        frames, slot = torch.unique(self.frame[visual], return_inverse=True)
        mass = torch.zeros(len(frames), dtype=torch.float32, device=slot.device).index_add_(0, slot, self.mass[visual])
        times = torch.zeros(len(frames), dtype=torch.float64, device=slot.device)
        times.scatter_(0, slot, self.time_s[visual])
        order = torch.argsort(mass, descending=True, stable=True)[:num].tolist()
        looked = [(None, None) if self.retrieved is None else self.retrieved.of(int(frames[i])) for i in order]
        return tuple(
            Moment(int(frames[i]), float(times[i]), float(mass[i]), *found)
            for i, found in zip(order, looked, strict=True)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """What a Context hands to a memory when it is finished.

    Attributes:
        segment: The rows, with canonical ids. A token memory reads ``tokens`` instead where it is given.
        layers: Keys and values per decoder layer; empty for token memories.
        positions: (P, T) int64 positions the keys were rotated at.
        attention: Statistics of the watched rows, if any were asked for.
        tokens: The visual tokens of the step, for token memories.
        trace: What the Context noted for its memory beside the rows, if anything.
    """

    segment: Segment
    layers: tuple[LayerSpan, ...] = ()
    positions: Tensor | None = None
    attention: Attention | None = None
    tokens: VisualTokens | None = None
    trace: Any = None

    def cut(self, start: int, stop: int) -> Span:
        """Take the rows ``start..stop``, in every layer those of them that are left."""
        layers = []
        for layer in self.layers:
            at = slice(*(int(torch.searchsorted(layer.rows, row)) for row in (start, stop)))
            rotated = None if layer.rotated is None else layer.rotated[:, at]
            layers.append(LayerSpan(layer.keys[:, at], layer.values[:, at], rotated, layer.rows[at] - start))
        positions = None if self.positions is None else self.positions[:, start:stop]
        return Span(self.segment.cut(start, stop), tuple(layers), positions, self.attention, self.tokens)

    def bare(self, rows: Tensor) -> Span:
        """Take some rows ((K,) int64, ascending), un-rotated, in every layer those of them that are left."""
        layers = []
        for layer in self.layers:
            at = torch.nonzero(torch.isin(layer.rows, rows)).squeeze(1)
            where = at.to(layer.keys.device)
            left = torch.searchsorted(rows, layer.rows[at])
            layers.append(LayerSpan(layer.keys[:, where], layer.values[:, where], None, left))
        return Span(self.segment.take(rows), tuple(layers))


@dataclass(frozen=True, slots=True, eq=False)
class Cursor:
    """Where the stream stands in canonical positions and in the conversation.

    Attributes:
        next: The next free canonical position id.
        clip_open: True when frames were added since the last turn, so that the next turn must close the clip.
        turn: Number of remembered turns so far.
        answered: True when the last remembered rows are an answer, so that new rows must end it first.
        clip: The clip that goes on with the next frame, in families whose frames count from its start; ``next`` is then
            where it started.
        said: Vocabulary ids of all text so far, that of frames included, whether a memory still holds it or not.
    """

    next: int = 0
    clip_open: bool = False
    turn: int = 0
    answered: bool = False
    clip: Clip | None = None
    said: frozenset[int] = frozenset()

    def hears(self, segment: Segment) -> frozenset[int]:
        """What has been said when a segment has been, too."""
        ids = {token for token in segment.tokens.tolist() if token >= 0}
        return self.said if ids <= self.said else self.said | ids
