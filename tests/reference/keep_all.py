"""Naive twin of ``keep_all``."""

from __future__ import annotations

from typing import Any

from headrace.types import VisualTokens

VARIANTS: list[dict[str, Any]] = [{}]
IDENTITY: list[dict[str, Any]] = [{}]
REJECTS: dict[str, list[Any]] = {}
TUNED: dict[str, list[Any]] = {}


def twin(method: Any, steps: list[VisualTokens]) -> list[list[int]]:
    """Indices kept of every step."""
    return [list(range(len(tokens))) for tokens in steps]


def budget(method: Any, num: int) -> int:
    """Most tokens of a frame of ``num`` that may stay."""
    return num
