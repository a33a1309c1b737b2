"""Pipelines side by side on one stream: a frame is encoded once for all that share an encoder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable

from headrace.bench.rows import Given
from headrace.engine import Engine, Pipeline
from headrace.types import Event, Frame, VisualTokens

Seen = dict[str, tuple[VisualTokens, float]]


class Eyes:
    """The encoders of some pipelines.

    Args:
        engine: The model.
        pipelines: What they belong to.
    """

    def __init__(self, engine: Engine, pipelines: Iterable[Pipeline]) -> None:
        self._backbone = engine.backbone
        if (unit := self._backbone.spec.frames_per_step) > 1:
            raise ValueError(f"model: pipelines share one look at every frame here, and this one takes {unit} at once")
        self._methods = {repr(pipeline.encoder): pipeline.encoder for pipeline in pipelines}
        self._states = {key: method.init(engine.backbone.spec) for key, method in self._methods.items()}

    def see(self, frame: Frame) -> Seen:
        """Encode a frame with each; tokens and milliseconds by encoder."""
        seen: Seen = {}
        for key, method in self._methods.items():
            start = time.perf_counter()
            self._states[key], tokens = method.step(self._states[key], [frame], self._backbone)
            seen[key] = (tokens, 1000 * (time.perf_counter() - start))
        return seen


class Fed:
    """A pipeline's stream that is handed its tokens.

    Args:
        engine: The model.
        pipeline: What runs.
        memory_mb: Most MiB of a memory that would grow without end, None for no limit.

    Attributes:
        stream: The stream; frames go through ``push`` here.
    """

    def __init__(self, engine: Engine, pipeline: Pipeline, *, memory_mb: float | None = None) -> None:
        self._box: dict[int, VisualTokens] = {}
        self._encoder = repr(pipeline.encoder)
        grows = pipeline.memory.bound_bytes(engine.backbone.spec) is None
        given = dataclasses.replace(pipeline, encoder=Given(tokens=self._box))
        self.stream = engine.open(given, memory_mb=memory_mb if grows else None)

    def push(self, frame: Frame, seen: Seen) -> tuple[list[Event], float]:
        """Push a frame whose tokens are known; what the stream says, and the milliseconds its encoding took."""
        tokens, encode_ms = seen[self._encoder]
        self._box.clear()
        self._box[frame.index] = tokens
        return self.stream.push(frame), encode_ms
