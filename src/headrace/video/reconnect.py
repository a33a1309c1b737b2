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

#: A burst that has not gone on for so many seconds is over.
_PAUSE_S = 1.0


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
    must be, one frame interval after the last frame at least. What comes in a burst when a connection is made is of the
    past (the pieces of an HLS playlist, what was looked at to open it): it gets times of the past, and what of it was
    shown before is left out. A source that comes back with a known length has ended.

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
        self._lead = _Lead()  # of the latest connection that had frames

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
        before, shift, first, back = self._lead, 0.0, True, self._last_s is not None
        for shot in self._reader.shots(0.0):
            now = self._clock()
            if first:
                shift, first = before.expected_s(now) - shot.time_s if back else -shot.time_s, False
                self._lead = _Lead()
            self._lead.see(now, shot.time_s + shift)
            if back and self._last_s is not None:
                least_s = self._last_s + 1 / (self.facts.fps or 25.0)
                if shot.time_s + shift < least_s:
                    if before.burst_s > 0 and self._lead.bursts:
                        continue  # it was shown before
                    shift, self._lead = least_s - shot.time_s, _Lead()
                    self._lead.see(now, least_s)
                self._warn(f"{self.facts.name} is back at {shot.time_s + shift:.1f} s")
            self._failures, self._last_s = 0, shot.time_s + shift
            yield replace(shot, time_s=self._last_s, gap=shot.gap or back)
            back = False

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


class _Lead:
    """How far the frames of one connection run ahead of the wall clock.

    Attributes:
        burst_s: Seconds of them that came at once when it was made.
        bursts: Whether they still come so.
    """

    def __init__(self) -> None:
        self.burst_s, self.bursts = 0.0, True
        self._began: float | None = None  # wall clock minus time at the first frame
        self._origin = math.inf  # the same at the promptest
        self._grew = 0.0  # wall clock when the burst was last seen to go on

    def see(self, now: float, time_s: float) -> None:
        """Take a frame that has come just now."""
        if self._began is None:
            self._began, self._grew = now - time_s, now
        lead_s = self._began - (now - time_s)
        self._origin = min(self._origin, now - time_s)
        if self.bursts and lead_s > self.burst_s and lead_s - self.burst_s >= now - self._grew:
            self.burst_s, self._grew = lead_s, now  # at twice the pace of time at least
        elif now - self._grew > _PAUSE_S:
            self.bursts = False

    def expected_s(self, now: float) -> float:
        """Time of the first frame of another connection, if it begins as far in the past as this one did."""
        return now - self._origin - self.burst_s
