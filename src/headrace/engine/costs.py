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
STEADY = 1.25  # times more or less is still about the same
FLOOR_MS = 1e-3
FAR_BELOW = 0.8  # share of a typical step below which a step says that something was wrong with what was believed
OFTEN, SELDOM = 1 / 20, 0.6 / 20  # share at which a kind of step begins to count for the 95th percentile, and ceases to
WINDOW = 64  # steps over which shares are taken


class Curve:
    """Costs of one dial.

    Notches of equal work are one: a stretched interval makes costly kinds of steps rarer, and no kind cheaper.

    Args:
        works: Work of each notch as a share of the first one's, descending.
    """

    def __init__(self, works: Sequence[float]) -> None:
        self._works = tuple(works)
        self._first = [self._works.index(work) for work in works]  # of the notches of equal work
        self._points: dict[tuple[int, str], deque[float]] = {}
        self._took: dict[tuple[int, str], float] = {}
        self._when: dict[tuple[int, str], int] = {}  # number of the last step at a point
        self._num = 0
        self._ratios: deque[float] = deque(maxlen=TAIL_SAMPLES)
        self._last: tuple[int, str] | None = None
        self._predicted: dict[tuple[int, str], float | None] = {}  # until something is learned

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

    def typical(self, notch: int, kind: str) -> float | None:
        """What a typical step like the last ones takes by now; None where none of them was like it."""
        notch = self._first[notch]
        samples = self._points.get((notch, kind))
        stayed = self._last is not None and self._last[0] == notch
        stayed = stayed and self._num - self._when.get((notch, kind), -LOAD_SAMPLES - 1) < LOAD_SAMPLES
        return _lower_median(samples) * self.load if samples is not None and stayed else None

    def learn(self, notch: int, kind: str, ms: float, drift: float | None = None) -> None:
        """Take in what a step took.

        A step at a new point gives the point its nominal cost under the present load; a step at a known point gives
        the load. A known point is only corrected when the dial has just come to it, or where kinds of steps take turns
        under a steady load: staying at a point says nothing on how points compare.

        Args:
            notch: Where the dial stood.
            kind: Of the step.
            ms: What it took.
            drift: By how much the load changed in this very step, told by stages whose dials stood; None: unknown.
        """
        self._predicted.clear()
        notch = self._first[notch]
        ms, key, load = max(ms, FLOOR_MS), (notch, kind), self.load * (drift or 1.0)
        samples = self._points.get(key)
        if samples is None:
            self._points[key] = deque([ms / load], maxlen=POINT_SAMPLES)
            if drift is not None:
                self._ratios.append(load)
        else:
            came = self._last is None or notch != self._last[0]
            is_open = len(samples) < NEW_SAMPLES or key != self._last
            if came or (is_open and self._steady(key, ms)):
                samples.append(ms / load)
            self._ratios.append(ms / _lower_median(samples))
        self._took[key] = ms
        self._note(key)

    def _note(self, key: tuple[int, str]) -> None:
        self._num += 1
        self._last, self._when[key] = key, self._num

    def _steady(self, key: tuple[int, str], ms: float) -> bool:
        """True when a step took about what the one like it took before."""
        before = self._took.get(key, 0.0)
        return ms < STEADY * before and before < STEADY * ms

    def tried(self, notch: int, kind: str, ms: float, drift: float | None = None) -> None:
        """Take in a step that was tried although it was predicted to take too long, and that fitted.

        Where it took far less than a typical step there, what was believed of the load was wrong: a cost learned in the
        very step in which the load changed is wrong by that change, and staying at such a point would never show it.
        Then this step gives the load, and the point the dial came from takes under it what it took just now. Otherwise
        the step counts for more than all that was known of its point.
        """
        self._predicted.clear()
        notch = self._first[notch]
        point, came = self._points.get((notch, kind)), self._last
        typical = 0.0 if point is None else _lower_median(point) * self.load
        if point is None or came is None or came[0] == notch or ms >= FAR_BELOW * typical:
            if came is not None and came != (notch, kind):
                self._points.pop((notch, kind), None)
            self.learn(notch, kind, ms, drift)
            return
        load = max(ms, FLOOR_MS) / _lower_median(point)
        for at, samples in self._points.items():
            if at[0] == came[0]:
                self._points[at] = deque([_lower_median(samples) * self.load / load], maxlen=POINT_SAMPLES)
        self._ratios.clear()
        self._ratios.append(load)
        self._note((notch, kind))

    def predict(self, notch: int, kind: str) -> float | None:
        """Milliseconds a step will take when it is slow, or None before anything was learned."""
        key = (self._first[notch], kind)
        if key not in self._predicted:
            nominal = self._nominal(*key)
            if nominal is None:
                others = {other for _, other in self._points}
                known = [ms for other in others if (ms := self._nominal(key[0], other)) is not None]
                nominal = max(known, default=None)
            self._predicted[key] = None if nominal is None else nominal * self.tail
        return self._predicted[key]

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


class Shares:
    """Which kinds of steps come often enough at one notch to count.

    Attributes:
        counted: These kinds.
    """

    def __init__(self) -> None:
        self._share: dict[str, float] = {}
        self._count = 0
        self.counted: set[str] = set()

    def add(self, kind: str) -> None:
        """Take in the kind of one step."""
        self._count += 1
        rate = 1 / min(self._count, WINDOW)
        for other in {kind, *self._share}:
            share = self._share.get(other, 0.0)
            self._share[other] = share = share + rate * ((other == kind) - share)
            if share > OFTEN:
                self.counted.add(other)
            elif share < SELDOM:
                self.counted.discard(other)
