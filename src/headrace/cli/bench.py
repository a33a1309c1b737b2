"""``headrace bench``: figures anyone can reproduce."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli import attention, budgets, latency, narrow, options, recall, retrieval, soak
from headrace.cli.budgets import drawable
from headrace.cli.failing import clean
from headrace.cli.filling import fill, open_ledger, told_model, told_setting
from headrace.cli.output import Output

DEFAULT_ROWS = (
    "dense,streamingllm:1040,recent:16,recent:4,recent:16+oracle:0.3,recent:16+stc_pruner:0.3,recent:16+uniform:0.3,"
    "recent:16+random:0.3,text-only,majority"
)

app = typer.Typer(no_args_is_help=True, help="Measure the engine.")
app.command("latency")(latency.latency)
app.command("soak")(soak.soak)
app.command("recall")(recall.recall)
app.command("retrieval")(retrieval.retrieval)
app.command("weights")(narrow.weights)
app.command("attention")(attention.attention)
app.command("budgets")(budgets.budgets)


@app.callback()
def common() -> None:
    """Measure the engine."""


@app.command("overhead")
@clean
def overhead(
    context: typer.Context,
    *,
    model_shape: Annotated[str, typer.Option(help="Shape of the random model.")] = "llava-onevision-0.5b",
    frames: Annotated[int, typer.Option(min=4, help="Frames per run.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Runs.")] = 1,
    dtype: options.Dtype = "bfloat16",
    device: options.Device = "auto",
    save: Annotated[Path | None, typer.Option(help="Write the result to this JSON file.")] = None,
    readme: Annotated[Path | None, typer.Option(help="Rebuild the table in this Markdown file.")] = None,
    as_json: options.Json = False,
) -> None:
    """Compare the engine with the bare modules, and own prefill with transformers', frame by frame in one process.

    Example: headrace bench overhead --frames 8 --json
    """
    from headrace.bench import overhead as bench
    from headrace.bench.files import write_whole
    from headrace.bench.machine import machine
    from headrace.bench.table import check_places, replace_between
    from headrace.engine.engine import choose_device, choose_dtype

    check_places(save, readme, "bench:overhead")
    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    place = choose_device(device)
    kind = choose_dtype(dtype, place, model_shape)
    with out.progress(f"{model_shape}, {frames} frames", repeats * frames + 2) as move:
        found = bench.overhead(
            shape=model_shape, frames=frames, repeats=repeats, dtype=kind, device=place, progress=move
        )
    result = {"bench": "overhead", "dtype": str(kind), "device": str(place), **asdict(found), "machine": machine()}
    out.object("result", **result)
    text = _table(result)
    out.line(text)
    if save is not None:
        write_whole(save, json.dumps(result, indent=1) + "\n")
    if readme is not None:
        replace_between(readme, "bench:overhead", text)


@app.command("agreement")
@clean
def agreement(
    context: typer.Context,
    *,
    pipeline: options.PipelineText = "recent:16",
    level: Annotated[str, typer.Option(help="Level of the world.")] = "standard",
    seeds: Annotated[int, typer.Option(min=1, help="Streams.")] = 4,
    seconds: Annotated[float, typer.Option(help="Length of a stream.")] = 60.0,
    every: Annotated[float, typer.Option(help="Seconds between moments of asking.")] = 4.0,
    model: options.Model = "nano",
    device: options.Device = "auto",
    weights: options.WeightsText = "full",
    as_json: options.Json = False,
) -> None:
    """Ask the same questions over exact pixels and over an H.264 file, and count equal answers.

    Example: headrace bench agreement --seeds 2
    """
    from headrace.bench.accuracy import Setting
    from headrace.bench.agreement import agreement as compare
    from headrace.engine import load

    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    setting = Setting(level=level, seconds=seconds, every_s=every)
    engine = load(model, device=device, weights=weights)
    with out.progress("exact pixels beside H.264", seeds * int(seconds * 2)) as move:
        found = compare(engine, pipeline, seeds=seeds, setting=setting, progress=move)
    out.object("agreement", **asdict(found))
    out.line(f"{100 * found.share:.1f} % of {found.num} answers are equal; right on exact pixels {found.right[0]:.3f},")
    out.line(f"on H.264 {found.right[1]:.3f}")
    for kind, share in found.by_kind.items():
        out.line(f"{kind:>14}  {100 * share:.1f} %")


@app.command("accuracy")
@clean
def accuracy(
    context: typer.Context,
    *,
    pipelines: Annotated[
        str,
        typer.Option(
            help="Pipelines with commas between them; NAME@FIELD=VALUE sets a field; also majority, text-only,"
            " oracle:KEEP."
        ),
    ] = DEFAULT_ROWS,
    level: Annotated[str, typer.Option(help="Level of the world.")] = "standard",
    seeds: Annotated[int, typer.Option(min=1, help="Streams.")] = 4,
    seconds: Annotated[float, typer.Option(help="Length of a stream.")] = 60.0,
    every: Annotated[float, typer.Option(help="Seconds between moments of asking.")] = 4.0,
    watches: Annotated[int, typer.Option(min=0, help="Standing instructions per stream.")] = 2,
    exact: Annotated[bool, typer.Option("--exact", help="Watch exact pixels instead of an H.264 file.")] = False,
    kinds: Annotated[str, typer.Option(help="Kinds of question or groups of them, with commas; all by default.")] = "",
    cut_every: Annotated[
        float, typer.Option(help="Seconds after which the stream jumps elsewhere; needs --exact --watches 0.")
    ] = 0.0,
    against: Annotated[str, typer.Option(help="Pipeline to compare the others with, question by question.")] = "",
    model: options.Model = "nano",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    weights: options.WeightsText = "full",
    save: Annotated[Path | None, typer.Option(help="JSON-lines file to keep rows in; a re-run goes on.")] = None,
    readme: Annotated[Path | None, typer.Option(help="Rebuild the table in this Markdown file.")] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Draw accuracy against time per frame into this PNG, SVG or PDF file.", callback=drawable),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure what each pipeline answers right on long synthetic streams, when it speaks up, and what it costs.

    Example: headrace bench accuracy --pipelines dense,recent:4,uniform:0.3 --seeds 2
    """
    from headrace.bench.accuracy import Setting
    from headrace.bench.ledger import summarise
    from headrace.bench.machine import machine
    from headrace.bench.picture import draw
    from headrace.bench.table import check_places, replace_between
    from headrace.engine import load

    check_places(save, readme, "bench:accuracy")
    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    setting = Setting(
        level=level, seconds=seconds, every_s=every, h264=not exact, watches=watches, cut_s=cut_every, kinds=kinds
    )
    names = _names(pipelines, against)
    engine = load(model, dtype=dtype, device=device, weights=weights)
    ledger = open_ledger(save, engine, setting)
    fill(out, ledger, engine, names, seeds=seeds)
    found = summarise(ledger.rows, names, seeds, against=against.strip())
    for result in found:
        out.object("result", **result)
    told = told_model(model, weights, engine.backbone.spec.dtype)
    what = f"{told}, {level} level, {seeds} streams of {seconds:g} s{told_setting(setting)}"
    out.line(text := _accuracy_table(found, what, machine(), against))
    if readme is not None:
        replace_between(readme, "bench:accuracy", text)
    if picture is not None:
        draw(found, picture, title=f"{what}, {found[0]['questions']} questions")


def _names(pipelines: str, against: str) -> list[str]:
    """Every pipeline once, with the one they are compared with."""
    names = list(dict.fromkeys(name.strip() for name in (*pipelines.split(","), against) if name.strip()))
    if not names:
        raise ValueError("--pipelines: names none; give at least one, such as dense")
    return names


def _accuracy_table(found: list[dict[str, Any]], what: str, at: dict[str, Any], against: str) -> str:
    from headrace.bench.machine import hardware
    from headrace.bench.table import table

    rows = []
    for row in found:
        kept = "" if row["retention"] is None else f"{row['retention']:.2f}"
        rows.append(
            [
                f"`{row['pipeline']}`",
                f"{100 * row['accuracy']:.1f} ± {100 * row['ci95']:.1f}",
                *([_gap(row)] if against else []),
                kept,
                "" if row["speak_f1"] is None else f"{100 * row['speak_f1']:.1f}",
                f"{row['tokens_per_frame']:.0f}",
                f"{row['ms_per_frame']:.1f}",
                f"{row['memory_bytes'] / 2**20:.1f}",
            ]
        )
    header = [
        "pipeline",
        "accuracy, % (95 %)",
        *([f"against `{against}`"] if against else []),
        "of dense",
        "speaking up, F1 %",
        "tokens per frame",
        "ms per frame",
        "memory, MiB",
    ]
    questions = found[0]["questions"] if found else 0
    watches = max((row["watches"] for row in found), default=0)
    where = (
        f"`headrace bench accuracy`: {what}, {questions} questions, mean over kinds, F1 over"
        f" {watches} standing instructions; {hardware(at)},"
        f" {at['threads']} threads, torch {at['torch']}, {at['date']}."
    )
    return table(header, rows) + "\n\n" + where


def _gap(row: dict[str, Any]) -> str:
    """Points by which a pipeline differs from the one it is compared with."""
    if row["difference"] is None:
        return ""
    return f"{100 * row['difference']:+.1f} ± {100 * row['difference_ci95']:.1f}"


def _table(result: dict[str, Any]) -> str:
    from headrace.bench.machine import hardware
    from headrace.bench.table import table

    at, dtype = result["machine"], result["dtype"].removeprefix("torch.")
    rows = [
        [
            "engine / bare modules",
            f"{result['engine_ratio']:.3f}",
            f"{result['engine_ms']:.0f} / {result['bare_ms']:.0f}",
        ],
        [
            "own prefill / transformers prefill",
            f"{result['prefill_ratio']:.3f}",
            f"{result['prefill_ms']:.0f} / {result['transformers_ms']:.0f}",
        ],
        ["the same, last quarter of the frames", f"{result['prefill_ratio_last']:.3f}", ""],
    ]
    where = (
        f"`headrace bench overhead`: {result['shape']} (random weights), {result['frames']} frames of"
        f" {result['rows_per_frame']} tokens, runs: {result['repeats']}, {dtype} on {result['device']}"
        f" ({hardware(at)}, {at['threads']} threads), torch {at['torch']}, transformers {at['transformers']},"
        f" {at['date']}."
    )
    return table(["what", "ratio", "ms per frame (median)"], rows) + "\n\n" + where
