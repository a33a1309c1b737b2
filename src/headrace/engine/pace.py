"""How far behind a stream is: time lost against its target, and time that waiting paid back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from statistics import median

from headrace.types import Frame

LAG_MOST = 4.0  # targets; what was lost before that is lost
CATCH_UP = 0.8  # share of what a step may take that is left to it while a live source waits
OWN_STEPS = 8  # steps over which time that is neither step nor waiting is looked at


class Pace:
    """Keeps the account of one stream.

    Without ``awaiting`` all time between pushes counts as waiting. With it only what the source let us wait does; the
    rest (an answer, a picture drawn) is time a live source does not give back.

    Args:
        target_ms: Milliseconds per frame.
        ahead: Frames' worth of time that may be saved up: those of a chunk that only waited.

    Attributes:
        lag_ms: Milliseconds behind, below 0 for time saved up.
    """

    def __init__(self, target_ms: float, ahead: int) -> None:
        self.lag_ms = 0.0
        self._target_ms, self._most_ahead_ms = target_ms, target_ms * ahead
        self._ended: float | None = None
        self._waited: float | None = None
        self._own_ms: deque[float] = deque(maxlen=OWN_STEPS)

    @property
    def late(self) -> bool:
        """A whole frame has been lost."""
        return self.lag_ms >= self._target_ms

    @property
    def room_ms(self) -> float:
        """What a frame's step may take: the target, less what else a frame takes where a live source sets the pace."""
        return self._target_ms - (median(self._own_ms) if self._own_ms else 0.0)

    @property
    def budget_ms(self) -> float:
        """The same, or less of it to catch up with a live source."""
        return self.room_ms * (CATCH_UP if self.late and self._waited is not None else 1.0)

    def awaiting(self, source: Iterable[Frame], clock: Callable[[], float]) -> Iterator[Frame]:
        """Yield a live source's frames, and note how long they let us wait."""
        frames, self._waited = iter(source), 0.0
        while True:
            start = clock()
            frame = next(frames, None)
            self._waited += clock() - start
            if frame is None:
                return
            yield frame

    def began(self, now_s: float) -> None:
        """A push begins."""
        if self._ended is not None:
            gap_ms, waited = 1000 * (now_s - self._ended), self._waited
            if waited is None:  # whoever calls was not waiting for us in between
                self.lag_ms -= gap_ms
            else:
                own_ms = max(0.0, gap_ms - 1000 * waited)
                self._own_ms.append(own_ms)
                self.lag_ms = min(self.lag_ms, 0.0) if own_ms < gap_ms / 2 else self.lag_ms + own_ms
            self.lag_ms = max(self.lag_ms, -self._most_ahead_ms)
        if self._waited is not None:
            self._waited = 0.0

    def ended(self, now_s: float, lost_ms: float) -> None:
        """A push, or a frame that was left out, took so much longer than the target; less is below 0."""
        self._ended = now_s
        lag_ms = min(self.lag_ms + lost_ms, LAG_MOST * self._target_ms)
        self.lag_ms = max(lag_ms, -self._most_ahead_ms)
