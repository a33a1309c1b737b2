"""Standing instructions: after every step each is put to the model, and the speaker decides whether it came true."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from headrace import registry
from headrace.engine.answering import Prompt, Said, ask, say, show_past
from headrace.engine.pipeline import Pipeline
from headrace.engine.state import Standing, StreamState
from headrace.engine.step import Stopwatch
from headrace.protocols import Backbone
from headrace.types import Cursor, Event, Observation, Query, Reply, Report, Sight


def stand(pipeline: Pipeline, backbone: Backbone, number: int, text: str, max_tokens: int) -> Standing:
    """Make a standing instruction.

    Raises:
        ValueError: The text is empty or holds control tokens, the longest reply is no number of tokens, or the
            pipeline's speaker takes no instructions.
    """
    if not pipeline.speaker.reads_reply:
        name = registry.name_of(pipeline.speaker)
        raise ValueError(
            f"watch: this pipeline's speaker, {name}, takes no standing instructions; open a stream with +eos_threshold"
        )
    try:
        query = Query(text, max_tokens=max_tokens, evidence=0)
        backbone.turn(query.text, Cursor())
    except ValueError as error:
        why = str(error).removeprefix("question: ").replace("a question", "an instruction")
        raise ValueError(f"watch: {why}") from None
    return Standing(number, text, max_tokens, pipeline.speaker.init(backbone.spec))


def dismiss(watching: Sequence[Standing], number: int) -> tuple[Standing, ...]:
    """Take a standing instruction back.

    Args:
        watching: All of them.
        number: The one that goes.

    Returns:
        The others.

    Raises:
        ValueError: There is none of this number.
    """
    left = tuple(standing for standing in watching if standing.number != number)
    if len(left) == len(watching):
        known = ", ".join(str(standing.number) for standing in watching) or "none"
        raise ValueError(f"unwatch: no standing instruction has the number {number!r}; there are: {known}")
    return left


def listen(
    pipeline: Pipeline, backbone: Backbone, state: StreamState, sight: Sight, report: Report
) -> tuple[StreamState, Report, list[Event]]:
    """Put every standing instruction to the model as if it were asked now; nothing is written down.

    A token memory's frames run once for all instructions; then each has a Context of its own, so that none knows of
    the others.

    Args:
        pipeline: What runs; its speaker reads replies if the state holds an instruction.
        backbone: The model.
        state: The stream after a step.
        sight: What became of the step's frames.
        report: What the step cost so far.

    Returns:
        The state with what the speaker remembers, the report with the time it took, and what came true, in the order
        in which the instructions were given.
    """
    if not state.watching:
        return state, report, []
    watch, events, watching = Stopwatch(backbone), list[Event](), list[Standing]()
    with watch.stage("speak"):
        context = pipeline.memory.read(state.memory, backbone.spec, query=True)
        context, cursor = show_past(backbone, Prompt(pipeline, state, context))
        seen = Observation(report.frames[-1], report.time_s, None, sight.kept)
        for standing in state.watching:
            start = time.perf_counter()
            query = Query(standing.text, max_tokens=standing.max_tokens, evidence=0)
            asked = ask(backbone, query, context.fork(), cursor)
            scores = asked.choose.scores(asked.logits)
            reply = Reply(standing.text, scores, backbone.spec.stop_ids)
            speaker, decision = pipeline.speaker.step(standing.speaker, replace(seen, reply=reply))
            watching.append(replace(standing, speaker=speaker))
            if decision.speak:
                *_, said = say(backbone, asked, state, start=start, first=_first_word(reply))
                assert isinstance(said, Said)
                events.append(Event(report.time_s, decision, said.answer, standing.number))
    spent = report.stage_ms.get("speak", 0.0) + watch.stage_ms["speak"]
    report = replace(report, stage_ms={**report.stage_ms, "speak": spent})
    return replace(state, watching=tuple(watching)), report, events


def _first_word(reply: Reply) -> int:
    """The likeliest token that does not end the reply: who speaks says something."""
    stop = torch.tensor(reply.stop_ids, dtype=torch.int64, device=reply.logits.device)
    return int(reply.logits.index_fill(0, stop, -torch.inf).argmax())
