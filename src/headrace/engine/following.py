"""What of a source a stream has not seen: how a stream goes on with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from headrace.engine.state import StreamState
from headrace.types import Frame


class Source(Protocol):
    """What can be gone on with, such as a ``VideoSource``: its frames, and what its time means."""

    @property
    def restarts(self) -> bool:
        """True when its time begins anew whenever it is opened."""

    @property
    def fps(self) -> float | None:
        """Frames per second, None when unknown."""

    def __iter__(self) -> Iterator[Frame]:
        """Its frames."""


def unseen(
    source: Source, state: StreamState, frames: Iterable[Frame] | None = None, *, append: bool = False
) -> Iterator[Frame]:
    """Number and time a source's frames so that they follow on what a stream has seen, and leave out what it has seen.

    A source with a beginning keeps its times. The clock of one that begins anew whenever it is opened is moved to a
    frame behind the stream's last one.

    Args:
        source: Where from.
        state: The stream's state before them.
        frames: The source's frames, where they come through something else.
        append: Move the clock of any source so that its first frame comes then: none of it has been seen.
    """
    seen, last_s, index = state.num_frames > 0, state.time_s, max(state.next_index, state.num_frames)
    begins_s = last_s + 1 / (source.fps or 1.0) if seen and (append or source.restarts) else None
    frames = source if frames is None else frames
    if begins_s is not None:
        return _moved(frames, index, begins_s, anew=append)
    return _numbered((frame for frame in frames if not seen or frame.time_s > last_s), index)


def _numbered(frames: Iterable[Frame], index: int) -> Iterator[Frame]:
    return (replace(frame, index=number) for number, frame in enumerate(frames, index))


def _moved(frames: Iterable[Frame], index: int, begins_s: float, *, anew: bool) -> Iterator[Frame]:
    """Frames of another clock, whose 0, or the first of them (``anew``), comes at ``begins_s``."""
    behind_s = None
    for frame in _numbered(frames, index):
        if behind_s is None:
            behind_s = begins_s - (frame.time_s if anew else 0.0)
        yield replace(frame, time_s=frame.time_s + behind_s)
