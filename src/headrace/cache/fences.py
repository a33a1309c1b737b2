"""Where blocks end: at a fixed number of rows, or where frames and turns do."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

from headrace.cache.sealed import cut_blocks
from headrace.types import Segment


@dataclass(frozen=True, slots=True)
class Fences:
    """Ends of blocks by arrival number. A value.

    Attributes:
        rows: Rows per block, 0 where blocks are frames and turns.
        first: Where the first block begins.
        ends: Ends of frames and turns that are in no block yet, ascending.
        talking: The last rows were text, so that text behind them goes on with their block.
    """

    rows: int = 0
    first: int = 0
    ends: tuple[int, ...] = ()
    talking: bool = False

    def extended(self, segment: Segment, at: int, num_sinks: int, most: int) -> Fences:
        """Take in new rows.

        Args:
            segment: T rows.
            at: Arrival number of the first.
            num_sinks: Rows of the stream that belong to no block.
            most: Longest block, in rows.
        """
        skip = min(max(num_sinks - at, 0), len(segment))
        if self.rows or skip == len(segment):
            return replace(self, first=max(self.first, num_sinks))
        ends = [at + stop for _, stop in cut_blocks(segment, skip, most)]
        talks = not bool((segment.frame >= 0).any())
        before = self.ends
        if talks and self.talking and before:
            start = before[-2] if len(before) > 1 else self.first
            if ends[0] - start <= most:
                before = before[:-1]
        return Fences(0, max(self.first, num_sinks), (*before, *ends), talks)

    def next(self, cut: int) -> int | None:
        """End of the block that begins at ``cut``, None where it is not known yet."""
        if self.rows:
            return cut + self.rows
        place = bisect_right(self.ends, cut)
        return self.ends[place] if place < len(self.ends) else None

    def dropped(self, cut: int) -> Fences:
        """Forget the ends up to ``cut``."""
        return replace(self, ends=self.ends[bisect_right(self.ends, cut) :], first=max(self.first, cut))
