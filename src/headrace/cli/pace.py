"""Progress of long benches: a line on stderr now and then, with the time that is left."""

from __future__ import annotations

import time

from headrace.cli.output import Output

TELL_S = 15.0  # seconds between two lines


class Pace:
    """Tells how far a bench is.

    Args:
        out: Where to tell.
        total: Steps there will be.
        what: What a step is, such as ``frame``.
        known: Steps after which the time left is told for the first time.
    """

    def __init__(self, out: Output, total: int, *, what: str = "frame", known: int = 20) -> None:
        self._out, self._total, self._what, self._known = out, total, what, min(known, total)
        self._start = self._told = time.monotonic()
        self._count = 0

    def __call__(self, more: str = "") -> None:
        """Count a step; ``more`` stands at the end of a line."""
        self._count += 1
        now = time.monotonic()
        if now - self._told < TELL_S and self._count != self._known:
            return
        self._told = now
        left = (now - self._start) / self._count * (self._total - self._count)
        about = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
        self._out.note(f"{self._what} {self._count} of {self._total}, about {about} left{more}")
