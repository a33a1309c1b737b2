"""One run of ``headrace ask``: open, watch, answer, keep, and say how to go on."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from headrace.cli.again import again
from headrace.cli.failing import let_go
from headrace.cli.governing import Governing
from headrace.cli.keeping import Keeping
from headrace.cli.output import Output
from headrace.cli.standing import Instructions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.cli.explain import Explainer
    from headrace.cli.watching import Asking, Watched
    from headrace.engine import Engine, Stream
    from headrace.video import Reconnect, VideoSource


@dataclass(frozen=True)
class Weights:
    """Which model to load and how."""

    model: str
    revision: str | None
    offline: bool
    dtype: str
    device: str
    weights: str

    def __post_init__(self) -> None:
        if self.revision is not None and (self.model == "nano" or Path(self.model).is_dir()):
            what = "is embedded" if self.model == "nano" else "is a folder"
            raise ValueError(
                f"--revision: names a version of a model on the hub, but {self.model} {what}; leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class Session:
    """What was asked for.

    Attributes:
        context: The command.
        out: Where to write.
        source: What to watch, as it was typed.
        asks: Questions with their times.
        window: Which frames of the source, as ``video.open`` takes it.
        tries: Attempts in a row to get a lost live source back, None for ever.
        running: What to run on them, as ``Engine.open`` takes it.
        weights: The model.
        kept: Where the stream is kept.
        explain: Draws its frames, or None.
        pace: Governs it.
        standing: What to watch for.
    """

    context: typer.Context
    out: Output
    source: str
    asks: Sequence[Asking]
    window: dict[str, Any]
    tries: int | None
    running: dict[str, Any]
    weights: Weights
    kept: Keeping
    explain: Explainer | None
    pace: Governing
    standing: Instructions

    def run(self) -> None:
        """Watch the source, answer what is asked, keep the stream.

        What ends it early, a signal or a failure, loses nothing that was seen: the stream is saved where it has a
        folder, and what can be asked is asked.

        Raises:
            ValueError: Something is wrong with an option, the source, the model or a folder; or OSError and the like.
            typer.Exit: A signal ended it; the code is 128 and its number.
        """
        from headrace.cli.watching import watch
        from headrace.engine import load
        from headrace.engine.answering import check_told
        from headrace.types import Cursor

        self._check_running()
        self.out.pass_on_notes()
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(self._open(None)) if self.kept.resume is None else None
            engine = load(**dataclasses.asdict(self.weights))
            for asking in self.asks:
                engine.backbone.turn(asking.query.text, Cursor())
            stream = self._stream(engine)
            for asking in self.asks:
                check_told(stream.pipeline.memory, asking.query.frames)
            self.standing.give(stream)
            if not self.asks and not stream.watching:
                has = f"and the stream of {self.kept.resume} watches for nothing"
                raise ValueError(f"ask: there is nothing to do, {has}; give a QUESTION, or --watch INSTRUCTION")
            opened = opened or stack.enter_context(self._open(stream))
            name = "nano" if self.weights.model == "nano" else engine.backbone.spec.name
            self.out.object("start", source=opened.name, model=name, pipeline=str(stream.pipeline))
            drawn: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
            if self.explain is not None:
                title = f"{opened.name}   {self.weights.model}"
                drawn = self.explain.follow(stream, title, told=self.out.explained)
            with self.kept.of(stream, self.out, opened), drawn, self.pace.of(stream, opened, self.out) as taker:
                result = watch(
                    *(stream, opened, self.asks, self.out), answered=self._told, stepped=self.out.report, through=taker
                )
            with contextlib.suppress(*((OSError,) if result.hung_up else ())):  # nobody may be there to read it
                self._finish(stream, opened, result)
            if result.hung_up:
                let_go()
        self._fail(stream, result, opened)

    def _open(self, stream: Stream | None) -> VideoSource:
        """Open the source, where a stream goes on behind what it has seen."""
        from headrace import video
        from headrace.video.address import local_path, scheme_of

        window, after_s = dict(self.window), 0.0
        if stream is not None and stream.num_frames:
            after_s = stream.state.time_s
            window |= {"after": after_s, "begins": stream.state.began_s}
            path = local_path(self.source) if scheme_of(self.source) == "file" else self.source
            window |= {"behind": self.kept.seen_last(str(path), after_s)}
            window |= {"start": None} if self.kept.is_service else {}
        try:
            return video.open(self.source, reconnect=self._reconnect, **window)
        except video.VideoError as error:
            raise (error if window["start"] is not None or not after_s else self._worded(error, after_s)) from None

    @property
    def _reconnect(self) -> Reconnect:
        """How hard to try: for a camera that is not there yet only where that was asked for, or nobody looks on."""
        from headrace.video import Reconnect

        asked = self.tries is None or self.context.params.get("reconnect") is not None
        return Reconnect(tries=self.tries, at_first=asked)

    def _worded(self, error: Exception, after_s: float) -> Exception:
        """The same error, in the words of the command line where it speaks of a start that nobody gave."""
        from headrace.video import VideoError

        told = (f"start={after_s:g} s", f"start ({after_s:g} s)")
        if not isinstance(error, VideoError) or not any(words in str(error) for words in told):
            return error
        seen, end = f"the stream has seen up to {after_s:g} s", self.window["end"]
        if end is not None and end <= after_s:
            return VideoError(f"--end {end:g}: {seen}")
        return VideoError(f"{self.kept.option}: {seen}, {self._name} ends before that")

    @property
    def _name(self) -> str:
        """The source without user name and password."""
        from headrace.video.address import without_password

        return without_password(self.source)

    def _stream(self, engine: Engine) -> Stream:
        """Begin a stream, or go on with a saved one."""
        running = self.running
        if self.kept.resume is None:
            text = self.standing.pipeline(running["pipeline"])
            return engine.open(**{**running, "pipeline": text})
        stream = engine.resume(self.kept.resume, **{name: running[name] for name in ("memory_mb", "disk", "disk_mb")})
        if self.kept.is_service and _differs(stream, self.standing, running):
            self.out.note(f"--keep: {self.kept.resume} goes on as it was begun, with {stream.pipeline}")
        return stream

    def _told(self, _: Asking, answer: Any) -> None:
        """Tell an answer."""
        self.out.answer(answer)

    def _finish(self, stream: Stream, opened: VideoSource, result: Watched) -> None:
        """Say how to go on, ask what is left, sum up."""
        from headrace.cli.watching import summary, summary_line

        out, folder = self.out, None
        if result.interrupted:
            folder = self.kept.interrupted(stream, out, opened)
        elif result.error is not None or opened.given_up:
            folder = self.kept.found(stream)
        if folder is not None:
            left = result.unasked or ([] if self.standing.texts else self.asks)
            out.note(f"stopped at {stream.state.time_s:g} s and saved to {folder}; to go on:")
            out.note(f"  {again(self.context, left, folder, secret=sys.stderr.isatty())}")
        elif not (result.frames or result.interrupted or self.kept.resume is None or result.error is not None):
            end, seen = self.window["end"], stream.state.time_s
            ends = f"{opened.name} ends at {seen:g} s" if end is None else f"the stream has seen up to {seen:g} s"
            out.note(f"nothing new: {ends}")
        self._ask_rest(stream, result, lost=folder is None and not result.interrupted)
        totals = summary(stream, result)
        ended = {"interrupted": result.interrupted, "given_up": opened.given_up}
        out.object("summary", **totals, dropped=opened.dropped, gaps=opened.gaps, **ended)
        if result.frames:
            out.line(summary_line(totals), style="dim")

    def _ask_rest(self, stream: Stream, result: Watched, *, lost: bool) -> None:
        """Ask what has no time; and what has, where the stream ends here and cannot be gone on with.

        After a failure a question may fail for the same reason; the others are asked all the same.
        """
        from headrace.cli.watching import FAILURES, ask

        for asking in result.unasked:
            if (asking.at_s is not None and not lost) or (result.interrupted and not stream.num_frames):
                continue
            if asking.at_s is not None:
                self.out.note(f"--at {asking.at_s:g}: the stream stopped at {stream.state.time_s:g} s; asked there")
            try:
                ask(stream, asking, self._told)
            except FAILURES as error:
                if result.error is None or isinstance(error, BrokenPipeError):
                    raise
                self.out.note(f"{asking.query.text!r} could not be asked ({error})")

    def _fail(self, stream: Stream, result: Watched, opened: VideoSource) -> None:
        """Raise what went wrong, the rest of it told before; or exit as the signal says that ended it."""
        broken = None if result.hung_up and isinstance(result.error, OSError) else result.error
        if broken is not None and not result.frames and self.window["start"] is None:  # it may be of the first frame
            broken = self._worded(broken, stream.state.time_s)
        drawing = None if self.explain is None else self.explain.error
        errors = [error for error in (broken, self.kept.error, drawing) if error is not None]
        if opened.given_up:
            more = "" if self.tries is None else "; --reconnect forever goes on trying"
            errors.append(ValueError(f"{opened.name} was lost and given up after {self.tries} tries{more}"))
        for error in errors[1:]:
            self.out.note(str(error))
        if errors:
            raise errors[0]
        if result.interrupted:
            raise typer.Exit(128 + result.signal)

    def _check_running(self) -> None:
        """Refuse a wrong pipeline before anything is loaded, and any pipeline for a stream that has one."""
        from headrace.engine import Pipeline

        running, text = self.running, self.standing.pipeline(self.running["pipeline"])
        Pipeline.parse(text, running["settings"], chunk_frames=running["chunk_frames"])
        if self.kept.resume is None or self.kept.is_service:
            return
        if (running["pipeline"], tuple(running["settings"]), running["chunk_frames"]) != ("dense", (), 1):
            raise ValueError(
                "--resume: goes on with the saved pipeline; leave out --pipeline, --set and --chunk-frames"
            )
        if (running["max_pixels"], running["prompt"]) != (None, "trained"):
            raise ValueError(
                "--resume: goes on as the stream looked at its frames; leave out --max-pixels and --prompt"
            )


def _differs(stream: Stream, standing: Instructions, running: dict[str, Any]) -> bool:
    """True when a new stream would not be what a saved one is, as far as options were given that say so."""
    from headrace.engine import Pipeline
    from headrace.types import View

    view, asked = stream.state.view or View(), (running["max_pixels"], running["prompt"])
    if asked not in ((None, "trained"), (view.max_pixels, view.prompt)):
        return True
    text, settings, chunk_frames = running["pipeline"], tuple(running["settings"]), running["chunk_frames"]
    if (text, settings, chunk_frames) == ("dense", (), 1):
        return False
    return Pipeline.parse(standing.pipeline(text), settings, chunk_frames=chunk_frames) != stream.pipeline
