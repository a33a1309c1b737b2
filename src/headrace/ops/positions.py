"""Position policies: what a row's position is once tokens were dropped or rows forgotten."""

from __future__ import annotations

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
