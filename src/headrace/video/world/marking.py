"""Scoring of a stream that speaks up by itself: what it said against what happened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from headrace.video.world.script import TICKS_PER_SECOND

FRAME_S = 1 / TICKS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts over one or more instructions.

    Attributes:
        hits: Events that the stream spoke up about.
        alarms: Times it spoke up about nothing.
        missed: Events it let pass.
    """

    hits: int = 0
    alarms: int = 0
    missed: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.hits + other.hits, self.alarms + other.alarms, self.missed + other.missed)

    @property
    def precision(self) -> float:
        """Share of what it said that was called for, 0 where it said nothing."""
        return self.hits / max(1, self.hits + self.alarms)

    @property
    def recall(self) -> float:
        """Share of the events that it spoke up about, 0 where there were none."""
        return self.hits / max(1, self.hits + self.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits / max(1, 2 * self.hits + self.alarms + self.missed)


@dataclass
class Marker:
    """Matches what is said with what happens, one to one, while a stream runs.

    What is said belongs to the earliest open event that is at most ``within_s`` away; so as many are matched as can be.

    Attributes:
        events_s: Times of the events, ascending.
        within_s: How far apart the two may be, in seconds.
        open_s: Events that nothing was said about yet.
        hits: Events that were spoken up about.
        alarms: Times when there was nothing.
    """

    events_s: Sequence[float]
    within_s: float = FRAME_S
    open_s: list[float] = field(init=False)
    hits: int = 0
    alarms: int = 0

    def __post_init__(self) -> None:
        self.open_s = sorted(self.events_s)

    def said(self, time_s: float) -> bool:
        """Note that the stream spoke up; True if there was reason to. Times must not descend."""
        found = next((event for event in self.open_s if abs(event - time_s) <= self.within_s + 1e-6), None)
        if found is None:
            self.alarms += 1
            return False
        self.open_s.remove(found)
        self.hits += 1
        return True

    def overdue(self, now_s: float) -> list[float]:
        """Take out the open events that are too long ago to be matched any more."""
        late = [event for event in self.open_s if event < now_s - self.within_s - 1e-6]
        self.open_s = self.open_s[len(late) :]
        return late

    def tally(self) -> Tally:
        """What it came to; events that are still open were missed."""
        return Tally(self.hits, self.alarms, len(self.events_s) - self.hits)


def total(tallies: Iterable[Tally]) -> Tally:
    """Add up."""
    return sum(tallies, Tally())
