"""What a step will cost: milliseconds by notch of a dial and kind of step, learned from what steps took.

A curve holds a nominal cost per notch and kind, and the load: by how much everything is slower or faster than nominal
just now. The first is the shape, learned when the dial moves; the second is the machine's, and follows at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

POINT_SAMPLES = 7  # of which a point takes the (lower) median
NEW_SAMPLES = 3  # until which a point is new, and also corrected while the dial stays at it
LOAD_SAMPLES = 3  # of which the load is the median: two slow steps are believed, one is a hiccup
TAIL_SAMPLES = 8  # of which the tail is the second largest: about the 85th percentile
FIXED = 0.5  # share of a cost believed not to shrink with the work, until measured
FLOOR_MS = 1e-3


class Curve:
    """Costs of one dial.

    Args:
        works: Work of each notch as a share of the first one's, descending.
    """

    def __init__(self, works: Sequence[float]) -> None:
        self._works = tuple(works)
        self._points: dict[tuple[int, str], deque[float]] = {}
        self._ratios: deque[float] = deque(maxlen=TAIL_SAMPLES)
        self._last: tuple[int, str] | None = None

    @property
    def load(self) -> float:
        """How many times slower than nominal steps are now, typically."""
        recent = sorted(list(self._ratios)[-LOAD_SAMPLES:])
        return recent[(len(recent) - 1) // 2] if recent else 1.0

    @property
    def tail(self) -> float:
        """How many times slower than nominal steps are now, when they are slow."""
        ranked = sorted(self._ratios)
        return ranked[-2] if len(ranked) > 1 else ranked[-1] if ranked else 1.0

    def learn(self, notch: int, kind: str, ms: float) -> None:
        """Take in what a step took.

        A step at a new point gives the point its nominal cost under the present load; a step at a known point gives
        the load. A known point is only corrected when the dial, or the kind of step, has just come to it: staying at a
        point says nothing on how points compare.
        """
        ms, key = max(ms, FLOOR_MS), (notch, kind)
        samples = self._points.get(key)
        if samples is None:
            self._points[key] = deque([ms / self.load], maxlen=POINT_SAMPLES)
        else:
            if key != self._last or len(samples) < NEW_SAMPLES:
                samples.append(ms / self.load)
            self._ratios.append(ms / _lower_median(samples))
        self._last = key

    def anchor(self, notch: int, kind: str, ms: float) -> None:
        """Believe one step against all that was known of the load and of its point; other points keep their cost.

        For a step that cost far less than predicted: a cost learned in the very step in which the load changed is wrong
        by that change, and staying at such a point would never show it.
        """
        self._points[notch, kind] = deque([max(ms, FLOOR_MS)], maxlen=POINT_SAMPLES)
        self._ratios.clear()
        self._last = (notch, kind)

    def predict(self, notch: int, kind: str) -> float | None:
        """Milliseconds a step will take when it is slow, or None before anything was learned."""
        nominal = self._nominal(notch, kind)
        if nominal is None:
            others = {other for _, other in self._points}
            known = [ms for other in others if (ms := self._nominal(notch, other)) is not None]
            nominal = max(known, default=None)
        return None if nominal is None else nominal * self.tail

    def _nominal(self, notch: int, kind: str) -> float | None:
        """The cost at a point: measured, in line with measured ones, or guessed with caution; None with nothing."""
        known = {i: _lower_median(samples) for (i, other), samples in self._points.items() if other == kind}
        if notch in known or not known:
            return known.get(notch)
        fuller = max((i for i in known if i < notch), default=None)
        cheaper = sorted(i for i in known if i > notch)
        work = self._works
        if fuller is not None and cheaper:
            return _line(work[notch], (work[cheaper[0]], known[cheaper[0]]), (work[fuller], known[fuller]))
        if fuller is not None:
            return known[fuller] * (FIXED + (1 - FIXED) * work[notch] / work[fuller])
        near = cheaper[0]
        if len(cheaper) > 1:
            return _line(work[notch], (work[cheaper[1]], known[cheaper[1]]), (work[near], known[near]))
        return known[near] * work[notch] / work[near]


def _line(work: float, cheap: tuple[float, float], full: tuple[float, float]) -> float:
    """Cost on the line through two (work, cost) points; it does not fall as the work grows."""
    if full[0] <= cheap[0] or full[1] <= cheap[1]:
        return max(full[1], cheap[1])
    return cheap[1] + (full[1] - cheap[1]) * (work - cheap[0]) / (full[0] - cheap[0])


def _lower_median(samples: deque[float]) -> float:
    return sorted(samples)[(len(samples) - 1) // 2]
