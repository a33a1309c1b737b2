"""Speak when asked, never otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headrace.protocols import Card, Method
from headrace.types import Decision, ModelSpec, Observation


@dataclass(frozen=True, kw_only=True)
class OnRequest(Method):
    """Stay silent until the user asks."""

    card: ClassVar[Card] = Card("on request")
    reads_hidden: ClassVar[bool] = False
    reads_reply: ClassVar[bool] = False

    def init(self, spec: ModelSpec) -> None:
        """Nothing to remember."""

    def step(self, state: None, seen: Observation) -> tuple[None, Decision]:
        """Say nothing."""
        return None, Decision()
