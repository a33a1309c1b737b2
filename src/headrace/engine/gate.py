"""Who writes an answer down into a stream, and who waits until that is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

LOOK_S = 0.2  # how often a waiting thread looks whether the one it waits for is still there
PATIENCE_S = 2.0  # how long a thread waits that iterated the answer last: in a pool another one may go on with it

T = TypeVar("T")


class Gate:
    """Lets one answer at a time be written down; it belongs to whoever iterates it, in whichever thread.

    Args:
        lock: The stream's lock, held by who calls ``pass_through``.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._free = threading.Condition(lock)
        self._owner: threading.Thread | None = None
        self._inside = False  # the owner is at work, not its caller

    def pass_through(self) -> None:
        """Wait until nothing is being written down.

        Raises:
            ValueError: This thread is writing, or the one that was is gone and nobody went on.
        """
        until = time.monotonic() + PATIENCE_S
        while self._owner is not None:
            if self._owner is threading.current_thread() and (self._inside or time.monotonic() > until):
                raise ValueError("this stream is writing down an answer; iterate that to its end first")
            if not self._owner.is_alive():
                raise ValueError("this stream is writing down an answer whose thread has ended; iterate or close it")
            self._free.wait(LOOK_S)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Keep others out."""
        with self._free:
            self.pass_through()
            self._own()
        try:
            yield
        finally:
            with self._free:
                self._owner = None
                self._free.notify_all()

    def handed_out(self, parts: Iterable[T]) -> Iterator[T]:
        """Hand out the parts of what is being written down, to whichever thread asks for the next one."""
        for part in parts:
            self._inside = False
            yield part
            self._own()

    def _own(self) -> None:
        self._owner, self._inside = threading.current_thread(), True
