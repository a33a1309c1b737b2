"""Show a source to a stream and ask questions at their times: the loop behind ``ask`` and ``demo``."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType

from headrace.cli.output import Output, size
from headrace.engine import Stream
from headrace.types import Answer, Query, Report
from headrace.video import VideoSource


@dataclass(frozen=True, slots=True)
class Asking:
    """A question, when to ask it (None: at the end), and the true answer where it is known."""

    query: Query
    at_s: float | None = None
    truth: str | None = None


@dataclass
class Watched:
    """What came of watching.

    Attributes:
        reports: What each step cost.
        interrupted: True when Ctrl-C ended it.
        unasked: Questions whose time had not come when it ended.
    """

    reports: list[Report] = field(default_factory=list)
    interrupted: bool = False
    unasked: list[Asking] = field(default_factory=list)


@contextmanager
def graceful() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag, so that the frame at hand is finished; the second one stops at once."""
    asked_to_stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked_to_stop
        return
    before = signal.getsignal(signal.SIGINT)

    def note(_: int, __: FrameType | None) -> None:
        asked_to_stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked_to_stop
    finally:
        signal.signal(signal.SIGINT, before)


def watch(
    stream: Stream,
    source: VideoSource,
    asks: Sequence[Asking],
    out: Output,
    *,
    answered: Callable[[Asking, Answer], None],
    stepped: Callable[[Report], None],
) -> Watched:
    """Push every frame of a source, and ask each question right after the last frame that is not later than its time.

    Args:
        stream: Where to push.
        source: Where from.
        asks: Questions with their times.
        out: Takes progress, events and remarks.
        answered: Called with each question and its answer.
        stepped: Called with what each step cost.

    Returns:
        What came of it. Questions without a time are asked at the end, also when Ctrl-C ended it.
    """
    result, first_index = Watched(), stream.num_frames
    timed = sorted((ask for ask in asks if ask.at_s is not None), key=lambda ask: ask.at_s or 0.0)
    seen_before = stream.num_frames
    with graceful() as stop, out.progress(f"watching {source.name}", source.num_frames) as move:
        for frame in source:
            while timed and stream.num_frames > seen_before and frame.time_s > (timed[0].at_s or 0.0):
                _ask(stream, timed.pop(0), answered)
            for event in stream.push(replace(frame, index=frame.index + first_index)):
                out.answer(event.answer)
            if stream.report is not None:
                result.reports.append(stream.report)
                stepped(stream.report)
            move()
            if stop.is_set():
                result.interrupted = True
                break
    if result.interrupted:
        result.unasked = timed
    else:
        for ask in timed:
            if (ask.at_s or 0.0) > stream.state.time_s + 1.0:
                out.note(f"--at {ask.at_s:g}: the stream ended at {stream.state.time_s:g} s; asked at the end")
            _ask(stream, ask, answered)
    for ask in asks:
        if ask.at_s is None:
            _ask(stream, ask, answered)
    return result


def _ask(stream: Stream, ask: Asking, answered: Callable[[Asking, Answer], None]) -> None:
    answered(ask, stream.ask(ask.query))


def summary(stream: Stream, reports: Sequence[Report]) -> dict[str, float]:
    """Totals and means over the steps of a stream, for the last line of a command.

    A memory that grows says by how many bytes per frame (``memory_bytes_per_frame``), one that does not says the most
    it will hold (``memory_bound_bytes``).
    """
    frames = sum(len(report.frames) for report in reports)
    if not frames:
        return {}
    held = reports[-1].memory_bytes
    bound = stream.pipeline.memory.bound_bytes(stream.spec)
    grows = {"memory_bytes_per_frame": held / stream.num_frames} if bound is None else {"memory_bound_bytes": bound}
    return {
        "frames": frames,
        "tokens_in_per_frame": sum(report.tokens_in for report in reports) / frames,
        "tokens_kept_per_frame": sum(report.tokens_kept for report in reports) / frames,
        "ms_per_frame": sum(sum(report.stage_ms.values()) for report in reports) / frames,
        "memory_bytes": held,
        **grows,
    }


def summary_line(totals: dict[str, float]) -> str:
    """The same for people."""
    if "memory_bound_bytes" in totals:
        growth = f"never more than {size(totals['memory_bound_bytes'])}"
    else:
        growth = f"{size(totals['memory_bytes_per_frame'])} more with every frame"
    return (
        f"{totals['frames']:.0f} frames, {totals['tokens_kept_per_frame']:.0f} of"
        f" {totals['tokens_in_per_frame']:.0f} visual tokens and {totals['ms_per_frame']:.0f} ms per frame,"
        f" memory {size(totals['memory_bytes'])}, {growth}"
    )
