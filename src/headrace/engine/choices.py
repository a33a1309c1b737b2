"""What a governor did with the frames of a stream, one by one and in one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Choice:
    """What the governor did with one step, or one skipped frame.

    Attributes:
        frame: Stream index of the (last) frame.
        time_s: Its time.
        setting: ``full``, or the fields that were turned down.
        predicted_ms: What a slow step at this setting was expected to take per frame; None while nothing is known.
        took_ms: What it took per frame, by the clock; None for a skipped frame.
        why: ``look`` (learning at the start), ``stay``, ``over`` (turned down, the last setting would not have fit),
            ``last`` (nothing seems to fit, and the setting that leaves out most had not been seen since), ``room``
            (turned up), ``probe`` (turned up to see whether it fits), ``skip``.
    """

    frame: int
    time_s: float
    setting: str
    predicted_ms: float | None
    took_ms: float | None
    why: str


def summary_line(found: dict[str, Any]) -> str:
    """What ``Governor.summary`` found, for people."""
    parts = [f"{count} frames at {name}" for name, count in found["frames"].items()]
    shown = parts if len(parts) <= 4 else [*parts[:3], f"{sum(list(found['frames'].values())[3:])} at others"]
    shown += [f"{found['skipped']} skipped"] if found["skipped"] else []
    p95 = "" if found["p95_ms"] is None else f"; p95 {found['p95_ms']:.0f} ms of {found['target_ms']:.0f}"
    return f"governor: {', '.join(shown) or 'no frames'}{p95}"
