"""Position policies: what a row's position is once tokens were dropped or rows forgotten."""

from __future__ import annotations

from collections.abc import Sequence

POLICIES = ("auto", "repack", "original")


def check_policy(positions: str) -> None:
    """Check the name of a policy.

    Raises:
        ValueError: It is not one of ``POLICIES``.
    """
    if positions not in POLICIES:
        raise ValueError(f"positions: {positions!r} is unknown; known: {', '.join(POLICIES)}")


def resolve_policy(positions: str, trained: str) -> str:
    """Turn ``auto`` into the policy the checkpoint was trained with."""
    return trained if positions == "auto" else positions


def close_gaps(
    lows: Sequence[Sequence[int]], highs: Sequence[Sequence[int]], adjacent: Sequence[bool]
) -> list[tuple[int, ...]]:
    """Say how far pieces of a stream move down so that what was left out between them leaves no gap.

    Pieces that follow each other keep their distance. With several axes, frames of one clip share rows and columns and
    differ in time, the first axis: there only time moves, and what comes behind a clip stands behind all of it.

    Args:
        lows: Per piece the least canonical id on every axis.
        highs: Per piece the greatest.
        adjacent: Whether nothing was left out between a piece and the one before it; the first has none.

    Returns:
        Per piece what to subtract on every axis; the first stays where it is.
    """
    shift = (0,) * len(lows[0])
    shifts, top = [shift], max(highs[0])
    for low, high, before, follows in zip(lows[1:], highs[1:], highs, adjacent[1:], strict=False):
        base, even = min(low), len(set(shift)) == 1
        if any(a <= b for a, b in zip(low[1:], before[1:], strict=True)):  # of the same clip
            gap = 0 if follows else max(low[0] - before[0] - 1, 0)
            shift = (shift[0] + gap, *shift[1:])
        elif not (follows and even):
            down = base - top - (max(base - max(before), 1) if follows else 1)
            late = 0 if follows else low[0] - base  # a clip whose first frames were left out begins now
            shift = (down + late, *(down for _ in low[1:]))
        shifts.append(shift)
        top = max(top, *(a - b for a, b in zip(high, shift, strict=True)))
    return shifts
