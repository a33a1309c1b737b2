"""``--state``, ``--resume``, ``--keep``, ``--checkpoint-every``: the folder that a command's stream is kept in."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.cli.output import Output

if TYPE_CHECKING:
    from headrace.engine import SavedStreamError, Stream
    from headrace.video import VideoSource

INTERRUPTED = "headrace-stream"  # where a signal saves a stream that has no folder
SOURCE = "source.json"  # beside the stream: what it was watching last


@dataclass
class Keeping:
    """What was asked for.

    Attributes:
        state: A new folder to keep the stream in, or None.
        resume: The folder to go on with, or None; without ``state`` the stream is kept there.
        every_s: Seconds between saves, None for the usual.
        is_service: ``--keep`` was given: what is said of a new stream is no error for one that goes on.
        error: What the last save failed with.

    Raises:
        ValueError: The options do not go together, or ``state`` holds another stream, which would be lost.
    """

    state: Path | None = None
    resume: Path | None = None
    every_s: float | None = None
    is_service: bool = False
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

    @classmethod
    def of_options(cls, state: Path | None, resume: Path | None, keep: Path | None, every_s: float | None) -> Keeping:
        """Read the options: ``--keep`` is ``--resume`` where the folder holds a stream, and ``--state`` where not.

        Raises:
            ValueError: They do not go together.
        """
        if keep is None:
            return cls(state, resume, every_s)
        if state is not None or resume is not None:
            raise ValueError("--keep: begins a stream or goes on with it; leave out --state and --resume")
        return cls(None, keep, every_s, True) if _is_held(keep) else cls(keep, None, every_s, True)

    @property
    def home(self) -> Path | None:
        """Where the stream is kept."""
        return self.state or self.resume

    @property
    def option(self) -> str:
        """The option that goes on with a stream, as it was typed."""
        return "--keep" if self.is_service else "--resume"

    @contextmanager
    def of(self, stream: Stream, out: Output, source: VideoSource) -> Iterator[None]:
        """Keep a stream while a block pushes to it, and save it at the end, unless it has seen nothing.

        What it watched before is told where that is another source. A save that fails at the end is kept in ``error``:
        the questions are still to be answered.

        Raises:
            SavedStreamError: The folder cannot be written to.
        """
        before = None if self.resume is None else _noted(self.resume).get("source")
        if isinstance(before, str) and before != _name(source.name):
            name, at_s = source.name, stream.state.time_s
            out.note(f"{self.resume} was watching {before}; goes on with {name} at {at_s:g} s")
        if self.home is None:
            yield
            return
        from headrace.engine.checkpoints import EVERY_S

        every_s = EVERY_S if self.every_s is None else self.every_s
        checkpoints = stream.checkpoint(self.home, every_s=every_s, pipeline=stream.pipeline, noted=out.note)
        _write_down(self.home, source)
        try:
            yield
        except Exception:
            self._finish(stream, checkpoints.close)
            raise
        finally:
            checkpoints.wait()
        if self._finish(stream, checkpoints.close):
            out.object("saved", folder=str(self.home), time_s=stream.state.time_s)

    def seen_last(self, source: str, time_s: float) -> str | None:
        """Name of the image that the stream to go on with saw last, at ``time_s`` seconds, of a folder it watched."""
        noted = {} if self.resume is None else _noted(self.resume)
        pictures = noted.get("pictures")
        if noted.get("source") != _name(source) or not isinstance(pictures, dict):
            return None
        return max((name for name in pictures if pictures[name] <= time_s), key=pictures.__getitem__, default=None)

    def interrupted(self, stream: Stream, out: Output, source: VideoSource) -> Path | None:
        """Save a stream that a signal has stopped and that has no folder; returns where a stream is to be found."""
        if self.home is not None:
            return self.found(stream)
        if not stream.num_frames:
            return None
        folder = _claimed()
        if not self._finish(stream, lambda: stream.save(folder)):
            with suppress(OSError):  # where nothing was written
                folder.rmdir()
            return None
        _write_down(folder, source)
        out.object("saved", folder=str(folder), time_s=stream.state.time_s)
        return folder

    def found(self, stream: Stream) -> Path | None:
        """Where the stream is to be found as it now is, or None."""
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


def _claimed() -> Path:
    """Make a folder that nobody has: another command may be stopped at the same moment, and look for one here, too."""
    for number in itertools.count(1):
        folder = Path(INTERRUPTED if number == 1 else f"{INTERRUPTED}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError:  # saving says why it cannot be
            pass
        return folder
    raise AssertionError


def _is_held(folder: Path) -> bool:
    from headrace.engine.folder import MANIFEST

    return (folder / MANIFEST).is_file()


def _name(source: str) -> str:
    """What to call a source in another run, from wherever that is started."""
    return os.path.abspath(source) if os.path.exists(source) else source


def _noted(folder: Path) -> dict[str, Any]:
    """What was written down of what a stream watched; nothing where an earlier version or a program saved it."""
    try:
        found = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_down(folder: Path, source: VideoSource) -> None:
    """Write down what a stream watches, and when each image of a folder comes.

    A disk that is full is no error here: the stream itself tells it.
    """
    noted: dict[str, Any] = {"source": _name(source.name)}
    if os.path.isdir(source.name):
        noted["pictures"] = dict(source.pictures)
    part = folder / f"{SOURCE}.part"
    with suppress(OSError):
        part.write_text(json.dumps(noted) + "\n", encoding="utf-8")
        os.replace(part, folder / SOURCE)
