"""``headrace bench soak``: does anything grow when a stream does not end?"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli import options
from headrace.cli.failing import clean
from headrace.cli.output import Output, size
from headrace.cli.pace import Pace

if TYPE_CHECKING:
    from headrace.bench.soak import Setting, Soaked
    from headrace.engine import Engine

KEEP_EVERY = 500  # frames between two writings of what there is so far


@clean
def soak(
    context: typer.Context,
    *,
    frames: Annotated[int, typer.Option(help="Length of the stream, 50 or more.")] = 20_000,
    pipeline: options.PipelineText = "streamingllm:1040",
    settings: options.Settings = None,
    ask_every: Annotated[int | None, typer.Option(help="Frames between questions; default: at most 50.")] = None,
    disk: options.Disk = None,
    disk_mb: options.DiskMb = None,
    state: Annotated[Path | None, typer.Option(help="Folder to keep the stream in meanwhile.")] = None,
    checkpoint_every: options.CheckpointEvery = None,
    model: options.Model = "nano",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    weights: options.WeightsText = "full",
    save: Annotated[Path | None, typer.Option(help="JSON file for the result; partial ones are written too.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 unless the stream is flat.")] = False,
    as_json: options.Json = False,
) -> None:
    """Watch a stream for long: growth of memory, of the time per frame, and of the time to a first token.

    From frame 2,000 to the end, and frames 2,000 to 3,000 against the last 1,000 (less of each in short runs). Memories
    of blocks keep 2,000 of them. A stream is flat where memory grows by at most 2 % and a frame takes at most 1.1 times
    the processor time. Ctrl-C shows what there is so far.

    Example: headrace --threads 1 bench soak --frames 5000 -p recent:16 --json
    """
    from headrace.bench import soak as bench
    from headrace.bench.files import check_save
    from headrace.engine import load
    from headrace.engine.checkpoints import EVERY_S

    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    out.pass_on_notes()
    check_save(save)
    running, setting = bench.soaked_pipeline(pipeline, settings or ()), _setting(frames, ask_every)
    if checkpoint_every is not None and state is None:
        raise ValueError("--checkpoint-every: goes with --state FOLDER, which is missing")
    engine = load(model, dtype=dtype, device=device, weights=weights)
    pace, soaked = Pace(out, frames), bench.Soaked(setting)
    known = _known(engine, ask_every=setting.ask_every, pipeline=str(running), model=model, weights=weights)

    def result() -> dict[str, Any]:
        shelf = getattr(stream.state.memory, "shelf", None)  # of a memory that keeps blocks
        held = 0 if shelf is None else shelf.disk_bytes()
        return {**known, **soaked.result(disk_bytes=held + bench.folder_bytes(state))}

    def progress() -> None:
        pace(f", {size(soaked.anonymous[-1])} of anonymous memory")
        if save is not None and len(soaked.frame_ms) % KEEP_EVERY == 0:
            _keep(save, result())

    with engine.open(running, disk=disk, disk_mb=disk_mb) as stream:
        every_s = checkpoint_every or EVERY_S
        with nullcontext() if state is None else stream.checkpoint(state, every_s=every_s, noted=out.note):
            try:
                bench.soak(stream, soaked, progress=progress)
            except KeyboardInterrupt:
                out.note(f"stopped at frame {len(soaked.frame_ms)} of {frames}; so far:")
        found = result()
    _keep(save, found)
    out.object("result", **found)
    for line in _lines(soaked, found):
        out.line(line)
    if found["frames"] < frames:
        raise typer.Exit(130)
    if strict and not found["flat"]:
        raise typer.Exit(1)


def _setting(frames: int, ask_every: int | None) -> Setting:
    """What is measured; where nothing is said, at least four questions per stretch, and one every 50 frames."""
    from headrace.bench.soak import Setting

    span = Setting(frames=frames, ask_every=1).span
    return Setting(frames=frames, ask_every=min(50, max(1, span // 4)) if ask_every is None else ask_every)


def _known(engine: Engine, **values: Any) -> dict[str, Any]:
    """What stands in a result before anything is measured."""
    from headrace.bench.machine import machine

    spec = engine.backbone.spec
    place = {"dtype": str(spec.dtype).removeprefix("torch."), "device": str(spec.device)}
    return {"bench": "soak", **values, **place, "machine": machine()}


def _keep(path: Path | None, found: dict[str, Any]) -> None:
    from headrace.bench.files import write_whole

    if path is not None:
        write_whole(path, json.dumps(found) + "\n")


def _lines(soaked: Soaked, found: dict[str, Any]) -> list[str]:
    """The result for people."""
    from headrace.bench.soak import over

    setting = soaked.setting
    if found["rss_growth"] is None:
        return [f"{found['frames']} frames are too few to compare; it takes {setting.warm + 2 * setting.span}"]
    beyond = over(found["rss_growth"], found["frame_cpu_ratio"])
    return [
        f"{found['frames']} frames, compared with frames {setting.warm} to {setting.warm + setting.span}:",
        f"  anonymous memory {100 * found['rss_growth']:+.1f} %, at the end {size(found['anonymous_bytes'])}",
        f"  time per frame x {found['frame_time_ratio']:.3f}, at the end {found['frame_ms']:.1f} ms; in processor time"
        f" x {found['frame_cpu_ratio']:.3f}",
        f"  first token x {found['ttft_ratio']:.3f}, at the end {found['ttft_ms']:.1f} ms; question in processor"
        f" time x {found['ask_cpu_ratio']:.3f}",
        f"  on disk {size(found['disk_bytes'])}",
        "flat" if not beyond else f"not flat: {'; '.join(beyond)}",
    ]
