"""What a person sees, and what a program reads."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from headrace.cli.failing import silence, writing

if TYPE_CHECKING:
    from headrace.types import Answer, Event, Moment, Report


class _Notes(logging.Handler):
    """Passes on what is said on the way."""

    def __init__(self, out: Output) -> None:
        super().__init__()
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        self._out.note(record.getMessage())


@dataclass
class Output:
    """Writes a command's results: text for people, or one JSON object per line.

    Attributes:
        as_json: Write JSON to stdout and nothing else there.
        verbosity: -1 quiet, 0 normal, 1 one line per step.
    """

    as_json: bool = False
    verbosity: int = 0
    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True, emoji=False))
    errors: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True, emoji=False))

    def __post_init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):  # a redirect may know few characters
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")

    def object(self, event: str, **values: Any) -> None:
        """Write one JSON object, in JSON mode only."""
        if self.as_json:
            with writing(sys.stdout):
                sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
                sys.stdout.flush()

    def line(self, text: str = "", *, style: str | None = None) -> None:
        """Write one line for a person."""
        if not self.as_json:
            self._print(text, style=style, markup=False)

    def _print(self, text: str, **how: Any) -> None:
        with writing(sys.stdout):
            self.console.print(text, **how)

    def note(self, text: str) -> None:
        """Write a remark to stderr; where that cannot be written to, remarks go nowhere and the work goes on."""
        if self.verbosity < 0:
            return
        try:
            self.errors.print(f"headrace: {text}", style="yellow", markup=False)
        except OSError:
            silence()

    def pass_on_notes(self) -> None:
        """Show what sources, disks and models have to say as soon as they say it, here and nowhere else."""
        for room in ("headrace.video", "headrace.cache", "headrace.backbones"):
            log = logging.getLogger(room)
            log.handlers = [handler for handler in log.handlers if not isinstance(handler, _Notes)]
            log.addHandler(_Notes(self))
            log.propagate = False

    def report(self, report: Report) -> None:
        """Write what one step cost."""
        self.object("step", **asdict(report))
        if self.verbosity > 0:
            self.line(step_line(report), style="dim")

    def answer(self, answer: Answer, *, truth: str | None = None, right: bool | None = None, note: str = "") -> None:
        """Write a question and its answer; ``note`` stands behind the mark for people."""
        values = asdict(answer)
        self.object("answer", **values, **({} if truth is None else {"truth": truth, "right": right}))
        if self.as_json:
            return
        mark = "" if right is None else " ✓" if right else " ✗"
        colour = "green" if right is not False else "red"
        self._print(f"  {answer.time_s:7.2f} s  [bold]Q[/bold] {escape(answer.question)}")
        told = "" if truth is None else f"   (truth: {escape(truth)}){mark}{note}"
        self._print(f"             [bold]A[/bold] [{colour}]{escape(answer.text) or '(silence)'}[/{colour}]{told}")
        rests = ", ".join(moment(m) for m in answer.evidence)
        where = f", most attention on {rests}" if rests else ""
        self._print(f"             first token {answer.first_token_ms:.0f} ms{where}", style="dim")

    def event(self, event: Event, *, right: bool | None = None, note: str = "") -> None:
        """Write what a stream said by itself; ``right`` says whether there was reason to, where that is known."""
        if not event.number:
            self.answer(event.answer)
            return
        said = {"instruction": event.instruction, "text": event.answer.text, "score": event.decision.score}
        cost = {name: getattr(event.answer, name) for name in ("tokens", "first_token_ms", "total_ms")}
        known = {} if right is None else {"right": right}
        self.object("spoke", time_s=event.time_s, number=event.number, **said, **cost, **known)
        if self.as_json:
            return
        mark = "" if right is None else " ✓" if right else " ✗"
        colour = "green" if right is not False else "red"
        text = f"[{colour}]{escape(event.answer.text) or '(silence)'}[/{colour}]{mark}"
        self._print(f"  {event.time_s:7.2f} s  [bold]![/bold] {text}   [dim]{escape(note or event.instruction)}[/dim]")

    def explained(self, found: dict[str, Any]) -> None:
        """Say where an explanation is."""
        self.object("explained", **found)
        if found["sheet"] is not None:
            self.line(f"explained {found['pictures']} frames in {found['folder']}; look first at {found['sheet']}")

    @contextmanager
    def progress(self, text: str, total: int | None) -> Iterator[Any]:
        """Show a progress bar while a block runs; yields a function that moves it on by one.

        It is drawn on stdout, or on stderr where only that is a terminal.
        """
        console = self.console if self.console.is_terminal else self.errors
        if self.as_json or self.verbosity != 0 or not console.is_terminal:
            yield lambda: None
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        shown = Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, redirect_stdout=console is self.console
        )
        task = shown.add_task(text, total=total)
        shown.start()
        try:
            yield lambda: shown.advance(task)
        finally:
            with suppress(OSError):  # the terminal may be gone, and what was done is not to be lost for it
                shown.stop()


def step_line(report: Report) -> str:
    """One line on a step: time, tokens, milliseconds per stage, share of the dense tower where known, memory."""
    stages = "  ".join(f"{name} {ms:6.1f} ms" for name, ms in report.stage_ms.items() if name != "speak")
    tokens = f"{report.tokens_in:4d} -> {report.tokens_kept:4d} tokens"
    tower = "" if report.spent is None else f"  tower {100 * report.spent:3.0f} %"
    return f"  {report.time_s:7.2f} s  {tokens}  {stages}{tower}  memory {size(report.memory_bytes)}"


def size(num_bytes: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024 or unit == "GiB":
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    raise AssertionError


def moment(found: Moment) -> str:
    """A frame an answer rests on: its time, its share of attention, and in how many layers it was looked up."""
    looked = "" if found.chosen is None else f", looked up by {found.chosen:.0%} of layers"
    return f"{seconds(found.time_s)} ({found.score:.0%}{looked})"


def seconds(time_s: float) -> str:
    """A time for people, to the hundredth."""
    return f"{time_s:.2f}".rstrip("0").rstrip(".") + " s"
