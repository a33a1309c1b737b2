"""Dense encoding: every frame passes the whole vision tower.

The yardstick of every encoder that reuses features: no state, nothing skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from headrace.protocols import Backbone, Card, Method
from headrace.types import Frame, ModelSpec, VisualTokens


@dataclass(frozen=True, kw_only=True)
class Dense(Method):
    """Encode every frame in full."""

    card: ClassVar[Card] = Card("dense tower")

    def init(self, spec: ModelSpec) -> None:
        """Nothing to remember."""

    def step(self, state: None, frames: Sequence[Frame], backbone: Backbone) -> tuple[None, VisualTokens]:
        """Run the tower over all patches of all frames."""
        return None, backbone.vision(backbone.pixels(frames), frames)
