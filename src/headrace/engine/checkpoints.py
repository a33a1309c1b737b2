"""Save a running stream now and then, beside its pushes."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from weakref import WeakValueDictionary

from headrace.engine.folder import Folder, SavedStreamError, Snapshot

EVERY_S = 60.0
LATEST = 4  # folders of which a stream knows what they hold, beside those that are kept up to date

_log = logging.getLogger("headrace.engine")


class Checkpointer:
    """Keeps a folder up to date with a stream: ``with stream.checkpoint(folder): ...``.

    A snapshot is taken in the thread that pushes, right after a step, and written in a thread of its own; while that
    one is at work no other snapshot is taken. A save that fails is told once, the folder keeps the stream it held, and
    the next one tries again. Leaving the block saves the stream as it then is, unless an interrupt ends it, which may
    come in the middle of a step.

    Args:
        snap: Takes a snapshot of the stream; called by whoever may read its state.
        folder: Where to write.
        every_s: Seconds of wall time from one snapshot to the next, >= 0: what a crash may cost. 0 saves as often as
            the disk allows.
        noted: Takes one line when saving begins to fail, and when it works again; None logs it under
            ``headrace.engine``.
        clock: Time in seconds, any origin; for tests.

    Attributes:
        folder: Where it writes.
        num_saved: Saves that went well.
        stall_ms: Milliseconds for which the last snapshot held the stream.
        write_ms: Milliseconds from the last snapshot to the end of its writing.
        error: What the last save failed with, None when it went well.
        ended: Called once it saves no more.

    Raises:
        ValueError: ``every_s`` is no time.
        SavedStreamError: The folder cannot be written to, or another stream is being saved there.
    """

    def __init__(
        self,
        snap: Callable[[], Snapshot],
        folder: Folder,
        *,
        every_s: float = EVERY_S,
        noted: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= every_s < float("inf"):
            raise ValueError(f"checkpoint every: must be 0 seconds or more, not {every_s:g}")
        folder.hold()
        try:
            folder.check()
        except SavedStreamError:
            folder.let_go()
            raise
        self._snap, self.folder, self._every_s = snap, folder, every_s
        self._noted, self._clock = noted or _log.warning, clock
        self._due = clock() + every_s
        self._writer: threading.Thread | None = None
        self._starting = threading.Lock()  # a save does not begin while one ends all of them
        self._holds = True
        self.ended: Callable[[Checkpointer], None] | None = None
        self.num_saved = 0
        self.stall_ms = self.write_ms = 0.0
        self.error: SavedStreamError | None = None

    def tick(self) -> None:
        """Save if it is time to; the stream calls it after every step, and goes on whatever fails here."""
        try:
            with self._starting:
                now = self._clock()
                if now < self._due or (self._writer is not None and self._writer.is_alive()):
                    return
                self._due = now + self._every_s
                self._begin()
        except Exception as error:  # such as no memory for a copy, or no room for a thread
            self._failed(SavedStreamError(f"{self.folder.path}: the stream cannot be saved ({error})"))

    def _begin(self) -> None:
        """Take a snapshot, and begin to write it."""
        start = time.perf_counter()
        shot = self._snap()
        self.stall_ms = 1000 * (time.perf_counter() - start)
        writer = threading.Thread(target=self._write, args=(shot, start), daemon=True)
        writer.start()
        self._writer = writer

    @property
    def is_closed(self) -> bool:
        """It saves no more."""
        return self._due == float("inf")

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._writer is not None and self._writer is not threading.current_thread():
            self._writer.join()

    def _stop(self) -> None:
        """Begin no other save, and wait until nothing is being written."""
        with self._starting:
            self._due = float("inf")
        self.wait()

    def give_up(self) -> None:
        """End without saving: nothing is written any more, and others may write to the folder."""
        self._stop()
        if self._holds:
            self._holds = False
            self.folder.let_go()
        if self.ended is not None:
            self.ended(self)

    def close(self) -> None:
        """Save the stream as it is; it is not saved again.

        Raises:
            SavedStreamError: It cannot be written.
        """
        self._stop()
        try:
            self.folder.write(self._snap())
        finally:
            self.give_up()
        self.num_saved += 1

    def _write(self, shot: Snapshot, start: float) -> None:
        try:
            self.folder.write(shot)
        except Exception as error:  # whatever it is: the thread ends here, and the stream goes on
            self._failed(error if isinstance(error, SavedStreamError) else SavedStreamError(str(error)))
            return
        if self.error is not None:
            self._noted(f"{self.folder.path}: can be written to again; the stream is saved")
        self.error = None
        self.num_saved += 1
        self.write_ms = 1000 * (time.perf_counter() - start)

    def _failed(self, error: SavedStreamError) -> None:
        """Take note of a save that failed, and tell of the first of them."""
        known, self.error = self.error, error
        if known is None:
            self._noted(f"{error}; the stream goes on, and the next checkpoint will try again")

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and not isinstance(error, Exception):
            self.give_up()
            return
        try:
            self.close()
        except Exception:  # the stream cannot be saved, or is closed; what ended the block goes before
            if error is None:
                raise


class Keeping:
    """The folders one stream is saved to, and the checkpointers that keep some of them up to date.

    A folder is one object however it is spelled, because two would not know what the other is writing.

    Args:
        folder: One that is known already.
    """

    def __init__(self, folder: Folder | None = None) -> None:
        self._folders: WeakValueDictionary[Path, Folder] = WeakValueDictionary()
        self._latest: deque[Folder] = deque(maxlen=LATEST)  # others are known as long as somebody writes to them
        if folder is not None:
            self._folders[folder.path.resolve()] = folder
            self._latest.append(folder)
        self._running: list[Checkpointer] = []
        self._lock = threading.Lock()

    def folder(self, path: str | Path) -> Folder:
        """The folder at a path, made when it is first written to."""
        with self._lock:
            found = self._folders.setdefault(Path(path).resolve(), Folder(Path(path).absolute()))
            if found not in self._latest:
                self._latest.append(found)
            return found

    def begin(self, checkpointer: Checkpointer) -> Checkpointer:
        """Ask a checkpointer after every step from now on, until it is closed or another one has its folder."""
        for other in self._running:
            if other.folder is checkpointer.folder:
                other.give_up()
        checkpointer.ended = self._drop
        self._running = [*(x for x in self._running if not x.is_closed), checkpointer]
        return checkpointer

    def _drop(self, checkpointer: Checkpointer) -> None:
        """Hold on to it no longer: it holds the stream, which else could only be collected with it."""
        self._running = [x for x in self._running if x is not checkpointer]

    def end(self) -> None:
        """Give all up: the stream is closed."""
        for checkpointer in self._running:
            checkpointer.give_up()
        self._running = []

    def tick(self) -> None:
        """Ask all whether it is time to save."""
        for checkpointer in self._running:
            checkpointer.tick()
