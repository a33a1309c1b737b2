"""The opened source that the rest of headrace iterates over."""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType

from headrace.types import Frame
from headrace.video.errors import VideoError
from headrace.video.live import LiveThread
from headrace.video.pictures import PhotoReader
from headrace.video.sampling import pace, sample, window
from headrace.video.shots import Facts, Reader, Shot

_log = logging.getLogger("headrace.video")
_MAX_FPS = 1_000_000  # times are known to the microsecond


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which frames of a source are wanted, and how fast.

    Attributes:
        fps: Sampling instants per second, or None for every frame.
        start_s: First time wanted in seconds, or None.
        begins_s: From when sampling instants count, in seconds; None: from the first frame.
        end_s: First time not wanted in seconds, or None.
        realtime: Hold frames back until their presentation time.
        queue_frames: Room for frames that wait while the consumer is busy; live sources only.
    """

    fps: float | None = None
    start_s: float | None = None
    begins_s: float | None = None
    end_s: float | None = None
    realtime: bool = False
    queue_frames: int = 16

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps <= _MAX_FPS:
            raise VideoError(f"fps must be a number above 0, and {_MAX_FPS:,} at most, not {self.fps:g}")
        if self.start_s is not None and not 0 <= self.start_s < math.inf:
            raise VideoError(f"start must be 0 seconds or more, not {self.start_s}")
        if self.end_s is not None and not (self.start_s or 0.0) < self.end_s:
            raise VideoError(f"end must be later than start ({self.start_s or 0.0:g} s), not {self.end_s}")
        if self.queue_frames < 1:
            raise VideoError(f"queue_frames must be 1 or more, not {self.queue_frames}")


#: A source may be watched for months: only the latest warnings are kept.
_MAX_NOTES = 200


class Notes:
    """Collects what the user should know, and logs it under ``headrace.video`` as it happens."""

    def __init__(self, stop: threading.Event) -> None:
        """Start empty; once ``stop`` is set nothing more is said."""
        self.lines: list[str] = []
        self._stop = stop

    def __call__(self, line: str) -> None:
        """Add one line."""
        if self._stop.is_set():
            return
        self.lines.append(line)
        del self.lines[:-_MAX_NOTES]
        _log.warning("%s", line)


class VideoSource:
    """Frames of one source, handed out once, in order of time.

    Iterate over it, and close it: it is a context manager, and the end of the iteration closes it too. Frames are
    numbered from 0 as they are handed out. A source that is not live is read by whoever iterates, at their pace,
    and loses nothing. A live one is read by a thread of its own from the first ``next`` on, and drops its oldest
    waiting frames when the consumer is slow.

    Attributes:
        name: What the source is called in messages; without password.
        live: True when frames do not wait: cameras, streams without a length, and everything with ``realtime``.
        restarts: True when its time begins anew whenever it is opened: cameras, and streams without a length.
        fps: Nominal frames per second handed out, or None when unknown.
        duration_s: Length of the whole source in seconds, or None when endless or unknown.
        num_frames: How many frames will be handed out, an estimate for progress bars, or None.
        gaps: Frames handed out so far with ``gap`` set.
        warnings: One line each, in order, the latest 200; also logged under ``headrace.video``.
    """

    def __init__(
        self,
        reader: Reader,
        wanted: Wanted,
        notes: Notes,
        stop: threading.Event,
        clock: Callable[[], float],
        wait: Callable[[float], object],
    ) -> None:
        """Wire up a reader; use ``headrace.video.open`` instead.

        Args:
            reader: An open source.
            wanted: Which frames to take.
            notes: Where the reader's warnings go.
            stop: Set when the source is closed.
            clock: Time in seconds, any origin.
            wait: Waits for seconds, or less when ``stop`` is set.
        """
        facts = reader.facts
        self.name, self.duration_s = facts.name, facts.duration_s
        self.restarts = facts.live
        self.live = facts.live or wanted.realtime
        self.fps = _nominal(facts.fps, wanted.fps)
        self.num_frames = _estimate(facts, wanted, self.fps)
        self.gaps = 0
        self.warnings = notes.lines
        self._reader, self._wanted, self._stop = reader, wanted, stop
        self._count, self._ended = 0, False
        self._reading = threading.Lock()
        shots = window(reader.shots(wanted.start_s or 0.0), wanted.start_s, wanted.end_s)
        shots = sample(shots, wanted.fps, wanted.begins_s)
        if wanted.realtime and not facts.live:
            shots = pace(shots, clock, wait)
        self._frames = _develop(shots)
        self._thread: LiveThread | None = None
        if self.live:
            self._thread = LiveThread(self._frames, reader.close, wanted.queue_frames, stop)
            weakref.finalize(self, stop.set)  # a source that is forgotten instead of closed ends its thread, too

    @property
    def dropped(self) -> int:
        """Frames dropped so far because the consumer of a live source was slow."""
        return 0 if self._thread is None else self._thread.dropped

    @property
    def given_up(self) -> bool:
        """True when a live source was lost and all attempts to get it back have failed; it may not have ended."""
        return bool(getattr(self._reader, "given_up", False))

    @property
    def pictures(self) -> Mapping[str, float]:
        """Of a folder of images, the time of each in seconds by name; else empty."""
        return self._reader.pictures if isinstance(self._reader, PhotoReader) else {}

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        if self._stop.is_set() or self._ended:
            raise StopIteration
        with self._reading:
            frame = next(self._frames if self._thread is None else self._thread, None)
            if frame is None or self._stop.is_set():
                return self._end()
        frame = replace(frame, index=self._count)
        self._count += 1
        self.gaps += frame.gap
        return frame

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading and let go of the source; iteration ends. Harmless when called twice, or from another thread.

        A live source's thread is waited for, for at most a second: one that hangs in a read that PyAV cannot
        interrupt ends by itself when the read time-out strikes.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.close()
        elif self._reading.acquire(timeout=1.0):  # else the reader in the other thread closes it when it comes back
            try:
                self._reader.close()
            finally:
                self._reading.release()

    def _end(self) -> Frame:
        """Finish the iteration: always raises."""
        closed, self._ended = self._stop.is_set(), True
        if self._thread is None:
            self._reader.close()
        if self._count == 0 and not closed and not self._reader.facts.nothing_new:
            raise VideoError(self._why_nothing())
        raise StopIteration

    def _why_nothing(self) -> str:
        start, end = self._wanted.start_s, self._wanted.end_s
        if self.warnings or (start is None and end is None):
            return f"no frame of {self.name} could be read: {self.warnings[-1] if self.warnings else 'it is empty'}"
        length = "" if self.duration_s is None else f" ({self.duration_s:.2f} s by its header)"
        until = f"its end{length}" if end is None else f"end={end:g} s"
        return f"{self.name} has no frame between start={start or 0:g} s and {until}"


def _develop(shots: Iterator[Shot]) -> Iterator[Frame]:
    for index, shot in enumerate(shots):
        yield Frame(index, shot.time_s, shot.image(), shot.gap)


def _nominal(has: float | None, asked: float | None) -> float | None:
    return has if asked is None else asked if has is None else min(has, asked)


def _estimate(facts: Facts, wanted: Wanted, fps: float | None) -> int | None:
    """Estimate how many frames will be handed out."""
    if wanted == replace(wanted, fps=None, start_s=None, end_s=None):
        return facts.num_frames
    last = math.inf if facts.duration_s is None else facts.begins_s + facts.duration_s
    span = min(last, wanted.end_s or math.inf) - max(facts.begins_s, wanted.start_s or 0.0)
    if fps is None or span == math.inf:
        return None
    return max(1, math.ceil(span * fps - 1e-6))
