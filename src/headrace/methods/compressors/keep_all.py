"""No compression: every visual token enters the decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from headrace.protocols import Card, Method
from headrace.types import Keep, ModelSpec, VisualTokens


@dataclass(frozen=True, kw_only=True)
class KeepAll(Method):
    """Keep every token."""

    card: ClassVar[Card] = Card("no compression")

    def init(self, spec: ModelSpec) -> None:
        """Nothing to remember."""

    def step(self, state: None, tokens: VisualTokens) -> tuple[None, Keep]:
        """Keep all N tokens."""
        return None, Keep(torch.arange(len(tokens)))
