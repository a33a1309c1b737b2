"""One unbroken run of shots from a source that breaks off and comes back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from headrace.video.errors import UnreachableError, VideoError
from headrace.video.shots import Reader, Shot, Warn

R = TypeVar("R", bound=Reader)

#: So much of the past may be shown again, in seconds; and so long after a connection was made, on the wall.
_PAST_S, _BURST_S = 300.0, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnect:
    """How hard to try to get a lost live source back.

    Attributes:
        tries: Attempts in a row before giving up, >= 0; None never gives up. A frame that arrives resets the count.
        first_s: Wait before the first attempt, in seconds; it doubles with every further one.
        longest_s: Longest wait between attempts, in seconds.
        at_first: Try as hard for the first connection, where nobody answers; else that is an error at once.
    """

    tries: int | None = 10
    first_s: float = 0.5
    longest_s: float = 30.0
    at_first: bool = False

    def __post_init__(self) -> None:
        if self.tries is not None and self.tries < 0:
            raise ValueError(f"reconnect tries must be 0 or more, or None for ever, not {self.tries}")
        if not 0 <= self.first_s <= self.longest_s:
            raise ValueError(f"reconnect needs 0 <= first_s <= longest_s, not {self.first_s} and {self.longest_s}")

    def delay_s(self, failures: int) -> float:
        """Return the wait in seconds after ``failures`` attempts failed in a row."""
        return min(self.first_s * 2.0 ** min(failures, 60), self.longest_s)


def connected(
    connect: Callable[[], R], policy: Reconnect, wait: Callable[[float], object], warn: Callable[[str], None]
) -> R:
    """Make a first connection.

    Args:
        connect: Makes it; raises ``UnreachableError`` when nobody answers.
        policy: When to try again.
        wait: Waits for a number of seconds; returns true when trying should stop.
        warn: Told of every attempt that failed.

    Raises:
        VideoError: It cannot be made.
    """
    for failures in itertools.count():
        try:
            return connect()
        except UnreachableError as problem:
            if not policy.at_first or failures == policy.tries:
                raise
            delay = policy.delay_s(failures)
            warn(f"{problem}; trying again in {delay:.1f} s")
            if wait(delay):
                raise
    raise AssertionError


class Unbroken:
    """A live source read across its losses.

    The first frame has time 0. After a loss, the first frame is a gap, and its time is what the wall clock says it
    must be, one frame interval after the last frame at least. Where the sender's clock goes on across connections
    (HLS), that says it, and what was shown before is left out: a playlist begins with the past. A source that comes
    back with a known length has ended.

    Attributes:
        facts: What is known about it.
        given_up: True once all attempts to get it back have failed.
    """

    def __init__(
        self,
        first: Reader,
        connect: Callable[[], Reader],
        policy: Reconnect,
        clock: Callable[[], float],
        wait: Callable[[float], object],
        warn: Warn,
    ) -> None:
        """Take over an open reader.

        Args:
            first: The connection that was made already.
            connect: Makes another one; raises VideoError when it cannot.
            policy: When to try again.
            clock: Wall clock in seconds, any origin.
            wait: Waits for a number of seconds; returns true when reading should stop.
            warn: Told of every loss and every return.
        """
        self.facts = first.facts
        self.given_up = False
        self._reader: Reader | None = first
        self._connect, self._policy, self._clock, self._wait, self._warn = connect, policy, clock, wait, warn
        self._failures = 0
        self._last_s: float | None = None
        self._origin = math.inf  # wall clock at time 0, as the promptest frame so far shows it
        self._stamp_s: float | None = None  # of the last frame by the sender's clock

    def shots(self, start_s: float) -> Iterator[Shot]:
        """Yield shots until the source has ended or is given up; times never run backwards."""
        del start_s  # nothing to seek in
        why = "it ended"
        while self._reader is not None or self._return(why):
            try:
                yield from self._connection()
                why = "it ended"
            except VideoError as problem:
                why = str(problem)
            self.close()

    def close(self) -> None:
        """Close the present connection, if there is one."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _connection(self) -> Iterator[Shot]:
        assert self._reader is not None
        shift: float | None = None
        began: float | None = None
        for shot in self._reader.shots(0.0):
            now = self._clock()
            began = now if began is None else began
            back = shift is None and self._last_s is not None
            if shift is None:
                ahead_s = self._ahead_s(shot, now)
                if ahead_s is not None and ahead_s <= 0 and now - began <= _BURST_S:
                    continue  # it was shown before
                shift = self._resume(now, ahead_s) - shot.time_s
            time_s = shot.time_s + shift
            if back:
                self._warn(f"{self.facts.name} is back at {time_s:.1f} s")
            self._failures = 0
            self._last_s, self._origin, self._stamp_s = time_s, min(self._origin, now - time_s), shot.stamp_s
            yield replace(shot, time_s=time_s, gap=shot.gap or back)

    def _resume(self, now: float, ahead_s: float | None) -> float:
        """Return the stream time in seconds of the first frame of a connection."""
        if self._last_s is None:
            return 0.0
        if ahead_s is not None and ahead_s > 0:
            return self._last_s + ahead_s
        return max(now - self._origin, self._last_s + 1 / (self.facts.fps or 25.0))

    def _ahead_s(self, shot: Shot, now: float) -> float | None:
        """Seconds by the sender's clock from the last frame to one of a new connection; None where that was set."""
        if self._last_s is None or self._stamp_s is None or shot.stamp_s is None:
            return None
        ahead_s = shot.stamp_s - self._stamp_s
        return ahead_s if abs(ahead_s) <= now - self._origin - self._last_s + _PAST_S else None

    def _return(self, why: str) -> bool:
        """Try to connect again; False when the source has ended, is given up, or reading should stop."""
        name, tries = self.facts.name, self._policy.tries
        while tries is None or self._failures < tries:
            delay = self._policy.delay_s(self._failures)
            self._warn(f"{name} was lost ({why}); trying again in {delay:.1f} s")
            self._failures += 1
            if self._wait(delay):
                return False
            try:
                self._reader = self._connect()
            except VideoError as problem:
                why = str(problem).removeprefix(f"cannot open {name}: ")
                continue
            if not self._reader.facts.live:  # an HLS playlist that was closed meanwhile
                self.close()
                return False
            return True
        self.given_up = bool(tries)
        self._warn(f"{name} ended: {why}" if not tries else f"{name} was given up after {tries} tries: {why}")
        return False
