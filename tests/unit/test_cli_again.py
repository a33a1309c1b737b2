"""The command that is printed after Ctrl-C: no option is forgotten, whatever is added to ``ask``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer
from typer.main import get_command

from headrace.cli.again import REPLACED, SAVED, again
from headrace.cli.app import app
from headrace.cli.ask import ask as ask_command
from headrace.cli.watching import Asking
from headrace.types import Query

PROGRAM: Any = get_command(app)
ASK: Any = PROGRAM.commands["ask"]
OPTIONS = [option for option in ASK.params if option.name not in SAVED | REPLACED]

HINTS = get_type_hints(ask_command)


def parse(words: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a command line sets, before and behind the word ``ask``."""
    assert words[0] == "headrace"
    with PROGRAM.make_context("headrace", words[1:], resilient_parsing=False) as outer:
        rest = [*outer._protected_args, *outer.args]
        assert rest[0] == "ask"
        with ASK.make_context("ask", rest[1:], parent=outer) as inner:
            return dict(outer.params), dict(inner.params)


def stopped(words: list[str], left: list[Asking]) -> tuple[tuple[dict, dict], tuple[dict, dict]]:
    """What a stopped command set, and what the one that goes on sets."""
    with PROGRAM.make_context("headrace", words[1:]) as outer:
        rest = [*outer._protected_args, *outer.args]
        with ASK.make_context("ask", rest[1:], parent=outer) as inner:
            return (dict(outer.params), dict(inner.params)), parse(shlex.split(again(inner, left, Path("my folder"))))


def typed(option: Any) -> list[str]:
    """An option as it would be typed, with a value it does not have by default."""
    word = option.opts[0]
    if option.is_flag:
        return [word]
    values = {"int": "77", "float": "0.123456789012", "str": "some 'odd' text", "Path": "some folder"}
    value = next(text for kind, text in values.items() if kind in str(HINTS[option.name]))
    return [word, value, word, value + "5"] if option.multiple else [word, value]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_is_given_again(option: Any) -> None:
    (_, before), (_, after) = stopped(["headrace", "ask", "world:7", *typed(option)], [Asking(Query("what"))])
    assert before[option.name] == after[option.name] != option.get_default(typer.Context(ASK))
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"resume", "questions"}


def test_all_options_at_once_and_those_before_the_command() -> None:
    given = [part for option in OPTIONS for part in typed(option)]
    words = ["headrace", "--threads", "1", "-v", "ask", "world:7", *given]
    (outer, before), (outer_again, after) = stopped(words, [])
    assert outer == outer_again
    assert outer["threads"] == 1
    assert {name: after[name] for name in after if name not in SAVED | REPLACED} == {
        name: before[name] for name in before if name not in SAVED | REPLACED
    }


def test_what_the_saved_stream_knows_is_left_out() -> None:
    saved = ["-p", "recent:2+uniform", "--set", "compressor.keep=3", "--chunk-frames", "2", "--start", "4"]
    _, (_, after) = stopped(["headrace", "ask", "world:7", "--resume", "old", *saved], [Asking(Query("what"))])
    assert str(after["resume"]) == "my folder"
    for name in SAVED:
        (option,) = (option for option in ASK.params if option.name == name)
        assert (after[name] or None) == (option.get_default(typer.Context(ASK)) or None)


@pytest.mark.parametrize(
    "left",
    [
        [("what", 1.5), ("what", 1234567.25)],
        [("what", 3.0), ("who", 3.0)],
        [("what", 1.0), ("who", 2.0), ("what", 3.0)],
        [("what", None), ("-1 or 2?", None)],
    ],
)
def test_what_is_open_is_asked_when_it_would_have_been(left: list[tuple[str, float | None]]) -> None:
    from headrace.cli.ask import _plan

    asks = [Asking(Query(text, evidence=3), at_s) for text, at_s in left]
    _, (_, after) = stopped(["headrace", "ask", "world:7"], asks)
    plan = _plan(list(after["questions"]), list(after["at"] or []), {}, idle=True)
    assert [(asking.query.text, asking.at_s) for asking in plan] == left
