"""Bytes from a pipe, handed to PyAV as they come."""

from __future__ import annotations

from typing import BinaryIO


class Piped:
    """The reading half of a binary stream that cannot seek.

    A buffered reader waits until every byte asked for is there, which delays a live pipe; ``read1`` does not.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        """Wrap a stream; it is not closed from here."""
        self.name = name
        self._read = getattr(stream, "read1", stream.read)
        self._ahead = b""

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, and none only at the end."""
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        fresh: bytes = self._read(size)
        return fresh

    def put_back(self, data: bytes) -> None:
        """Have ``data`` read again."""
        self._ahead = data + self._ahead


def can_seek(stream: BinaryIO) -> bool:
    """Tell whether a binary stream can be read from the beginning again."""
    seekable = getattr(stream, "seekable", None)
    return bool(seekable is not None and seekable())
