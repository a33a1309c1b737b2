"""``headrace bench latency``: where the time goes at a real model's size."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli import options
from headrace.cli.failing import clean
from headrace.cli.output import Output

if TYPE_CHECKING:
    from headrace.bench.latency import Setting
    from headrace.bench.record import Record
    from headrace.video import VideoSource

LENGTHS = "16,32,64"
LARGE = ("3b", "4b", "7b", "8b")
LENGTHS_LARGE = "16"  # a model of several billion parameters takes a minute per frame on a small machine
MOST_AT_ONCE = 2  # frames that any tower takes in one step
TELL_S = 15.0  # seconds between two lines of progress


@clean
def latency(
    context: typer.Context,
    *,
    model_shape: Annotated[str, typer.Option(help="Shape of the random model.")] = "llava-onevision-0.5b",
    pipeline: Annotated[
        str,
        typer.Option(
            "--pipeline", "-p", help="What to compare with dense; NAME@FIELD=VALUE sets a field. See: methods."
        ),
    ] = "stc_cacher+stc_pruner:64",
    frames: Annotated[
        str | None,
        typer.Option(
            help="Lengths with commas; the longest is run, the others are its prefixes. Default: 16,32,64; at shapes of"
            " 3B and more 16. Pairs of frames where the tower takes two at once."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs.")] = 5,
    chunk_frames: Annotated[
        int, typer.Option(min=1, help="Frames that are taken in together; a frame of all figures is then such a step.")
    ] = 1,
    source: Annotated[str, typer.Option(help="What to watch.")] = "world:0",
    fps: Annotated[
        float | None, typer.Option(help="Frames per second to look at. Default: 2; of a folder every picture.")
    ] = None,
    dtype: options.Dtype = "bfloat16",
    device: options.Device = "auto",
    save: Annotated[Path | None, typer.Option(help="JSON file for runs and result; a stopped bench goes on.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Measure anew what the file holds.")] = False,
    readme: Annotated[Path | None, typer.Option(help="Rebuild the table in this Markdown file.")] = None,
    as_json: options.Json = False,
) -> None:
    """Compare a pipeline with dense and with transformers, stage by stage, at a real model's size.

    Dense and the pipeline take turns frame by frame in one process and share one copy of random weights.
    Floors are the matrix products of a stage, measured alone.
    Ctrl-C keeps what is done in --save, and the same command goes on; the run it stopped in begins anew.

    Example: headrace --threads 2 bench latency --frames 4,8 --repeats 2 --save runs/latency.json
    """
    from headrace.bench.machine import machine
    from headrace.bench.record import Record, read
    from headrace.bench.table import check_places

    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    check_places(save, readme, "bench:latency")
    setting = _setting(
        shape=model_shape,
        pipeline=pipeline,
        frames=frames,
        source=source,
        fps=fps,
        dtype=dtype,
        device=device,
        chunk_frames=chunk_frames,
    )
    setting = _in_reach(setting, out)
    record = Record(setting, machine()) if restart else read(save, setting, machine())
    try:
        _measure(record, repeats, save, out)
    except KeyboardInterrupt:
        record.write(save)
        for line in _stopped(record, repeats, save):
            out.note(line)
        raise
    _tell(record, readme, out)


def _setting(
    *,
    shape: str,
    pipeline: str,
    frames: str | None,
    source: str,
    fps: float | None,
    dtype: str,
    device: str,
    chunk_frames: int,
) -> Setting:
    """What the options ask for, with what they leave open."""
    import torch

    from headrace.bench.latency import FPS, Setting
    from headrace.bench.names import full_text
    from headrace.engine import Pipeline
    from headrace.engine.engine import choose_device, choose_dtype

    place = choose_device(device)
    every = None if Path(source).is_dir() else FPS
    return Setting(
        shape=shape,
        pipeline=pipeline,
        lengths=_lengths((LENGTHS_LARGE if shape.endswith(LARGE) else LENGTHS) if frames is None else frames),
        source=source,
        dtype=str(choose_dtype(dtype, place, shape)).removeprefix("torch."),
        device=str(place),
        threads=torch.get_num_threads(),
        chunk_frames=chunk_frames,
        fps=every if fps is None else fps,
        text=full_text(Pipeline.parse(pipeline, chunk_frames=chunk_frames)),
        file=_file(Path(source)),
    )


def _tell(record: Record, readme: Path | None, out: Output) -> None:
    """Print what was found, and rebuild the table of a page."""
    from headrace.bench.ratios import lines, page
    from headrace.bench.table import replace_between

    result = record.result()
    assert result is not None
    out.object("result", **asdict(record.setting), **result, machine=record.machine)
    for line in lines(record.setting, result):
        out.line(line)
    if readme is not None:
        replace_between(readme, "bench:latency", page(record.setting, result, record.machine))


def _file(path: Path) -> str:
    """Size and time of a file, by which another one of the same name is told from it; empty for other sources."""
    if not path.is_file():
        return ""
    facts = path.stat()
    return f"{facts.st_size} bytes, {facts.st_mtime_ns} ns"


def _watch(setting: Setting) -> VideoSource:
    """Open what is watched, from its beginning."""
    from headrace import video

    return video.open(setting.source, fps=setting.fps)


def _in_reach(setting: Setting, out: Output) -> Setting:
    """Leave out, before the work, lengths for which a source that ends has too few frames."""
    from headrace.bench.latency import unit_of

    unit, most = unit_of(setting), setting.lengths[-1]
    with _watch(setting) as opened:
        steps = most if opened.live else sum(1 for _ in itertools.islice(opened, most * unit)) // unit
    return _shortened(setting, steps, unit, out)


def _shortened(setting: Setting, steps: int, unit: int, out: Output) -> Setting:
    """Leave out lengths that were not reached, and say so."""
    from headrace.bench.latency import reached

    found = reached(setting, steps, unit)
    if left := [str(length) for length in setting.lengths if length not in found.lengths]:
        out.note(f"{setting.source} ends after {steps * unit} frames: --frames {','.join(left)} cannot be reached")
    return found


def _measure(record: Record, repeats: int, save: Path | None, out: Output) -> None:
    """Run what is missing; the record is written at every length and after every run."""
    from headrace.bench.latency import COUNTED, Bench, Run
    from headrace.bench.machine import machine
    from headrace.bench.space import peak_bytes

    if len(record.runs) >= repeats:
        return
    setting = record.setting
    with _watch(setting) as opened:
        first = list(itertools.islice(opened, max(MOST_AT_ONCE, setting.chunk_frames + 1) * COUNTED))
    bench = Bench(setting, tell=out.note)
    bench.warm_up(first)
    pace = _pace(setting, repeats, len(record.runs), out)
    while len(record.runs) < repeats:
        run = Run()

        def progress(run: Run = run) -> None:
            pace()
            record.saw(run)
            if run.reached in setting.lengths:
                record.write(save)

        with _watch(setting) as opened:
            bench.run(itertools.islice(opened, bench.setting.lengths[-1] * bench.unit), run, progress=progress)
        record.setting = bench.setting = _shortened(bench.setting, run.reached, bench.unit, out)
        record.costs = record.costs or bench.costs(run)
        record.runs, record.unfinished = [*record.runs, run], None
        record.machine = machine()
        record.saw_memory(peak_bytes(bench.device))
        record.write(save)
        out.object("run", number=len(record.runs), of=repeats)


def _pace(setting: Setting, repeats: int, done: int, out: Output) -> Callable[[], None]:
    """Make a function to be called after every frame: it tells now and then, on stderr, how far the bench is."""
    most, start = setting.lengths[-1], time.monotonic()
    total, count, told = (repeats - done) * most, 0, start

    def move() -> None:
        nonlocal count, told
        count += 1
        now = time.monotonic()
        if now - told < TELL_S and count not in (1, total):
            return
        told, each = now, (now - start) / count
        run, frame = divmod(count - 1, most)
        left = each * (total - count)
        out.note(
            f"run {done + run + 1} of {repeats}, frame {frame + 1} of {most}, {each:.1f} s per frame of all contenders,"
            f" about {left / 60:.0f} min left"
            if left >= 90
            else f"run {done + run + 1} of {repeats}, frame {frame + 1} of {most}, about {left:.0f} s left"
        )

    return move


def _stopped(record: Record, repeats: int, save: Path | None) -> list[str]:
    """Say what a stopped bench has, and how it goes on."""
    from headrace.bench.ratios import lines

    result = record.result()
    found = [] if result is None else lines(record.setting, result)
    if save is None:
        return [*found, "stopped, and nothing is kept; with --save FILE the same command would go on"]
    return [*found, f"stopped after {len(record.runs)} of {repeats} runs, kept in {save}; the same command goes on"]


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--frames: {text!r} is no list of whole numbers such as 16,32,64") from None
