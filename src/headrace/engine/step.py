"""One step of a stream: frames in, state out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace import registry
from headrace.cache import Disk
from headrace.engine.pipeline import Pipeline
from headrace.engine.state import StreamState, alias
from headrace.protocols import Backbone, Context, Tiered
from headrace.types import (
    Cursor,
    Decision,
    Edit,
    Frame,
    Keep,
    Kind,
    Merge,
    ModelSpec,
    Observation,
    Placed,
    Replace,
    Report,
    Segment,
    Sight,
    Span,
    VisualTokens,
)


class MemoryBudgetError(ValueError):
    """The stream's past would outgrow its budget; nothing was lost, and questions still work."""


def wait(device: torch.device) -> None:
    """Wait until an accelerator has done what this thread gave it.

    Not for the whole device, which must not be waited for while another thread records a graph.
    """
    if device.type != "cpu":
        torch.accelerator.current_stream(device).synchronize()


class Stopwatch:
    """Milliseconds per named stage."""

    def __init__(self, backbone: Backbone) -> None:
        self.stage_ms: dict[str, float] = {}
        self._device = backbone.spec.device

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block of code to a stage; waits for the device so that work is counted where it is."""
        start = time.perf_counter()
        yield
        wait(self._device)
        self.stage_ms[name] = self.stage_ms.get(name, 0.0) + 1000 * (time.perf_counter() - start)


def apply(edit: Edit, tokens: VisualTokens) -> VisualTokens:
    """Apply a compressor's edit to the tokens and everything attached to them."""
    if isinstance(edit, Keep):
        return tokens if len(edit.indices) == len(tokens) else tokens.take(edit.indices)
    if isinstance(edit, Merge):
        return tokens.merge(edit.groups, edit.weights)
    assert isinstance(edit, Replace)
    return edit.tokens


def picture_of(image: Any) -> Tensor:
    """Copy a picture that was pushed without a frame around it: cameras hand out the same buffer again.

    Args:
        image: uint8 (H, W, 3) array or tensor.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        return torch.from_numpy(image.copy())
    if isinstance(image, Tensor):
        return image.clone()
    what = f"array of {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
    raise ValueError(f"push: takes a Frame or a uint8 (H, W, 3) picture, not {what}")


def next_frame(frame: Frame | Any, state: StreamState) -> Frame:
    """The frame that is pushed: a Frame behind the last one, or made of a picture, one second after it.

    Raises:
        ValueError: It is no picture, or stands before the last frame: moments are found again by index and time.
    """
    if not isinstance(frame, Frame):
        return Frame(max(state.next_index, state.num_frames), state.time_s + 1.0, picture_of(frame))
    if state.num_frames and (frame.index < state.next_index or frame.time_s < state.time_s):
        raise ValueError(
            f"push: frame {frame.index} at {frame.time_s:g} s does not follow frame {state.next_index - 1} at"
            f" {state.time_s:g} s; Stream.unseen numbers and times what is to follow"
        )
    return frame


def begin(pipeline: Pipeline, backbone: Backbone, *, budget_bytes: int | None) -> StreamState:
    """The state of an empty stream: every method's start, and the prefix in the memory.

    Where the first frame decides on its size, a stream begins again with it, and only then writes the prefix.

    Raises:
        MemoryBudgetError: The prefix would not fit.
    """
    spec = backbone.spec
    looks_up = (pipeline.retriever,) if pipeline.memory.retriever else ()
    state = StreamState(
        encoder=pipeline.encoder.init(spec),
        compressor=pipeline.compressor.init(spec),
        memory=pipeline.memory.init(spec, *looks_up),
        speaker=pipeline.speaker.init(spec),
        view=backbone.view,
    )
    if pipeline.memory.kind == "tokens" or spec.patch_grid == (0, 0):
        return state
    segment, cursor = backbone.place(state.cursor, backbone.open())
    check_budget(pipeline, spec, state.memory, len(segment), budget_bytes)
    context = pipeline.memory.read(state.memory, spec, query=False)
    backbone.extend(segment, context, outputs=0)
    return replace(state, memory=pipeline.memory.write(state.memory, context.finish()), cursor=cursor)


def see(
    pipeline: Pipeline, backbone: Backbone, state: StreamState, frames: Sequence[Frame], watch: Stopwatch
) -> tuple[Any, Any, Sight]:
    """Encode and compress frames.

    Returns:
        Next states of encoder and compressor, and what became of the frames.
    """
    with watch.stage("encode"):
        encoder, tokens = pipeline.encoder.step(state.encoder, frames, backbone)
    with watch.stage("compress"):
        compressor, edit = pipeline.compressor.step(state.compressor, tokens)
        kept = apply(edit, tokens)
    return encoder, compressor, Sight(tuple(frames), tokens, edit, kept, encoder)


def advance(
    pipeline: Pipeline, backbone: Backbone, state: StreamState, frames: Sequence[Frame], *, budget_bytes: int | None
) -> tuple[StreamState, Report, Decision, Sight]:
    """Take the frames of one step into the stream.

    Returns:
        The next state, what the step cost, the speaker's decision, and what became of the frames.

    Raises:
        MemoryBudgetError: The rows would not fit; the state is unchanged.
    """
    spec = backbone.spec
    most = most_rows(spec, len(frames))
    check_budget(pipeline, spec, state.memory, most, budget_bytes)
    watch = Stopwatch(backbone)
    encoder, compressor, sight = see(pipeline, backbone, state, frames, watch)
    tokens, num_in = sight.kept, len(sight.dense)
    held, cursor, hidden = state.memory, state.cursor, None
    if pipeline.memory.kind != "tokens":
        with watch.stage("prefill"):
            held, cursor, span, rows = prefill(pipeline, backbone, held, cursor, tokens)
            hidden = rows if pipeline.speaker.reads_hidden else None
    else:
        span = Span(segment=backbone.wrap(tokens, cursor), tokens=tokens)
    with watch.stage("speak"):
        speaker, decision = state.speaker, Decision()
        if not pipeline.speaker.reads_reply:
            seen = Observation(frames[-1].index, frames[-1].time_s, hidden, tokens)
            speaker, decision = pipeline.speaker.step(state.speaker, seen)
    with watch.stage("prefill"):
        # To an alias, which copies no rows: until the stream takes the step over, what fails has changed nothing of the
        # memory, be it a standing instruction or Ctrl-C. Token memories make a new value anyway.
        shared = held is state.memory and pipeline.memory.kind != "tokens"
        memory = pipeline.memory.write(alias(held) if shared else held, span)
    after = replace(
        state,
        encoder=encoder,
        compressor=compressor,
        memory=memory,
        speaker=speaker,
        cursor=framed(cursor),
        num_tokens_in=state.num_tokens_in + num_in,
        num_tokens_kept=state.num_tokens_kept + len(tokens),
    )
    report = Report(
        frames=tuple(frame.index for frame in frames),
        time_s=frames[-1].time_s,
        tokens_in=num_in,
        tokens_kept=len(tokens),
        stage_ms=watch.stage_ms,
        memory_bytes=pipeline.memory.num_bytes(memory),
        spent=getattr(encoder, "spent", None),
    )
    return after, report, decision, sight


def prefill(
    pipeline: Pipeline, backbone: Backbone, held: Any, cursor: Cursor, tokens: VisualTokens
) -> tuple[Any, Cursor, Span, Tensor]:
    """Run the tokens of a step through the decoder: at once, or frame by frame where the memory wants them so.

    Args:
        pipeline: What runs.
        backbone: The model.
        held: State of the memory; stays good to go on with.
        cursor: Where the stream stands.
        tokens: The step's tokens.

    Returns:
        The memory's state with all but the last rows (an alias, or ``held`` itself where they are all the last), the
        cursor behind them, the last rows, and (T, D) hidden rows of the step, none of them unless the speaker reads it.
    """
    memory, rows = pipeline.memory, list[Tensor]()
    outputs = None if pipeline.speaker.reads_hidden else 0
    parts = tokens.split() if memory.one_by_one() and len(tokens.frames) > 1 else (tokens,)
    held = alias(held) if len(parts) > 1 else held
    for left, part in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
        segment, cursor = backbone.place(cursor, memory.carry(backbone.wrap(part, cursor)))
        context = memory.read(held, backbone.spec, query=False)
        rows.append(backbone.extend(segment, context, pruner=pipeline.pruner, outputs=outputs))
        span = context.finish()
        if left:
            held, cursor = memory.write(held, span), framed(cursor)
    return held, cursor, span, torch.cat(rows)


def most_rows(spec: ModelSpec, num_frames: int) -> int:
    """The most decoder rows that so many frames bring."""
    return -(-num_frames // spec.frames_per_step) * (spec.grid[0] * spec.grid[1] + spec.around_rows)


def framed(cursor: Cursor) -> Cursor:
    """The cursor after frames: a clip is open, and no answer waits to be ended."""
    return replace(cursor, clip_open=True, answered=False)


def answered(cursor: Cursor) -> Cursor:
    """The cursor after a remembered question and answer."""
    return replace(cursor, clip_open=False, answered=True, turn=cursor.turn + 1)


def housed(memory: Any, state: Any, disk: Disk) -> Any:
    """The state of a memory whose blocks may go to a disk.

    Raises:
        ValueError: The memory keeps no blocks, or all of them in memory.
    """
    name = registry.name_of(memory)
    if not isinstance(memory, Tiered):
        raise ValueError(f"disk: {name} keeps no blocks that could go there; take a memory such as rekv")
    if memory.ram_blocks is None:
        raise ValueError(f"disk: {name} keeps all its blocks in memory; set memory.ram_blocks")
    return memory.house(state, disk)


def check_bound(pipeline: Pipeline, spec: ModelSpec, budget_bytes: int | None) -> None:
    """Refuse a memory that may outgrow its budget.

    Raises:
        MemoryBudgetError: Its bound is above the budget.
    """
    bound = pipeline.memory.bound_bytes(spec)
    if budget_bytes is not None and bound is not None and bound > budget_bytes:
        raise MemoryBudgetError(
            f"memory budget: this memory may take {bound / 2**20:.1f} MB, more than the {budget_bytes / 2**20:.1f} MB"
            " allowed; raise --memory-mb or give the memory a smaller window"
        )


def check_budget(pipeline: Pipeline, spec: ModelSpec, memory: Any, num_rows: int, budget_bytes: int | None) -> None:
    """Refuse rows that might not fit a memory that grows without end, before anything is done with them.

    Args:
        pipeline: What runs.
        spec: The model.
        memory: State of the memory.
        num_rows: The most rows that may be added.
        budget_bytes: The most bytes the memory may hold, None for no limit.

    Raises:
        MemoryBudgetError: They might not fit.
    """
    if budget_bytes is None or pipeline.memory.bound_bytes(spec) is not None:
        return
    held = pipeline.memory.num_bytes(memory)
    notes = 8 * spec.layers + 21 + 8 * spec.position_rows  # what the cache notes of a row beside keys and values
    step = num_rows * (spec.row_bytes * 3 // 2 + notes)
    if held + step > budget_bytes:
        raise MemoryBudgetError(
            f"memory budget: {held / 2**20:.1f} MB are held and the next step may need {step / 2**20:.2f} MB, more than"
            f" the {budget_bytes / 2**20:.1f} MB allowed; raise --memory-mb, keep fewer tokens, or choose a memory that"
            " forgets (recent:4, streamingllm)"
        )


def replay(
    pipeline: Pipeline, backbone: Backbone, items: Sequence[VisualTokens | Placed | Segment], context: Context
) -> Cursor:
    """Run a token memory's past through the decoder: prefix, frames and turns in order.

    Returns:
        The cursor behind them.
    """
    segment, cursor = backbone.place(Cursor(), backbone.open())
    backbone.extend(segment, context, outputs=0)
    for item in items:
        is_turn = isinstance(item, Segment)
        if isinstance(item, Placed):
            segment, cursor = put(item, backbone.wrap(item.tokens, cursor), cursor)
        else:
            raw = item if isinstance(item, Segment) else backbone.wrap(item, cursor)
            segment, cursor = backbone.place(cursor, raw)
        backbone.extend(segment, context, pruner=None if is_turn else pipeline.pruner, outputs=0)
        cursor = answered(cursor) if is_turn else framed(cursor)
    return cursor


def put(item: Placed, segment: Segment, cursor: Cursor) -> tuple[Segment, Cursor]:
    """Give wrapped tokens the positions that came with them; rows around them count one each.

    Args:
        item: The tokens and their positions.
        segment: What the backbone wrapped them in.
        cursor: Where the stream stands.

    Returns:
        The placed segment, and the cursor behind it.
    """
    visual = torch.nonzero(segment.kind == Kind.VISUAL).squeeze(1)
    before = int(visual[0]) if len(visual) else 0
    around = torch.arange(len(segment))
    ids = torch.where(around < before, around, around - len(visual) + item.advance).expand(3, -1).clone()
    ids[:, visual] = before + item.ids
    advance = len(segment) - len(visual) + item.advance
    placed = replace(segment, ids=ids + cursor.next, advance=advance)
    return placed, replace(cursor, next=cursor.next + advance, said=cursor.hears(segment))
