"""What goes wrong with a source, in one line a user can act on."""

from __future__ import annotations

import errno

import av

_CAUSES: tuple[tuple[str, str], ...] = (
    ("ExitError", "nothing arrived before the time-out"),
    ("TimeoutError", "nothing arrived before the time-out"),
    ("ConnectionRefusedError", "the connection was refused"),
    ("ConnectionResetError", "the connection was reset"),
    ("HTTPUnauthorizedError", "the server asks for a user name and password (401)"),
    ("HTTPForbiddenError", "the server forbids it (403)"),
    ("HTTPNotFoundError", "the server has no such page (404)"),
    ("HTTPServerError", "the server failed (5xx)"),
    ("ProtocolNotFoundError", "this kind of address is not supported"),
    ("DecoderNotFoundError", "its codec is not supported"),
    ("DemuxerNotFoundError", "its container is not supported"),
    ("PermissionError", "permission denied"),
    ("InvalidDataError", "its data is not a video, or is damaged"),
    ("EOFError", "its data ends before the first frame"),
)

#: Kinds of exception that say that nobody answers now.
_NO_ANSWER = frozenset({"ConnectionError", "ExitError", "HTTPServerError", "TimeoutError"})


class VideoError(ValueError):
    """A source that cannot be read; the message names it and says what would be right."""


class UnreachableError(VideoError):
    """A source that does not answer; it may later."""


_ABSENT = frozenset({errno.EIO, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})  # EIO: no name


def may_come(problem: BaseException) -> bool:
    """Tell whether what PyAV or the system raised says no more than that nobody answers now."""
    kinds = {kind.__name__ for kind in type(problem).__mro__}
    return bool(kinds & _NO_ANSWER) or getattr(problem, "errno", None) in _ABSENT


def cause(problem: BaseException) -> str:
    """Say in a few plain words why PyAV or the system refused.

    Args:
        problem: The exception that was raised.

    Returns:
        A clause without a full stop, fit to follow a colon.
    """
    names = {kind.__name__ for kind in type(problem).__mro__}
    for name, words in _CAUSES:
        if name in names:
            return words
    if getattr(problem, "errno", None) == errno.EIO:
        return "it cannot be reached or read (input/output error)"
    text = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return str(text).splitlines()[0]


#: What PyAV raises when it reads; ``OSError`` comes from files and pipes underneath it.
READ_ERRORS: tuple[type[Exception], ...] = (av.error.FFmpegError, OSError)

#: Opening also refuses a demuxer this build of FFmpeg lacks, with a plain ValueError.
OPEN_ERRORS: tuple[type[Exception], ...] = (*READ_ERRORS, ValueError)
