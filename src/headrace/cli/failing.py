"""How commands fail: one clear line on stderr and an exit code that is not 0."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import typer

WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EEXIST}  # what only writing fails with


def clean(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what a user can put right into one line and exit code 2; with -v the traceback is shown instead.

    Args:
        command: A command whose first parameter, ``context``, is the typer context.
    """

    @functools.wraps(command)
    def wrapped(context: typer.Context, *args: Any, **kwargs: Any) -> Any:
        try:
            return command(context, *args, **kwargs)
        except BrokenPipeError:
            raise
        except (ValueError, OSError, MemoryError) as error:
            if context.obj.verbosity > 0:
                raise
            fail(error)
        except RuntimeError as error:
            known = ("out of memory", "allocate memory")
            if context.obj.verbosity > 0 or not any(words in str(error) for words in known):
                raise
            fail(error)
        except KeyboardInterrupt:
            typer.echo("headrace: stopped", err=True)
            raise typer.Exit(130) from None

    return wrapped


def fail(error: BaseException) -> None:
    """Print the first line of an error and exit with code 2, also where stderr cannot be written to."""
    lines = (_of_file(error) or str(error)).strip().splitlines() or [type(error).__name__]
    try:
        typer.echo(f"headrace: error: {lines[0]}", err=True)
    except OSError:
        silence()
    raise typer.Exit(2) from None


def let_go() -> None:
    """Silence stdout and stderr where what waits there cannot be written; at its end Python would fail with that."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)


def silence(stream: TextIO | None = None) -> None:
    """Let go of a stream that cannot be written to: what is said from here on, and what still waits, goes nowhere.

    Args:
        stream: Which; default stderr.
    """
    with suppress(OSError, ValueError):
        number = (stream or sys.stderr).fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def stand_in() -> None:
    """Give what is written to stdout and stderr somewhere to go where the command was started without (``>&-``)."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - as long as the program
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


@contextmanager
def writing(stream: TextIO) -> Iterator[None]:
    """Name standard output in what its system says while it is written to; what is written after that goes nowhere."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(stream)
        raise OSError(error.errno, error.strerror, "standard output") from None


def _of_file(error: BaseException) -> str | None:
    """What the system says of a file, the file first; None for another error."""
    if not isinstance(error, OSError) or error.filename is None or error.strerror is None:
        return None
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    done = "written" if error.errno in WRITING else "read or written"
    return f"{name}: cannot be {done} ({error.strerror})"
