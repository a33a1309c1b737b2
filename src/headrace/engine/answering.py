"""Answering a question from a snapshot: show what is left to show, ask, decode."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headrace import registry
from headrace.engine.decoding import Chooser, Detokenizer
from headrace.engine.modes import each_in_own_modes
from headrace.engine.pipeline import Pipeline
from headrace.engine.state import StreamState, alias
from headrace.engine.step import Stopwatch, framed, prefill, replay, see
from headrace.protocols import Backbone, Context, Steerable
from headrace.types import Answer, Cursor, ModelSpec, Query, Segment, Span, Token, join


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a question is answered from: what runs, the state at its moment, and a Context on its memory.

    ``frames`` are those it wants brought back, none for what the memory looks up.
    """

    pipeline: Pipeline
    state: StreamState
    context: Context
    frames: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, and what a memory needs to remember it.

    Attributes:
        answer: The answer.
        asked: The question's rows, ids relative.
        span: Everything the Context took in.
        cursor: The cursor behind the answer.
    """

    answer: Answer
    asked: Segment
    span: Span
    cursor: Cursor


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A question that the model has read, and whose answer has not begun.

    Attributes:
        query: The question and how to decode.
        rows: The question's rows, ids relative.
        context: What the answer is decoded on; used up by it.
        cursor: The cursor behind the question.
        logits: (V,) scores of the answer's first token, as the model gives them.
        choose: Chooses the answer's tokens; used up by it.
    """

    query: Query
    rows: Segment
    context: Context
    cursor: Cursor
    logits: Tensor
    choose: Chooser


def check_told(memory: Any, frames: Sequence[int]) -> None:
    """Refuse a question that says which frames it wants, where the memory cannot be told.

    Raises:
        ValueError: So it is.
    """
    if frames and not isinstance(memory, Steerable):
        name = registry.name_of(memory)
        raise ValueError(f"frames: {name} cannot be told what to look up; take a memory such as rekv")


def opened(memory: Any, state: Any, spec: ModelSpec, frames: Sequence[int]) -> Context:
    """Open a memory for a question, which may say which frames it shall bring back.

    Raises:
        ValueError: The memory does not hold one of them, or looks nothing up.
    """
    check_told(memory, frames)
    if frames:
        return memory.read_frames(state, spec, frames)  # type: ignore[no-any-return]
    return memory.read(state, spec, query=True)  # type: ignore[no-any-return]


def answer(backbone: Backbone, query: Query, prompt: Prompt, *, start: float) -> Iterator[Token | Said]:
    """Answer token by token; the last item is what was said. Touches nothing but the prompt's Context.

    Args:
        backbone: The model.
        query: The question and how to decode.
        prompt: What it is answered from; used up by it.
        start: When the question came, on ``time.perf_counter``.
    """

    def parts() -> Iterator[Token | Said]:
        asked = ask(backbone, query, *show_past(backbone, prompt))
        yield from say(backbone, asked, prompt.state, start=start)

    return each_in_own_modes(parts(), backbone.spec.device)


def ask(backbone: Backbone, query: Query, context: Context, cursor: Cursor) -> Asked:
    """Run a question on a Context that has been brought to its moment, up to the answer's first scores."""
    closing, turn = backbone.close_clip(cursor), backbone.turn(query.text, cursor)
    rows = turn if closing is None else join([closing, turn])
    placed, cursor = backbone.place(cursor, rows)
    hidden = backbone.extend(placed, context, outputs=1, watch=query.evidence > 0)
    return Asked(query, rows, context, cursor, backbone.logits(hidden)[-1], _chooser(backbone, query, cursor))


def _chooser(backbone: Backbone, query: Query, cursor: Cursor) -> Chooser:
    """What chooses the tokens of the answer to a question, behind which the cursor stands."""
    given = query.repetition_penalty
    penalty = backbone.spec.repetition_penalty if given is None else given
    return Chooser(query, penalty=penalty, used=cursor.said)


def say(
    backbone: Backbone, asked: Asked, state: StreamState, *, start: float, first: int | None = None
) -> Iterator[Token | Said]:
    """Decode the answer token by token; the last item is what was said.

    Args:
        backbone: The model.
        asked: What is answered.
        state: The stream at the question's moment.
        start: When the question came, on ``time.perf_counter``.
        first: The first token, where it has been chosen already.
    """
    query, context, cursor = asked.query, asked.context, asked.cursor
    choose, text = asked.choose, Detokenizer(backbone.decode, query.stop)
    if first is None:
        token = choose(asked.logits)
    else:
        token = first
        choose.note(token)
    first_token_ms = 1000 * (time.perf_counter() - start)
    ids: list[int] = []
    num_run, finish = 0, "length"
    while True:
        if token in backbone.spec.stop_ids:
            finish = "stop"
            break
        ids.append(token)
        yield Token(token, text.add(token))
        finish = "stop" if text.stopped else finish
        last = text.stopped or len(ids) >= query.max_tokens
        if last and not query.remember:
            break
        row, cursor = backbone.place(cursor, backbone.embed([token], turn=cursor.turn))
        hidden = backbone.extend(row, context, outputs=0 if last else 1)
        num_run += 1
        if last:
            break
        token = choose(backbone.logits(hidden)[-1])
    if rest := text.finish():
        yield Token(-1, rest)
    span = context.finish()
    found = Answer(
        question=query.text,
        text=text.text.strip(),
        tokens=tuple(ids),
        time_s=state.time_s,
        frames_seen=state.num_frames,
        first_token_ms=first_token_ms,
        total_ms=1000 * (time.perf_counter() - start),
        prompt_rows=len(span.segment) - num_run,
        finish=finish,
        evidence=span.attention.moments(query.evidence) if span.attention is not None else (),
    )
    yield Said(found, asked.rows, span, cursor)


def show_past(backbone: Backbone, prompt: Prompt) -> tuple[Context, Cursor]:
    """Bring the Context to the question's moment: a token memory's frames, then frames that wait for their step.

    A memory that digests frames takes in those that wait, on an alias that is then thrown away.

    Returns:
        The Context, and the cursor behind what it was shown.
    """
    pipeline, state, context = prompt.pipeline, prompt.state, prompt.context
    cursor, memory, held, tokens = state.cursor, pipeline.memory, state.memory, None
    if state.pending:
        _, _, sight = see(pipeline, backbone, state, state.pending, Stopwatch(backbone))
        tokens = sight.kept
    if memory.kind == "tokens":
        if tokens is not None:
            held = memory.write(held, Span(segment=backbone.wrap(tokens, cursor), tokens=tokens))
        return context, replay(pipeline, backbone, memory.recall(held), context)
    if tokens is None:
        return context, cursor
    if memory.digests:
        held, cursor, span, _ = prefill(pipeline, backbone, alias(held), cursor, tokens)
        return opened(memory, memory.write(held, span), backbone.spec, prompt.frames), framed(cursor)
    segment, cursor = backbone.place(cursor, memory.carry(backbone.wrap(tokens, cursor)))
    backbone.extend(segment, context, pruner=pipeline.pruner, outputs=0)
    return context, framed(cursor)
