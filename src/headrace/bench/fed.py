"""Pipelines side by side on one stream: a frame is encoded once for all that share an encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from headrace.bench.rows import Given, Glance
from headrace.engine import Engine, Pipeline
from headrace.engine.state import fork
from headrace.types import Event, Frame, View, VisualTokens

Seen = dict[str, Glance]


class Eyes:
    """The encoders of some pipelines, which all take one step's frames at once: as many as the tower does.

    Args:
        engine: The model.
        pipelines: What they belong to.
    """

    def __init__(self, engine: Engine, pipelines: Iterable[Pipeline]) -> None:
        self._engine, self._backbone = engine, engine.backbone
        self._methods = {repr(pipeline.encoder): pipeline.encoder for pipeline in pipelines}
        self._states: dict[str, Any] = {}
        self._waiting: tuple[Frame, ...] = ()

    def see(self, frame: Frame) -> Seen:
        """Take a frame: what each encoder sees of its step up to it, by encoder; whole steps are worked out at once."""
        if not self._states:  # the first frame fixes the size of all
            self._backbone = self._engine.looking(self._backbone.choose(View(), frame))
            self._states = {key: method.init(self._backbone.spec) for key, method in self._methods.items()}
        frames = (*self._waiting, frame)
        whole = len(frames) == self._backbone.spec.frames_per_step
        self._waiting = () if whole else frames
        seen = {key: Glance(self._looking(key, frames, whole=whole)) for key in self._methods}
        if whole:
            for glance in seen.values():
                glance.tokens()
        return seen

    def _looking(self, key: str, frames: Sequence[Frame], *, whole: bool) -> Callable[[], VisualTokens]:
        """What encodes frames: a whole step moves the encoder's state, a part of one leaves it as it is."""
        state = self._states[key]

        def look() -> VisualTokens:
            tokens: VisualTokens
            after, tokens = self._methods[key].step(state if whole else fork(state), frames, self._backbone)
            if whole:
                self._states[key] = after
            return tokens

        return look


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
        self._box: dict[tuple[int, ...], Glance] = {}
        self._encoder = repr(pipeline.encoder)
        grows = pipeline.memory.bound_bytes(engine.backbone.spec) is None
        given = dataclasses.replace(pipeline, encoder=Given(glances=self._box))
        self.stream = engine.open(given, memory_mb=memory_mb if grows else None)

    def push(self, frame: Frame, seen: Seen) -> tuple[list[Event], float]:
        """Push a frame whose tokens are known; what the stream says, and the milliseconds its encoding took."""
        glance = seen[self._encoder]
        self._box.clear()
        self._box[(*(waiting.index for waiting in self.stream.state.pending), frame.index)] = glance
        return self.stream.push(frame), glance.ms
