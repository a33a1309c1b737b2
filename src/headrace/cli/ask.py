"""``headrace ask``: watch a source and answer questions about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli import options
from headrace.cli.failing import clean
from headrace.cli.governing import Governing
from headrace.cli.keeping import Keeping
from headrace.cli.output import Output
from headrace.cli.session import Session, Weights
from headrace.cli.standing import Instructions

FRAMES_PER_SECOND = 2.0  # what streaming video models are trained on; a source with fewer gives all it has


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
    reconnect: options.ReconnectText = None,
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
    keep: options.Keep = None,
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

      headrace ask camera:0 --watch "say when there is a cut" --keep porch
    """
    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    kept = Keeping.of_options(state, resume, keep, checkpoint_every)
    decoding: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    decoding |= {"repetition_penalty": repetition_penalty, "stop": options.endings(stop)}
    decoding["frames"] = options.numbers(frames, "--frames")
    standing = Instructions(tuple(map(options.utf8, watch or ())), max_tokens)
    running: dict[str, Any] = {"pipeline": pipeline, "settings": settings or (), "chunk_frames": chunk_frames}
    running |= {"memory_mb": memory_mb, "disk": disk, "disk_mb": disk_mb, "max_pixels": max_pixels, "prompt": prompt}
    window = {"fps": _rate(fps, source), "start": start, "end": end, "realtime": realtime}
    tries = options.tries(reconnect, endless=bool(watch) or kept.home is not None)
    how: dict[str, Any] = {"window": window, "tries": tries, "running": running, "kept": kept, "standing": standing}
    how["weights"] = Weights(model, revision, offline, dtype, device, weights)
    how["asks"] = _plan(questions or [], at or [], decoding, idle=not watch and kept.resume is None)
    how["explain"] = _drawing(out, explain, explain_every, explain_most, goes_on=kept.resume is not None)
    Session(context=context, out=out, source=source, pace=Governing(target_ms, keep_up), **how).run()


def _rate(fps: float | None, source: str) -> float | None:
    """Frames per second to look at: two where nothing is said, all pictures of a folder."""
    from headrace.video.address import local_path, scheme_of

    path = local_path(source) if scheme_of(source) == "file" else Path(source)
    return FRAMES_PER_SECOND if fps is None and not path.is_dir() else fps


def _plan(questions: list[str], at: list[float], decoding: dict[str, Any], *, idle: bool) -> Any:
    """Pair questions with times; ``idle``: the stream watches for nothing, so that there must be a question."""
    from headrace.cli.watching import Asking
    from headrace.types import Query

    if wrong := [second for second in at if not 0 <= second < float("inf")]:
        raise ValueError(f"--at: must be 0 seconds or more, not {wrong[0]:g}")
    if not questions and idle:
        raise ValueError("ask: there is nothing to do; give a QUESTION, or --watch INSTRUCTION")
    if at and not questions:
        raise ValueError("--at: says when to ask, but there is no QUESTION")
    queries = [Query(options.utf8(question), **decoding) for question in questions]
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
    return Explainer(folder, note=out.note, goes_on=goes_on, **limits)
