"""How commands fail: one clear line on stderr and an exit code that is not 0."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer


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
    """Print the first line of an error and exit with code 2."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    typer.echo(f"headrace: error: {lines[0]}", err=True)
    raise typer.Exit(2) from None
