"""``headrace bench weights``: what int8 weights cost."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from headrace.cli import options
from headrace.cli.failing import clean
from headrace.cli.output import Output


@clean
def weights(
    context: typer.Context,
    *,
    pipeline: options.PipelineText = "recent:16",
    seeds: Annotated[int, typer.Option(min=1, help="Streams.")] = 2,
    seconds: Annotated[float, typer.Option(help="Length of a stream.")] = 60.0,
    every: Annotated[float, typer.Option(help="Seconds between moments of asking.")] = 4.0,
    model: options.Model = "nano",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Ask the same questions of full and of int8 weights, and compare answers, logits and bytes.

    Example: headrace bench weights --seeds 1
    """
    from headrace.bench.accuracy import FIRST_SEED, Setting, frames
    from headrace.bench.agreement import agreement
    from headrace.bench.weights import logits_error, weight_bytes
    from headrace.engine import load
    from headrace.video.world import World

    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    full, narrow = (load(model, dtype=dtype, device=device, weights=form) for form in ("full", "int8"))
    setting = Setting(seconds=seconds, every_s=every)
    with out.progress("full weights beside int8", seeds * int(seconds * 2)) as move:
        found = agreement(full, pipeline, seeds=seeds, setting=setting, other=narrow, progress=move)
    clip = list(frames(World(FIRST_SEED), 16, h264=False))
    error = logits_error(full.backbone, narrow.backbone, clip, "what is there")
    held = [weight_bytes(engine.backbone) for engine in (full, narrow)]
    out.object("weights", **asdict(found), logits=error, bytes=held)
    out.line(f"{100 * found.share:.1f} % of {found.num} answers are equal; right with full weights")
    out.line(f"{found.right[0]:.3f}, with int8 {found.right[1]:.3f}")
    out.line(f"weights {held[0] / 2**20:.1f} MiB, {held[1] / 2**20:.1f} MiB")
    out.line(
        f"logits of one prompt: spread {error['spread']:.2f}, mean error {error['mean']:.4f}, largest"
        f" {error['most']:.3f}, likeliest token the same in {100 * error['same_first']:.1f} % of the rows"
    )
