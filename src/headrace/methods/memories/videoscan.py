"""VideoScan: of every frame one row stays, its semantic carrier.

Paper: VideoScan: Enabling Efficient Streaming Video Understanding via Frame-level Semantic Carriers (arXiv 2503.09387).
Original: LyliAgave/VideoScan (no licence).

Behind the tokens of a frame stands their mean, the carrier. The decoder reads the frame with all earlier carriers
before it; then only the carrier's keys and values stay, which have seen the whole frame. When there are ``capacity``
carriers, the older of the two neighbours that look most alike is deleted.

Ours differs: a carrier means something to a model that was trained with carriers, in two stages in the paper, whose
weights this project has not; others answer badly. ``carrier="last"`` keeps the row with which a model itself closes its
frames. Remembered turns stay, within ``turn_rows``; the original keeps no text. Its stand-in question after every frame
is left out, as nothing of it is kept, and so is the variant that keeps sixteen more rows. Carriers that are left close
ranks; the original lets them keep their rotation (``counting="released"``).

``R`` kept rows, ``P`` position rows, ``D`` width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from headrace.cache import CacheContext, KVCache, Past
from headrace.ops.positions import check_policy, resolve_policy
from headrace.protocols import Card, Method
from headrace.types import Kind, ModelSpec, Segment, Span, VisualTokens


@dataclass(slots=True)
class VideoScanState:
    """The rows that stay.

    Attributes:
        cache: Prefix, carriers and words in order of arrival, un-rotated.
        arrivals: (R,) int64 when each came.
        spots: (P, R) int64 where each stood, counted over what was kept then.
        carriers: (C, D) embeddings of the carriers.
        num_rows: Rows of the stream so far, those that did not stay included.
        next: (P,) int64 the id behind the last row.
    """

    cache: KVCache
    arrivals: Tensor
    spots: Tensor
    carriers: Tensor
    num_rows: int
    next: Tensor


@dataclass(frozen=True, kw_only=True)
class VideoScan(Method):
    """Keep one row of every frame, and of alike neighbours the newer."""

    capacity: int = 64  # most carriers; one fewer between steps, as published
    carrier: str = "mean"  # mean: a row of its own, as published; last: the frame's last row
    counting: str = "kept"  # kept: carriers close ranks; released: they keep their rotation; stream: as in training
    turn_rows: int = 512  # most rows of remembered questions and answers
    positions: str = "auto"  # repack: one per row; original: ids with gaps where tokens were dropped; auto: as trained

    card: ClassVar[Card] = Card(
        "VideoScan",
        paper="https://arxiv.org/abs/2503.09387",
        licence="none",
        differs="needs a model trained with carriers, which is not at hand; remembered turns stay; no stand-in question"
        " after a frame",
    )
    tunable: ClassVar[frozenset[str]] = frozenset({"capacity"})
    digests: ClassVar[bool] = True
    shorthand: ClassVar[str] = "capacity"
    kind: ClassVar[str] = "kv"

    def __post_init__(self) -> None:
        check_policy(self.positions)
        if self.capacity < 2:
            raise ValueError(f"capacity: must be at least 2 carriers, not {self.capacity}")
        if self.turn_rows < 0:
            raise ValueError(f"turn_rows: must be 0 or more, not {self.turn_rows}")
        for name, known in (("carrier", ("mean", "last")), ("counting", ("kept", "released", "stream"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r} is unknown; known: {', '.join(known)}")

    def init(self, spec: ModelSpec) -> VideoScanState:
        """Nothing kept."""
        axes, none = spec.position_rows, torch.empty(0, dtype=torch.int64)
        carriers = torch.empty(0, spec.dim, dtype=spec.dtype, device=spec.device)
        return VideoScanState(_room(spec), none, none.view(1, 0).expand(axes, 0), carriers, 0, none.new_zeros(axes))

    def one_by_one(self) -> bool:
        """Frames of a step come in turn: each finds what the one before it has left."""
        return True

    def carry(self, segment: Segment) -> Segment:
        """Add a carrier behind the rows of every frame, unless the last row is one."""
        return segment if self.carrier == "last" else with_means(segment)

    def read(self, state: VideoScanState, spec: ModelSpec, *, query: bool) -> CacheContext:
        """See every kept row."""
        policy, num, view = (
            resolve_policy(self.positions, spec.positions),
            len(state.arrivals),
            state.cache.table.view(),
        )
        end = _end(state, policy)
        if self.counting == "kept":
            moved = end - num + torch.arange(num)
        elif self.counting == "released":
            moved = end - num + state.spots
        else:
            moved = view.column("ids") if policy == "original" else state.arrivals.expand(spec.position_rows, -1)
        past = [Past(state.cache.snapshot(), view, moved=moved, arrivals=state.arrivals)] if num else []
        return CacheContext(spec, past, next_row=state.num_rows, positions=policy)

    def write(self, state: VideoScanState, span: Span) -> VideoScanState:
        """Keep the carriers of a step, or a turn; delete carriers that look like the next."""
        seg, num = span.segment, len(state.arrivals)
        rows = _last_of_frames(seg) if bool((seg.frame >= 0).any()) else torch.arange(len(seg))
        state.cache.append(span.bare(rows))
        policy = resolve_policy(self.positions, state.cache.spec.positions)
        own = seg.ids[:, rows] if policy == "original" else (rows + state.num_rows).expand(len(seg.ids), -1)
        state.spots = torch.cat((state.spots, own - _end(state, policy) + num), dim=1)
        state.arrivals = torch.cat((state.arrivals, rows + state.num_rows))
        state.num_rows += len(seg)
        state.next = seg.ids.amax(1) + 1 if len(seg) else state.next
        shown = rows[seg.frame[rows] >= 0]
        left = self._thin(state, seg.embeds[shown.to(seg.embeds.device)])
        if len(left) < len(state.arrivals):
            cache = _room(state.cache.spec)
            cache.append(state.cache.copied(left + state.cache.table.first))
            state.cache, state.arrivals, state.spots = cache, state.arrivals[left], state.spots[:, left]
        return state

    def _thin(self, state: VideoScanState, new: Tensor) -> Tensor:
        """Take in (F, D) new carriers one by one; returns the (K,) rows that stay, words within their budget."""
        view = state.cache.table.view()
        carrier = view.column("frame") >= 0
        words = ~carrier & (view.column("kind") != Kind.PREFIX)  # with the newline that a clip was closed with
        stay = torch.ones(len(carrier), dtype=torch.bool)
        said = torch.nonzero(words).squeeze(1)
        stay[said[: max(0, len(said) - self.turn_rows)]] = False
        names, held = torch.nonzero(carrier).squeeze(1).tolist(), state.carriers
        for row in (None, *new):  # first what a smaller capacity no longer holds
            held = held if row is None else torch.cat((held, row[None].to(held.dtype)))
            while len(held) >= self.capacity:
                oldest = most_alike(held)
                stay[names.pop(oldest)] = False
                held = torch.cat((held[:oldest], held[oldest + 1 :]))
        state.carriers = held
        return torch.nonzero(stay).squeeze(1)

    def recall(self, state: VideoScanState) -> tuple[VisualTokens | Segment, ...]:
        """Nothing to run again."""
        return ()

    def num_bytes(self, state: VideoScanState) -> int:
        """Bytes of rows and carriers."""
        notes = state.arrivals.numel() + state.spots.numel() + state.next.numel()
        return state.cache.num_bytes() + state.carriers.numel() * state.carriers.itemsize + 8 * notes

    def bound_bytes(self, spec: ModelSpec) -> int:
        """Prefix, carriers and words, with one step more, and the carriers' embeddings."""
        rows = spec.prefix_rows + self.capacity + self.turn_rows + 64
        table = (4096 + rows) * (29 + 16 * spec.position_rows)
        return rows * (spec.row_bytes + 8 * spec.layers) + self.capacity * spec.dim * spec.dtype.itemsize + table


def most_alike(carriers: Tensor) -> int:
    """The older of the two neighbours among (C, D) carriers with the largest cosine; the first on a tie."""
    x = torch.nn.functional.normalize(carriers.float(), dim=1)
    return int((x[:-1] * x[1:]).sum(1).argmax())


def with_means(segment: Segment) -> Segment:
    """Put the mean of each frame's rows behind its last row.

    With one position row it takes a place of its own, and what follows moves up; with three it stands at the frame's
    largest ids, which no row that stays has.

    Args:
        segment: Rows of a step, ids relative.
    """
    ends, axes = _last_of_frames(segment), len(segment.ids)
    if not len(ends):
        return segment
    own = int(axes == 1)
    source = torch.cat((torch.arange(len(segment)), ends))
    order = torch.argsort(source, stable=True)
    ids, means = segment.ids.clone(), []
    for end in ends.tolist():
        ids[:, end + 1 :] += own
        mine = torch.nonzero(segment.frame == segment.frame[end]).squeeze(1)
        means.append(segment.embeds[mine.to(segment.embeds.device)].float().mean(0))
    tops = [ids[:, segment.frame == segment.frame[end]].amax(1) + own for end in ends]
    num, source = len(ends), source[order]

    def both(x: Tensor, y: Tensor) -> Tensor:
        return torch.cat((x, y))[order.to(x.device)]

    return replace(
        segment,
        embeds=both(segment.embeds, torch.stack(means).to(segment.embeds.dtype)),
        ids=torch.cat((ids, torch.stack(tops, dim=1)), dim=1)[:, order],
        advance=segment.advance + own * num,
        kind=both(segment.kind, torch.full((num,), int(Kind.NEWLINE), dtype=torch.int8)),
        frame=segment.frame[source],
        time_s=segment.time_s[source],
        tokens=both(segment.tokens, torch.full((num,), -1)),
    )


def _last_of_frames(segment: Segment) -> Tensor:
    """(F,) int64 the last row of every frame."""
    shown = torch.nonzero(segment.frame >= 0).squeeze(1)
    if not len(shown):
        return shown
    last = torch.cat((segment.frame[shown].diff() != 0, torch.ones(1, dtype=torch.bool)))
    return shown[last]


def _end(state: VideoScanState, policy: str) -> Tensor:
    """(P, 1) where the next row stands."""
    return state.next[:, None] if policy == "original" else torch.full_like(state.next, state.num_rows)[:, None]


def _room(spec: ModelSpec) -> KVCache:
    return KVCache(spec, block_rows=64)
