"""Bytes from a pipe, handed to PyAV as they come."""

from __future__ import annotations

import io
import select
import threading
from typing import BinaryIO

#: A pipe that is silent is left after so many seconds at most, once its source is closed.
_GLANCE_S = 0.5


class Piped:
    """The reading half of a binary stream that cannot seek.

    A buffered reader waits until every byte asked for is there, which delays a live pipe; ``read1`` does not. Both
    would wait for ever for a writer that is silent, whatever signal comes: Python begins the read again.
    """

    def __init__(self, stream: BinaryIO, name: str, stop: threading.Event) -> None:
        """Wrap a stream; it is not closed from here, and ends when ``stop`` is set."""
        self.name = name
        self._stop, self._number = stop, _number(stream)
        self._read = getattr(stream, "read1", stream.read)
        self._ahead = b""

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, and none only at the end, or when the source was closed."""
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        while self._number is not None and not select.select([self._number], [], [], _GLANCE_S)[0]:
            if self._stop.is_set():
                return b""
        fresh: bytes = self._read(size)
        return fresh

    def put_back(self, data: bytes) -> None:
        """Have ``data`` read again."""
        self._ahead = data + self._ahead


def can_seek(stream: BinaryIO) -> bool:
    """Tell whether a binary stream can be read from the beginning again."""
    seekable = getattr(stream, "seekable", None)
    return bool(seekable is not None and seekable())


def _number(stream: BinaryIO) -> int | None:
    """What the system calls a pipe; None for a stream that may hold data of which the system knows nothing."""
    if not isinstance(getattr(stream, "raw", stream), io.FileIO):
        return None
    try:
        number = stream.fileno()
        select.select([number], [], [], 0)
    except (OSError, ValueError):  # this platform waits for no files, or this one has too high a number
        return None
    return number
