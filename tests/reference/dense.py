"""Naive twin of ``dense``: every frame alone, every layer of the tower written out, nothing reused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.types import Frame, VisualTokens

VARIANTS: list[dict[str, Any]] = [{}]
IDENTITY: list[dict[str, Any]] = [{}]
REJECTS: dict[str, list[Any]] = {}
TUNED: dict[str, list[Any]] = {}


def twin(method: Any, backbone: Any, steps: Sequence[Sequence[Frame]]) -> list[list[VisualTokens]]:
    """Tokens of every step, as one VisualTokens per group of frames the tower takes at once."""
    answer = []
    for frames in steps:
        step = []
        size = backbone.spec.frames_per_step
        for start in range(0, len(frames), size):
            group = frames[start : start + size]
            h = backbone.patches(backbone.pixels(group))
            tapped = []
            for index, block in enumerate(backbone.blocks()):
                x = block.norm1(h)
                q, v = block.queries_values(x)
                h = h + block.out(block.attend(q, block.keys(x), v))
                h = h + block.mlp(block.norm2(h))
                if index in backbone.spec.taps:
                    tapped.append(h)
            step.append(backbone.project(h, group, tapped))
        answer.append(step)
    return answer
