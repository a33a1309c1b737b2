"""Recent frames only: the last N frames, run through the decoder again at every question.

The yardstick many streaming systems fail to beat (SimpleStream: ``recent:4``). What is older than N frames is gone
without a trace: unlike a sliding window of keys and values, no kept row has ever seen it. Remembered turns stay as long
as a frame before them does, within a budget of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headrace.cache import CacheContext
from headrace.ops.positions import check_policy, resolve_policy
from headrace.protocols import Card, Method
from headrace.types import ModelSpec, Segment, Span, VisualTokens


@dataclass(slots=True)
class RecentState:
    """The last frames (one per item) and the turns between them, oldest first."""

    items: tuple[VisualTokens | Segment, ...]


@dataclass(frozen=True, kw_only=True)
class Recent(Method):
    """Keep the visual tokens of the last frames."""

    frames: int = 4  # newest frames that are kept (temporal steps where the tower takes several at once)
    turn_rows: int = 512  # most rows of remembered questions and answers
    positions: str = "auto"  # repack: contiguous; original: ids with gaps where tokens were dropped; auto: as trained

    card: ClassVar[Card] = Card("recent frames (SimpleStream)")
    tunable: ClassVar[frozenset[str]] = frozenset({"frames"})
    shorthand: ClassVar[str] = "frames"
    kind: ClassVar[str] = "tokens"

    def __post_init__(self) -> None:
        check_policy(self.positions)
        if self.frames < 1:
            raise ValueError(f"frames: must be at least 1, not {self.frames}")
        if self.turn_rows < 0:
            raise ValueError(f"turn_rows: must be 0 or more, not {self.turn_rows}")

    def init(self, spec: ModelSpec) -> RecentState:
        """Nothing seen."""
        return RecentState(())

    def read(self, state: RecentState, spec: ModelSpec, *, query: bool) -> CacheContext:
        """Start from nothing; the engine runs ``recall`` first."""
        return CacheContext(spec, [], next_row=0, positions=resolve_policy(self.positions, spec.positions))

    def write(self, state: RecentState, span: Span) -> RecentState:
        """Add the frames of a step, or a turn; forget what is older than the last N frames."""
        new = (span.segment,) if span.tokens is None else span.tokens.split()
        items = (*state.items, *new)
        shown = [i for i, item in enumerate(items) if isinstance(item, VisualTokens)]
        if len(shown) > self.frames:
            items = items[shown[-self.frames] :]
        return RecentState(_drop_turns(items, self.turn_rows))

    def recall(self, state: RecentState) -> tuple[VisualTokens | Segment, ...]:
        """Everything kept."""
        return state.items

    def num_bytes(self, state: RecentState) -> int:
        """Bytes of the kept tokens and turns."""
        return sum(item.num_bytes() for item in state.items)

    def bound_bytes(self, spec: ModelSpec) -> int:
        """N frames of full grids, deepstack features included, and the turns."""
        width = spec.dim * spec.dtype.itemsize
        per_frame = spec.grid[0] * spec.grid[1] * (width * (1 + len(spec.taps)) + 28)
        return self.frames * per_frame + self.turn_rows * (width + 33 + 8 * spec.position_rows)


def _drop_turns(items: tuple[VisualTokens | Segment, ...], budget: int) -> tuple[VisualTokens | Segment, ...]:
    """Drop the oldest turns until the rest fit the budget of rows.

    A turn that follows another without a frame between them continues it, so such turns leave together.
    """
    kept: list[VisualTokens | Segment] = []
    talk: list[VisualTokens | Segment] = []
    left = budget
    for item in (*reversed(items), None):
        if isinstance(item, Segment):
            talk.append(item)
            continue
        left -= sum(len(turn) for turn in talk)
        kept.extend(talk if left >= 0 else ())
        talk = []
        if item is not None:
            kept.append(item)
    return tuple(reversed(kept))
