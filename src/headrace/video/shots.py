"""The nouns inside this room: a picture with its time, and whatever produces a run of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One picture of a source before it is known whether anybody wants it.

    Attributes:
        time_s: Presentation time in seconds from the start of the stream.
        image: Makes the uint8 (height, width, 3) RGB tensor; costly, so only called for chosen shots.
        gap: True when pictures are known to be missing before this one.
        stamp_s: Its time in seconds by the sender's clock, where that goes on when the source is opened again.
    """

    time_s: float
    image: Callable[[], Tensor]
    gap: bool = False
    stamp_s: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about a source before its first picture.

    Attributes:
        name: What to call the source in messages; passwords removed.
        fps: Nominal pictures per second, or None.
        duration_s: Length in seconds, or None when endless or unknown.
        num_frames: Number of pictures (an estimate), or None.
        live: True when the pictures do not wait for us.
        begins_s: Time of the first picture in seconds.
        nothing_new: True when all there is was seen earlier.
    """

    name: str
    fps: float | None = None
    duration_s: float | None = None
    num_frames: int | None = None
    live: bool = False
    begins_s: float = 0.0
    nothing_new: bool = False


class Reader(Protocol):
    """Something that was opened and can be read once."""

    @property
    def facts(self) -> Facts:
        """What is known before the first picture."""
        ...

    def shots(self, start_s: float) -> Iterator[Shot]:
        """Yield shots in order of time.

        Args:
            start_s: A hint in seconds: shots before it are not needed, but may come.
        """
        ...

    def close(self) -> None:
        """Let go of the source; harmless when called twice."""
        ...


#: Where a reader says what the user should know; one line each.
Warn = Callable[[str], None]
