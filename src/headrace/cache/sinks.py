"""How many of a stream's first rows are sinks, which no window ever lets go."""

from __future__ import annotations

from headrace.types import Kind, Segment

UNDECIDED = -1  # before the first write


def decide_sinks(known: int, wanted: int | None, segment: Segment) -> int:
    """Decide how many of the first rows become sinks; once decided it stays.

    Args:
        known: What was decided before, ``UNDECIDED`` before the first write.
        wanted: A number of rows, >= 0, or None for the text prefix.
        segment: The T rows of the first write.

    Returns:
        The number of rows.
    """
    if known != UNDECIDED:
        return known
    return int((segment.kind == Kind.PREFIX).sum()) if wanted is None else wanted
