"""Choosing shots by their time: a window, a rate, a pace. Pure functions over an iterator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from headrace.video.shots import Shot

#: Containers round times, the coarsest common one (Matroska) to a millisecond. A shot that comes this much late
#: still counts as on time, so that asking a 30 fps file for 30 fps gives every frame.
SLACK_S = 0.001


def window(shots: Iterable[Shot], start_s: float | None, end_s: float | None) -> Iterator[Shot]:
    """Keep the shots with ``start_s <= time_s < end_s`` and stop reading at the first one past the end.

    Args:
        shots: Shots in order of time.
        start_s: First time wanted, in seconds, or None.
        end_s: First time no longer wanted, in seconds, or None.

    Yields:
        The shots inside the window; a gap before the window is not one inside it.
    """
    for shot in shots:
        if end_s is not None and shot.time_s >= end_s:
            return
        if start_s is None or shot.time_s >= start_s:
            yield shot


def sample(shots: Iterable[Shot], fps: float | None, begins_s: float | None = None) -> Iterator[Shot]:
    """Pick, for every sampling instant, the shot that is on the screen at that instant.

    The instants are ``t_k = t_0 + k / fps``, with ``t_0`` the time of the first shot, or ``begins_s``. The shot on
    the screen at ``t_k`` is the last one with ``time_s <= t_k + slack``, where the slack is 1 ms or a quarter of the
    sampling interval, whichever is less. A shot that is on the screen for several instants comes out once, with its own
    time: nothing is repeated, so asking for more than the source has gives every shot once. The last shot counts as
    on the screen for as long as the one before it (less two slacks: both times may be rounded).

    Args:
        shots: Shots in order of time.
        fps: Instants per second, > 0; None hands every shot through.
        begins_s: From when instants count, where the shots are the rest of what was sampled before; seconds.

    Yields:
        The chosen shots in order. A shot is known to be chosen when the next one arrives. A gap before a shot that
        was not chosen is carried over to the next one that is.
    """
    if fps is None:
        yield from shots
        return
    slack = min(SLACK_S, 0.25 / fps)
    shown: Shot | None = None
    origin, until, instant, waiting, alone = 0.0, 0.0, 0, False, True
    for shot in shots:
        if shown is None:
            origin = shot.time_s if begins_s is None else begins_s
            instant = _first_instant(origin, fps, shot.time_s - slack)
        else:
            upcoming = max(instant, _first_instant(origin, fps, shot.time_s - slack))
            if upcoming > instant and waiting:
                yield shown
                waiting = False
            if waiting and shown.gap:
                shot = replace(shot, gap=True)
            instant = upcoming
            until, alone = 2 * shot.time_s - shown.time_s, False
        shown, waiting = shot, True
    if shown is not None and waiting and (alone or instant == 0 or origin + instant / fps < until - 2 * slack):
        yield shown


def pace(shots: Iterable[Shot], clock: Callable[[], float], wait: Callable[[float], object]) -> Iterator[Shot]:
    """Hold each shot back until its presentation time has come; the first one comes at once.

    Args:
        shots: Shots in order of time.
        clock: Gives the time in seconds; any origin.
        wait: Waits for a number of seconds.

    Yields:
        The same shots. A shot that is late already comes at once, and later ones are not pushed back.
    """
    first: tuple[float, float] | None = None
    for shot in shots:
        if first is None:
            first = (clock(), shot.time_s)
        ahead = first[0] + (shot.time_s - first[1]) - clock()
        if ahead > 0:
            wait(ahead)
        yield shot


def _first_instant(origin: float, fps: float, time_s: float) -> int:
    """Return the smallest k >= 0 with ``origin + k / fps >= time_s``."""
    k = max(0, math.ceil((time_s - origin) * fps))
    while k > 0 and origin + (k - 1) / fps >= time_s:
        k -= 1
    while origin + k / fps < time_s:
        k += 1
    return k
