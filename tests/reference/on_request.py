"""Naive twin of ``on_request``: never a word."""

from __future__ import annotations

from typing import Any

from headrace.types import Observation

VARIANTS: list[dict[str, Any]] = [{}]
REJECTS: dict[str, list[Any]] = {}
TUNED: dict[str, list[Any]] = {}


def twin(method: Any, seen: list[Observation]) -> list[tuple[bool, str]]:
    """Whether to speak, and the prompt, after every step."""
    return [(False, "") for _ in seen]
