"""``--state``, ``--resume``, ``--checkpoint-every``: the folder that a command's stream is kept in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.cli.output import Output

if TYPE_CHECKING:
    from headrace.engine import SavedStreamError, Stream

INTERRUPTED = "headrace-stream"  # where Ctrl-C saves a stream that has no folder


@dataclass
class Keeping:
    """What was asked for.

    Attributes:
        state: A new folder to keep the stream in, or None.
        resume: The folder to go on with, or None; without ``state`` the stream is kept there.
        every_s: Seconds between saves, None for the usual.
        error: What the last save failed with.

    Raises:
        ValueError: The options do not go together, or ``state`` holds another stream, which would be lost.
    """

    state: Path | None = None
    resume: Path | None = None
    every_s: float | None = None
    error: SavedStreamError | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.every_s is not None and not 0 <= self.every_s < float("inf"):
            raise ValueError(f"--checkpoint-every: must be 0 seconds or more, not {self.every_s:g}")
        if self.every_s is not None and self.home is None:
            raise ValueError("--checkpoint-every: says how often to save, but not where; add --state FOLDER")
        if self.state is not None and self.state != self.resume and _is_held(self.state):
            raise ValueError(
                f"--state: {self.state} holds a stream already; --resume {self.state} goes on with it, or give another"
                " folder"
            )

    @property
    def home(self) -> Path | None:
        """Where the stream is kept."""
        return self.state or self.resume

    @contextmanager
    def of(self, stream: Stream, out: Output) -> Iterator[None]:
        """Keep a stream while a block pushes to it, and save it at the end, unless it has seen nothing.

        A save that fails at the end is kept in ``error``: the questions are still to be answered.

        Raises:
            SavedStreamError: The folder cannot be written to.
        """
        if self.home is None:
            yield
            return
        from headrace.engine.checkpoints import EVERY_S

        every_s = EVERY_S if self.every_s is None else self.every_s
        checkpoints = stream.checkpoint(self.home, every_s=every_s, pipeline=stream.pipeline, noted=out.note)
        try:
            yield
        except Exception:
            self._finish(stream, checkpoints.close)
            raise
        finally:
            checkpoints.wait()
        if self._finish(stream, checkpoints.close):
            out.object("saved", folder=str(self.home), time_s=stream.state.time_s)

    def interrupted(self, stream: Stream, out: Output) -> Path | None:
        """Save a stream that Ctrl-C has stopped and that has no folder; returns where a stream is to be found."""
        if self.home is None:
            folder = next(path for path in _names() if not _is_held(path))
            if not self._finish(stream, lambda: stream.save(folder)):
                return None
            out.object("saved", folder=str(folder), time_s=stream.state.time_s)
            return folder
        return self.home if stream.num_frames and self.error is None else None

    def _finish(self, stream: Stream, save: Callable[[], None]) -> bool:
        from headrace.engine import SavedStreamError

        if not stream.num_frames:
            return False
        try:
            save()
        except SavedStreamError as error:
            self.error = error
        return self.error is None


def _names() -> Iterator[Path]:
    yield Path(INTERRUPTED)
    for number in itertools.count(2):
        yield Path(f"{INTERRUPTED}-{number}")


def _is_held(folder: Path) -> bool:
    from headrace.engine.folder import MANIFEST

    return (folder / MANIFEST).is_file()
