"""``headrace bench retrieval``: what a question costs that looks the past up."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli import options
from headrace.cli.failing import clean
from headrace.cli.output import Output, size


@clean
def retrieval(
    context: typer.Context,
    *,
    model_shape: Annotated[str, typer.Option(help="Shape of the random model.")] = "llava-onevision-0.5b",
    pipeline: options.PipelineText = "rekv",
    few: Annotated[int, typer.Option(help="Frames of the short stream.")] = 100,
    many: Annotated[int, typer.Option(help="Frames of the long stream.")] = 2000,
    today: Annotated[
        int, typer.Option(help="Frames encoded and prefilled again with transformers, as people do today; 0: none.")
    ] = 64,
    encoded: Annotated[int, typer.Option(help="Of these, frames timed in the tower; the others at their mean.")] = 4,
    repeats: Annotated[int, typer.Option(help="Questions to each stream.")] = 5,
    ram_blocks: Annotated[int, typer.Option(help="Blocks in memory; the others lie on disk.")] = 200,
    disk: Annotated[Path | None, typer.Option(help="Where those go; default: a temporary folder.")] = None,
    cold: Annotated[
        bool, typer.Option(help="Have the system forget their files before every question, as after a long silence.")
    ] = False,
    dtype: options.Dtype = "bfloat16",
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Ask a short and a long stream in turn, their blocks filled with random keys and values.

    Example: headrace --threads 1 bench retrieval --few 100 --many 2000
    """
    from headrace.bench import retrieval as bench
    from headrace.bench.machine import machine
    from headrace.engine.engine import choose_device, choose_dtype

    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    place = choose_device(device)
    setting = bench.Setting(
        shape=model_shape,
        pipeline=pipeline,
        few=few,
        many=many,
        today=today,
        encoded=min(encoded, today),
        repeats=repeats,
        ram_blocks=ram_blocks,
        cold=cold,
        dtype=str(choose_dtype(dtype, place, model_shape)).removeprefix("torch."),
        device=str(place),
    )
    with tempfile.TemporaryDirectory() as scratch:
        result = bench.retrieval(setting, disk or Path(scratch), tell=out.note)
    out.object("result", **asdict(setting), **result, machine=machine())
    out.line(f"first token after {few} frames    {result['few_ms']:8.0f} ms")
    out.line(f"first token after {many} frames   {result['many_ms']:8.0f} ms   {result['ratio']:.2f} of that")
    if today:
        ms = result["again"]["first_token_ms"]
        out.line(f"transformers, {today} frames again {ms:8.0f} ms   ours is {result['share_of_today']:.4f} of that")
    out.line(f"the long stream: {size(result['memory_bytes'])} in memory, {size(result['disk_bytes'])} on disk")
    out.line(f"read from the disk for one of its questions: {size(result['read_bytes'])}")
    if cold and result["disk_bytes"] and not result["read_bytes"]:
        out.note("the system did not forget the files: is --disk in memory (tmpfs)?")
