"""Who writes an answer down into a stream, and who waits until that is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_S = 0.5  # how often a waiting thread looks whether the one it waits for is still there


class Gate:
    """Lets one answer at a time be written down; belongs to whoever iterates that, in whichever thread.

    Args:
        lock: The stream's lock, held by who calls ``pass_through``.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._free = threading.Condition(lock)
        self._owner: threading.Thread | None = None

    def pass_through(self) -> None:
        """Wait until nothing is being written down.

        Raises:
            ValueError: This thread is writing, or the one that was is gone and nobody went on.
        """
        while self._owner is not None:
            if self._owner is threading.current_thread():
                raise ValueError("this stream is writing down an answer; iterate that to its end first")
            if not self._owner.is_alive():
                raise ValueError("this stream is writing down an answer whose thread has ended; iterate or close it")
            self._free.wait(LOOK_S)

    @contextmanager
    def taken(self) -> Iterator[Callable[[], None]]:
        """Keep others out; call what it yields whenever another thread may have gone on."""
        with self._free:
            self.pass_through()
            self._own()
        try:
            yield self._own
        finally:
            with self._free:
                self._owner = None
                self._free.notify_all()

    def _own(self) -> None:
        self._owner = threading.current_thread()
