"""From time stamps in ticks to seconds from the start of the stream."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

#: A time stamp that falls back this far starts a new piece of the stream; less may be jitter.
_JUMP_S = 1.0
#: So many frames that go on from where the stamps fell back to are no jitter.
_RUN = 4
#: A time stamp this far ahead is looked at twice.
_LEAP_S = 10.0
#: A live source that is further ahead than this has another clock than before.
_PAUSE_S = 3600.0
#: Time stands still for so long at most, and for at most so many frames of one and the same stamp.
_STILL_S, _ALIKE = 5.0, 256
#: Stamps are rounded to this at worst.
_TICK_S = 0.002
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
        self._before_s = 0.0  # time of the frame before the latest one
        self._fallen: list[float] = []  # where the stamps of the latest frames lie, for which time stands still
        self._leapt = False  # the latest stamp was not believed

    def place(self, stamp: int | None, elapsed_s: float | None = None) -> tuple[float, bool]:
        """Give the time of the next frame.

        Time stands still for frames whose stamps fall back a little, and goes on from the last frame at the nominal
        rate where that is no jitter: the stamps fall back by more than a second, or several go on from where they fell
        back to, or they lie behind for five seconds, or hundreds are the same (joined recordings, a restarted sender).

        Args:
            stamp: Its presentation stamp in ticks, or None.
            elapsed_s: Of a live stream, the seconds that passed since the frame before. A stamp that runs far ahead of
                them is not believed, and its frame comes one frame interval after the last one; when the next stamp
                does so, too, it is, unless it is more than an hour: then the clock of the sender was set.

        Returns:
            Its time in seconds, and whether the stamps jumped before it in one of these ways.
        """
        if stamp is None or self._time_base is None:
            time_s, jumped = self._counted(), False
        else:
            if self._origin is None or (self.last_s is None and stamp < self._origin):
                self._origin = stamp
            time_s, jumped = self._read(stamp, elapsed_s)
            self.stamped = True
        if self.last_s is None or time_s > self.last_s:
            self._before_s = time_s - 1 / self.rate if self.last_s is None or jumped else self.last_s
            self._fallen = []
        self.last_s = time_s
        return time_s, jumped

    def is_far(self, stamp: int | None) -> bool:
        """Tell whether the next frame's stamp lies so far from the last time that the one after it is worth a look."""
        ahead_s = self._ahead_s(stamp)
        return ahead_s is not None and not -_JUMP_S <= ahead_s <= _LEAP_S

    def goes_on(self, stamp: int | None) -> bool:
        """Tell whether a stamp goes on from the last time, so that one before it that ``is_far`` is damaged."""
        ahead_s = self._ahead_s(stamp)
        return ahead_s is not None and 0 < ahead_s <= _LEAP_S

    def _read(self, stamp: int, elapsed_s: float | None) -> tuple[float, bool]:
        time_s = self._at(stamp)
        if self.last_s is None:
            return time_s, False
        if time_s > self.last_s:
            leapt, self._leapt = self._leapt, elapsed_s is not None and time_s > self.last_s + elapsed_s + _LEAP_S
            if not self._leapt:
                return time_s, False
            if not leapt:
                return self._counted(), True
            return (time_s, False) if time_s < self.last_s + _PAUSE_S else (self._rebased(stamp, 1), False)
        self._leapt = False
        if not self.stamped:  # cameras may send their first frames without stamps
            return self._rebased(stamp, 1), False
        self._fallen.append(time_s)
        alike = self._fallen.count(self.last_s) == len(self._fallen)  # coarse stamps
        longest = max(_ALIKE, _STILL_S * self.rate) if alike else max(_RUN, _STILL_S * self.rate)
        if time_s < self.last_s - _JUMP_S or self._goes_on_below() or len(self._fallen) >= longest:
            return self._rebased(stamp, len(self._fallen)), True
        return self.last_s, False

    def _goes_on_below(self) -> bool:
        """Whether the stamps go on from below those of the last two frames, evenly: not after a single early one."""
        if len(self._fallen) < _RUN or self._fallen[0] >= self._before_s - 1 / self.rate:
            return False
        rises = [b - a for a, b in pairwise(self._fallen)]
        return min(rises) > 0 and max(rises) <= 1.1 * min(rises) + _TICK_S

    def _rebased(self, stamp: int, intervals: int) -> float:
        """Move the origin so that ``stamp`` comes so many frame intervals after the last frame; return its time."""
        assert self._time_base is not None
        time_s = self._counted(intervals)
        self._origin = stamp - round(Fraction(time_s) / self._time_base)
        return time_s

    def _ahead_s(self, stamp: int | None) -> float | None:
        """Seconds from the last frame, or the start of the stream, to a stamp; None where that cannot be told."""
        if stamp is None or self._time_base is None or self._origin is None:
            return None
        return self._at(stamp) - (self.last_s or 0.0)

    def _at(self, stamp: int) -> float:
        assert self._time_base is not None
        assert self._origin is not None
        return float((stamp - self._origin) * self._time_base)

    def _counted(self, intervals: int = 1) -> float:
        return 0.0 if self.last_s is None else self.last_s + intervals / self.rate
