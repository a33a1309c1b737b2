"""Reading in a thread of its own, so that a source that does not wait for us can be dropped from."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from headrace.types import Frame


class LiveQueue:
    """A bounded queue between one reader and one consumer that drops its oldest frame when full.

    Attributes:
        dropped: Frames dropped so far.
    """

    def __init__(self, size: int) -> None:
        """Make room for ``size`` >= 1 frames."""
        self.dropped = 0
        self._frames: deque[Frame] = deque()
        self._size = size
        self._change = threading.Condition()
        self._ended = False
        self._problem: BaseException | None = None

    def put(self, frame: Frame) -> None:
        """Add a frame; when there is no room, the oldest goes and its gap mark passes to the next one."""
        with self._change:
            self._frames.append(frame)
            if len(self._frames) > self._size:
                oldest = self._frames.popleft()
                self.dropped += 1
                if oldest.gap:
                    self._frames[0] = replace(self._frames[0], gap=True)
            self._change.notify_all()

    def end(self, problem: BaseException | None = None, *, discard: bool = False) -> None:
        """Say that no more frames will come; the first call decides.

        Args:
            problem: Raised at the consumer once it has taken the frames that are waiting.
            discard: Throw the waiting frames away.
        """
        with self._change:
            if not self._ended:
                self._ended, self._problem = True, problem
            if discard:
                self._frames.clear()
                self._problem = None
            self._change.notify_all()

    def get(self) -> Frame | None:
        """Wait for the next frame; None at the end.

        Raises:
            BaseException: Whatever ended the reader.
        """
        with self._change:
            while not self._frames and not self._ended:
                self._change.wait()
            if self._frames:
                return self._frames.popleft()
            if self._problem is not None:
                problem, self._problem = self._problem, None
                raise problem
            return None


class LiveThread:
    """A daemon thread that reads frames into a ``LiveQueue``; started by the first ``next``."""

    def __init__(self, frames: Iterator[Frame], close: Callable[[], None], size: int, stop: threading.Event) -> None:
        """Prepare the thread.

        Args:
            frames: What to read; only the thread touches it.
            close: Lets go of the source; called by the thread, or by ``close`` where it never ran.
            size: Room in the queue, in frames.
            stop: Set to make the thread end; whoever waits inside ``frames`` should watch it.
        """
        self._source, self._close, self._stop = frames, close, stop
        self._queue = LiveQueue(size)
        self._thread = threading.Thread(target=self._read, name="headrace-video", daemon=True)

    @property
    def dropped(self) -> int:
        """Frames dropped so far because the consumer was slow."""
        return self._queue.dropped

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        if self._thread.ident is None and not self._stop.is_set():
            self._thread.start()
        frame = self._queue.get()
        if frame is None:
            raise StopIteration
        return frame

    def close(self, patience_s: float = 1.0) -> None:
        """Stop the thread and wait for it.

        Args:
            patience_s: Longest wait in seconds. A thread that is inside a read which cannot be interrupted is left
                behind: it ends by itself, at the latest when its read time-out strikes, and nothing of it is used.
        """
        self._stop.set()
        self._queue.end(discard=True)
        if self._thread.ident is None:
            self._close()
        elif self._thread is not threading.current_thread():
            self._thread.join(patience_s)

    def _read(self) -> None:
        problem: BaseException | None = None
        try:
            for frame in self._source:
                if self._stop.is_set():
                    break
                self._queue.put(frame)
        except BaseException as raised:  # handed to the consumer, who is in another thread
            problem = raised
        finally:
            self._close()
            self._queue.end(problem)
