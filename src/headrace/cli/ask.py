"""``headrace ask``: watch a source and answer questions about it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli import options
from headrace.cli.again import again
from headrace.cli.failing import clean
from headrace.cli.governing import Governing
from headrace.cli.keeping import Keeping
from headrace.cli.output import Output
from headrace.cli.standing import Instructions

FRAMES_PER_SECOND = 2.0  # what streaming video models are trained on; a source with fewer gives all it has


@dataclass(frozen=True)
class Weights:
    """Which model to load and how."""

    model: str
    revision: str | None
    offline: bool
    dtype: str
    device: str
    weights: str


@clean
def ask(
    context: typer.Context,
    *,
    source: options.SourceText,
    questions: Annotated[list[str] | None, typer.Argument(metavar="[QUESTION]...", help="What to ask.")] = None,
    at: options.At = None,
    watch: options.Watch = None,
    fps: options.Fps = None,
    start: options.Start = None,
    end: options.End = None,
    realtime: options.Realtime = False,
    pipeline: options.PipelineText = "dense",
    settings: options.Settings = None,
    chunk_frames: options.ChunkFrames = 1,
    memory_mb: options.MemoryMb = None,
    max_pixels: options.MaxPixels = None,
    prompt: options.Prompt = "trained",
    disk: options.Disk = None,
    disk_mb: options.DiskMb = None,
    target_ms: options.TargetMs = None,
    keep_up: options.KeepUp = False,
    state: options.State = None,
    resume: options.Resume = None,
    checkpoint_every: options.CheckpointEvery = None,
    model: options.Model = "nano",
    revision: options.Revision = None,
    offline: options.Offline = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    weights: options.WeightsText = "full",
    max_tokens: options.MaxTokens = 128,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = 0,
    stop: options.Stop = None,
    frames: options.Frames = None,
    explain: options.Explain = None,
    explain_every: options.ExplainEvery = None,
    explain_most: options.ExplainMost = None,
    as_json: options.Json = False,
) -> None:
    """Watch SOURCE, answer each QUESTION, and speak up when an instruction of --watch comes true.

    Examples:
      headrace ask clip.mp4 "What happens?" --fps 1 --model llava-hf/llava-onevision-qwen2-0.5b-ov-hf

      headrace ask world:7,seconds=20 "how many things are there" --at 8 --at 16 --json

      headrace ask camera:0 --watch "say when there is a cut"

      headrace ask clip.mp4 "What happens?" --pipeline stc --explain out/

      headrace ask camera:0 --watch "say when there is a cut" --state porch, and after a crash --resume porch
    """
    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    decoding: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    decoding |= {"repetition_penalty": repetition_penalty, "stop": tuple(stop or ())}
    decoding["frames"] = options.numbers(frames, "--frames")
    standing = Instructions(tuple(watch or ()), max_tokens)
    pipeline = standing.pipeline(pipeline) if resume is None else pipeline
    running: dict[str, Any] = {"pipeline": pipeline, "settings": settings or (), "chunk_frames": chunk_frames}
    running |= {"memory_mb": memory_mb, "disk": disk, "disk_mb": disk_mb, "max_pixels": max_pixels, "prompt": prompt}
    window = {"fps": _rate(fps, source), "start": start, "end": end, "realtime": realtime}
    loading = Weights(model, revision, offline, dtype, device, weights)
    asks = _plan(questions or [], at or [], decoding, watching=bool(watch))
    drawing = _drawing(out, explain, explain_every, explain_most, goes_on=resume is not None)
    pace, kept = Governing(target_ms, keep_up), Keeping(state, resume, checkpoint_every)
    how: dict[str, Any] = {"explain": drawing, "pace": pace, "standing": standing, "kept": kept, "weights": loading}
    _run(out, context, source, asks, window, running, **how)


def _rate(fps: float | None, source: str) -> float | None:
    """Frames per second to look at: two where nothing is said, all pictures of a folder."""
    from headrace.video.address import local_path, scheme_of

    path = local_path(source) if scheme_of(source) == "file" else Path(source)
    return FRAMES_PER_SECOND if fps is None and not path.is_dir() else fps


def _plan(questions: list[str], at: list[float], decoding: dict[str, Any], *, watching: bool) -> Any:
    """Pair questions with times."""
    from headrace.cli.watching import Asking
    from headrace.types import Query

    if wrong := [second for second in at if not 0 <= second < float("inf")]:
        raise ValueError(f"--at: must be 0 seconds or more, not {wrong[0]:g}")
    if not questions and not watching:
        raise ValueError("ask: there is nothing to do; give a QUESTION, or --watch INSTRUCTION")
    if at and not questions:
        raise ValueError("--at: says when to ask, but there is no QUESTION")
    queries = [Query(question, **decoding) for question in questions]
    if not at:
        return [Asking(query) for query in queries]
    if len(queries) == 1 or len(at) == 1:
        return [Asking(query, second) for second in at for query in queries]
    if len(at) != len(queries):
        raise ValueError(f"--at: {len(at)} times for {len(queries)} questions; give one time, or one per question")
    return [Asking(query, second) for query, second in zip(queries, at, strict=True)]


def _drawing(out: Output, folder: Path | None, every: int | None, most: int | None, *, goes_on: bool) -> Any:
    """Make what draws a stream's frames while it is watched, or None."""
    from headrace.cli.explain import Explainer

    limits = {name: value for name, value in (("every", every), ("most", most)) if value is not None}
    if folder is None:
        if limits:
            raise ValueError(f"--explain-{next(iter(limits))}: goes with --explain FOLDER, which is missing")
        return None
    return functools.partial(Explainer(folder, note=out.note, goes_on=goes_on, **limits).follow, told=out.explained)


def _run(
    out: Output,
    context: typer.Context,
    source: str,
    asks: Any,
    window: dict[str, Any],
    running: dict[str, Any],
    *,
    weights: Weights,
    kept: Keeping,
    explain: Any,
    pace: Governing,
    standing: Instructions,
) -> None:
    from headrace import video
    from headrace.cli.watching import ask as ask_now
    from headrace.cli.watching import summary, summary_line, watch
    from headrace.engine import load
    from headrace.engine.answering import check_told
    from headrace.types import Cursor

    resume = kept.resume
    _check_running(running, resume)
    out.pass_on_notes()
    with contextlib.ExitStack() as stack:
        if resume is None:
            opened = stack.enter_context(video.open(source, **window))
        engine = load(**dataclasses.asdict(weights))
        for asking in asks:
            engine.backbone.turn(asking.query.text, Cursor())
        if resume is None:
            stream = engine.open(**running)
        else:
            stream = engine.resume(resume, **{name: running[name] for name in ("memory_mb", "disk", "disk_mb")})
            if stream.num_frames:
                window |= {"after": stream.state.time_s, "begins": stream.state.began_s}
            opened = stack.enter_context(video.open(source, **window))
        for asking in asks:
            check_told(stream.pipeline.memory, asking.query.frames)
        standing.give(stream)
        out.object("start", source=opened.name, model=engine.backbone.spec.name, pipeline=str(stream.pipeline))
        answered, title = _telling(out), f"{opened.name}   {weights.model}"
        drawn = contextlib.nullcontext() if explain is None else explain(stream, title)
        with kept.of(stream, out), drawn, pace.of(stream, opened, out) as taker:
            result = watch(stream, opened, asks, out, answered=answered, stepped=out.report, through=taker)
        if result.interrupted and (folder := kept.interrupted(stream, out)) is not None:
            out.note(f"stopped at {stream.state.time_s:g} s and saved to {folder}; to go on:")
            out.note(f"  {again(context, result.unasked or ([] if standing.texts else asks), folder)}")
        for asking in result.unasked:
            if asking.at_s is None and (stream.num_frames or not result.interrupted):
                ask_now(stream, asking, answered)
        totals = summary(stream, result)
        out.object("summary", **totals, dropped=opened.dropped, gaps=opened.gaps, interrupted=result.interrupted)
        if totals:
            out.line(summary_line(totals), style="dim")
    if kept.error is not None:
        raise kept.error
    if result.interrupted:
        raise typer.Exit(130)


def _telling(out: Output) -> Callable[[Any, Any], None]:
    """What tells an answer."""
    return lambda _, answer: out.answer(answer)


def _check_running(running: dict[str, Any], resume: Path | None) -> None:
    """Refuse a wrong pipeline before anything is loaded, and any pipeline for a stream that has one."""
    from headrace.engine import Pipeline

    Pipeline.parse(running["pipeline"], running["settings"], chunk_frames=running["chunk_frames"])
    if resume is not None and (running["pipeline"], tuple(running["settings"]), running["chunk_frames"]) != (
        "dense",
        (),
        1,
    ):
        raise ValueError("--resume: goes on with the saved pipeline; leave out --pipeline, --set and --chunk-frames")
    if resume is not None and (running["max_pixels"], running["prompt"]) != (None, "trained"):
        raise ValueError("--resume: goes on as the stream looked at its frames; leave out --max-pixels and --prompt")
