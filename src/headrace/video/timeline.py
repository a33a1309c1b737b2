"""From time stamps in ticks to seconds from the start of the stream."""

from __future__ import annotations

from fractions import Fraction

#: A time stamp that falls back this far starts a new piece of the stream; less is jitter.
_JUMP_S = 1.0
_DEFAULT_RATE = 25.0


class Timeline:
    """Turns presentation stamps into seconds that never run backwards.

    Attributes:
        rate: Frames per second assumed where there are no stamps.
        stamped: True once a frame had a stamp; until then times are counted.
        last_s: Time of the latest frame in seconds, or None.
    """

    def __init__(self, time_base: Fraction | None, start: int | None, rate: float | None) -> None:
        """Set the origin.

        Args:
            time_base: Seconds per tick, exact.
            start: Stamp of the stream's first frame in ticks; None takes the first one seen.
            rate: Nominal frames per second, or None.
        """
        self.rate = rate or _DEFAULT_RATE
        self._time_base, self._start = time_base, start
        self.restart()

    def restart(self) -> None:
        """Forget every frame seen; the stream is read from its beginning again."""
        self.stamped = False
        self.last_s: float | None = None
        self._origin = self._start

    def place(self, stamp: int | None) -> tuple[float, bool]:
        """Give the time of the next frame.

        Args:
            stamp: Its presentation stamp in ticks, or None.

        Returns:
            Its time in seconds, and whether the stamps jumped back before it (joined recordings, a restarted
            sender): such a frame continues one frame interval after the last one.
        """
        jumped = False
        if stamp is None or self._time_base is None:
            time_s = self._counted()
        else:
            if self._origin is None or (self.last_s is None and stamp < self._origin):
                self._origin = stamp
            time_s = float((stamp - self._origin) * self._time_base)
            if self.last_s is not None and time_s <= self.last_s:
                jumped = time_s < self.last_s - _JUMP_S
                if jumped or not self.stamped:  # cameras may send their first frames without stamps
                    time_s = self._counted()
                    self._origin = stamp - round(Fraction(time_s) / self._time_base)
                else:
                    time_s = self.last_s
            self.stamped = True
        self.last_s = time_s
        return time_s, jumped

    def _counted(self) -> float:
        return 0.0 if self.last_s is None else self.last_s + 1 / self.rate
