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
        append: Move the clock of any source, because none of it has been seen.
    """
    seen, last_s, index = state.num_frames > 0, state.time_s, max(state.next_index, state.num_frames)
    behind_s = last_s + 1 / (source.fps or 1.0) if seen and (append or source.restarts) else 0.0
    return _numbered(source if frames is None else frames, index, behind_s, None if behind_s or not seen else last_s)


def _numbered(frames: Iterable[Frame], index: int, behind_s: float, last_s: float | None) -> Iterator[Frame]:
    for frame in frames:
        if last_s is not None and frame.time_s <= last_s:
            continue
        yield replace(frame, index=index, time_s=frame.time_s + behind_s)
        index += 1
