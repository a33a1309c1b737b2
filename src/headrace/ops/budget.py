"""How many tokens a budget allows."""

from __future__ import annotations


def check_keep(keep: int | float) -> None:
    """Check a budget.

    Args:
        keep: An int counts tokens per frame, >= 1; a float is a fraction of the frame's tokens, 0 < keep <= 1.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(keep, bool) or not isinstance(keep, int | float) or (isinstance(keep, int) and keep < 1):
        raise ValueError(f"keep: {keep!r} is no budget; give tokens per frame (60) or a fraction (0.3)")
    if isinstance(keep, float) and not 0 < keep <= 1:
        raise ValueError(f"keep: {keep} is no fraction above 0 and up to 1.0; a whole number counts tokens (60)")


def num_kept(keep: int | float, num: int) -> int:
    """Turn a budget into a number of tokens: at least 1 where there are any, never more than ``num``."""
    wanted = keep if isinstance(keep, int) else round(keep * num)
    return min(max(int(wanted), 1), num)
