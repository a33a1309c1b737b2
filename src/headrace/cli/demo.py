"""``headrace demo``: a stream, questions at several moments, and everything it costs, live."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli import options
from headrace.cli.failing import clean
from headrace.cli.governing import Governing
from headrace.cli.output import Output, step_line
from headrace.cli.standing import Judge

if TYPE_CHECKING:
    from headrace.video.world import Watch, World

LONGEST_S = 3600.0  # its questions are made before it begins


@clean
def demo(
    context: typer.Context,
    *,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the synthetic stream.")] = 7,
    seconds: Annotated[float, typer.Option(help="Length of the stream.")] = 24.0,
    every: Annotated[float, typer.Option(help="Ask every so many seconds, at least 0.5.")] = 4.0,
    per_stop: Annotated[int, typer.Option(min=1, help="Questions each time.")] = 3,
    pipeline: options.PipelineText = "streamingllm:1040",  # 16 frames of nano, as many as it was trained on
    settings: options.Settings = None,
    target_ms: options.TargetMs = None,
    keep_up: options.KeepUp = False,
    model: options.Model = "nano",
    weights: options.WeightsText = "full",
    as_json: options.Json = False,
) -> None:
    """Watch a synthetic stream and answer questions whose true answers are known.

    Example: headrace demo --seed 11 --pipeline recent:4
    """
    from headrace import video
    from headrace.cli.watching import summary, summary_line, watch
    from headrace.engine import load
    from headrace.video.world import TICKS_PER_SECOND, World, matches

    _check(seconds=(seconds, 1.0), every=(every, 0.5))
    out, pace = Output(as_json=as_json, verbosity=context.obj.verbosity), Governing(target_ms, keep_up)
    with video.open(f"world:{seed},seconds={seconds:g}") as source:
        judge = Judge(out, instruction(World(seed), int(seconds * TICKS_PER_SECOND)))
        engine = load(model, weights=weights)
        stream = engine.open(judge.instructions.pipeline(pipeline), settings=settings or ())
        judge.instructions.give(stream)
        out.object("start", source=source.name, model=model, pipeline=str(stream.pipeline))
        out.line(f"headrace watches a synthetic stream of {seconds:g} s ({source.name}) with the model {model}.")
        out.line(f"What runs: {pipeline}. Every line is one second: visual tokens, time per stage, memory held.\n")
        for text in stream.watching.values():
            out.line(f"It was told once, before the first frame: {text}. Lines with ! are what it says by itself.\n")
        right: list[bool] = []

        def answered(ask: Any, answer: Any) -> None:
            right.append(matches(answer.text, ask.truth))
            out.answer(answer, truth=ask.truth, right=right[-1], note=f"   {sum(right)} of {len(right)} right")

        plan, stepped = _plan(seed, seconds, every, per_stop), _telling(out, judge)
        quiet = Output(as_json=as_json, verbosity=-1)
        with pace.of(stream, source, out) as taker:
            result = watch(
                stream, source, plan, quiet, answered=answered, stepped=stepped, through=taker, heard=judge.heard
            )
    totals = summary(stream, result)
    accuracy = sum(right) / len(right) if right else 0.0
    out.object("summary", **totals, asked=len(right), right=sum(right), accuracy=accuracy, **judge.summary())
    if result.frames:
        out.line()
        score = f"{sum(right)} of {len(right)} answers are true ({accuracy:.0%})." if right else "Nothing was asked."
        out.line(score, style="bold")
        if told := judge.line():
            out.line(told, style="bold")
        out.line(summary_line(totals) + ".")
    if result.error is not None:
        raise result.error
    if result.interrupted:
        raise typer.Exit(128 + result.signal)
    if result.frames:
        out.line('Try your own:  headrace ask VIDEO "QUESTION" --model llava-hf/llava-onevision-qwen2-0.5b-ov-hf')


def _check(**given: tuple[float, float]) -> None:
    """Refuse numbers of seconds below their least, or beyond an hour."""
    for name, (value, least) in given.items():
        if not least <= value <= LONGEST_S:
            raise ValueError(f"--{name}: must be {least:g} to {LONGEST_S:.0f} seconds, not {value:g}")


def instruction(world: World, num_ticks: int) -> Watch | None:
    """Choose what the demo watches for: things that appear or cuts, which nano does best, before all else."""
    from headrace.bench.speaking import choose
    from headrace.video.world import ALL_INSTRUCTIONS
    from headrace.video.world.kind import texts

    worthy = choose(world, num_ticks, sum(len(texts(text)) for text in ALL_INSTRUCTIONS))
    return next(iter(sorted(worthy, key=lambda watch: "appears" not in watch.text and "cut" not in watch.text)), None)


def _telling(out: Output, judge: Judge) -> Callable[[Any], None]:
    """What tells a step: all of them to programs, one a second to people."""
    shown = set[int]()

    def stepped(report: Any) -> None:
        judge.passed(report)
        if out.as_json:
            out.report(report)
        elif int(report.time_s) not in shown:
            shown.add(int(report.time_s))
            out.line(step_line(report), style="dim")

    return stepped


def _plan(seed: int, seconds: float, every: float, per_stop: int) -> list[Any]:
    """Choose questions of many kinds, spread over the stream, with their true answers."""
    from headrace.cli.watching import Asking
    from headrace.types import Query
    from headrace.video.world import ALL_KINDS, TICKS_PER_SECOND, World, questions

    shown, kinds, plan = World(seed), list(ALL_KINDS), []
    step = max(1, int(every * TICKS_PER_SECOND))
    for stop, tick in enumerate(range(step - 1, int(seconds * TICKS_PER_SECOND), step)):
        turn = [kinds[(stop * per_stop + i) % len(kinds)] for i in range(len(kinds))]
        for question in questions(shown, tick, kinds=tuple(turn))[:per_stop]:
            plan.append(Asking(Query(question.text), question.time_s, question.answer))
    return plan
