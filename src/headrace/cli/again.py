"""The command that goes on with a stream that was stopped."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from headrace.cli.watching import Asking

# what the saved stream knows, where it stands among it
SAVED = frozenset({"pipeline", "settings", "chunk_frames", "start", "max_pixels", "prompt"})
REPLACED = frozenset({"source", "questions", "at", "resume", "state", "keep"})


def again(context: typer.Context, left: Sequence[Asking], folder: Path, *, secret: bool = True) -> str:
    """Write the command that goes on, with every option that was given and is not part of the saved stream.

    Args:
        context: The command that was stopped.
        left: Questions that are still to be asked.
        folder: Where the stream was saved.
        secret: Write an address with its user name and password; else with ``USER:PASSWORD`` in their place.
    """
    texts = [asking.query.text for asking in left]
    texts = texts if len(set(texts)) > 1 else texts[:1]
    source = context.params["source"]
    words = [source if secret else _hidden(source), *texts]
    options = [part for asking in left if asking.at_s is not None for part in ("--at", _text(asking.at_s))]
    options += ["--resume", str(folder), *_given(context, SAVED | REPLACED)]
    before = [] if context.parent is None else _given(context.parent, frozenset())
    if any(word.startswith("-") and word != "-" for word in words):
        return shlex.join(["headrace", *before, "ask", *options, "--", *words])
    return shlex.join(["headrace", *before, "ask", *words, *options])


def _hidden(source: str) -> str:
    """An address with names in the place of its user and password."""
    return re.sub(r"(?<=://)[^/?#]*@", lambda found: "USER:PASSWORD@" if ":" in found[0] else "USER@", source, count=1)


def _given(context: typer.Context | Any, without: frozenset[str]) -> list[str]:
    """The options of a command that are not what they are by default, as words of a command line."""
    found: list[str] = []
    for option in context.command.params:
        name = str(option.name)
        value = context.params.get(name)
        if name in without or value in (None, ()) or value == option.get_default(context):
            continue
        word = max(option.opts, key=len)
        if isinstance(value, bool):
            found += [word] if value else []
        else:
            found += [
                part for one in (value if isinstance(value, list | tuple) else [value]) for part in (word, _text(one))
            ]
    return found


def _text(value: Any) -> str:
    """A value as it is typed; numbers without loss."""
    return f"{value:.15g}" if isinstance(value, float) else str(value)
