"""Show a source to a stream and ask questions at their times: the loop behind ``ask`` and ``demo``."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from headrace.cli.output import Output, size
from headrace.engine import Governor, Stream
from headrace.engine.following import unseen
from headrace.types import Answer, Event, Query, Report
from headrace.video import VideoSource

# Ctrl-C; what `docker stop`, `systemctl stop` and `timeout` send; a terminal that is closed
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
ECHO_S = 0.5  # the same signal may come twice
FAILURES = (ValueError, OSError, MemoryError, RuntimeError)  # of the source, the model and the machine


@dataclass(frozen=True, slots=True)
class Asking:
    """A question, when to ask it (None: at the end), and the true answer where it is known."""

    query: Query
    at_s: float | None = None
    truth: str | None = None


@dataclass
class Watched:
    """What came of watching, in sums that do not grow with the stream.

    Attributes:
        frames: Frames taken in.
        stepped: Those of them that have not to wait for others to come.
        tokens_in: Visual tokens before compression.
        tokens_kept: Visual tokens after it.
        total_ms: Milliseconds of all stages.
        memory_bytes: Held after the last step.
        signal: Number of the signal that ended it, such as Ctrl-C; 0 for none.
        error: What the source or a step failed with, None when it went well.
        unasked: Questions that are still to be asked: those without a time, and after a signal or an error those whose
            time had not come.
    """

    frames: int = 0
    stepped: int = 0
    tokens_in: int = 0
    tokens_kept: int = 0
    total_ms: float = 0.0
    memory_bytes: int = 0
    signal: int = 0
    error: Exception | None = None
    unasked: list[Asking] = field(default_factory=list)

    @property
    def interrupted(self) -> bool:
        """True when a signal ended it."""
        return self.signal != 0

    @property
    def hung_up(self) -> bool:
        """True when the terminal was closed: what is written there fails."""
        return self.signal == getattr(signal, "SIGHUP", None)

    def add(self, report: Report) -> None:
        """Count a step."""
        self.stepped += len(report.frames)
        self.tokens_in += report.tokens_in
        self.tokens_kept += report.tokens_kept
        self.total_ms += sum(report.stage_ms.values())
        self.memory_bytes = report.memory_bytes


class Stop(threading.Event):
    """Set by a signal that asks a command to end.

    Attributes:
        number: The signal's number.
    """

    number: int = 0


@contextmanager
def graceful(source: VideoSource) -> Iterator[Stop]:
    """Turn the first of ``SIGNALS`` into a flag, so that the frame at hand is finished; a later one acts as usual.

    The source is closed too: it may never have another frame. What comes right behind the first signal is taken for the
    same one: `timeout`, a terminal that is closed and Ctrl-C under a wrapper send it to the command and again to its
    group. A signal that the command was started to ignore, as ``nohup`` does with SIGHUP, stays ignored; but for
    Ctrl-C, which a shell takes from what runs in the background.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    again_s = math.inf  # from when on another signal counts

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        nonlocal again_s
        if stop.is_set():
            if time.monotonic() >= again_s:
                restore()
                signal.raise_signal(number)
            return
        again_s = time.monotonic() + ECHO_S
        stop.number = number
        stop.set()
        threading.Thread(target=source.close, daemon=True).start()

    for number, handler in before.items():
        if handler is not signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, note)
    try:
        yield stop
    finally:
        if stop.is_set():
            time.sleep(max(0.0, again_s - time.monotonic()))
        restore()


def watch(
    stream: Stream,
    source: VideoSource,
    asks: Sequence[Asking],
    out: Output,
    *,
    answered: Callable[[Asking, Answer], None],
    stepped: Callable[[Report], None],
    through: Stream | Governor | None = None,
    heard: Callable[[Event], None] | None = None,
) -> Watched:
    """Push every frame of a source, and ask each question right after the last frame that is not later than its time.

    A stream that has seen frames goes on: what it has seen of a source with a beginning is skipped, and the clock of a
    live one is moved behind it.

    Args:
        stream: Where to push.
        source: Where from.
        asks: Questions with their times.
        out: Takes progress, events and remarks.
        answered: Called with each question and its answer.
        stepped: Called with what each step cost.
        through: What takes the frames: a governor in front of the stream, or the stream itself.
        heard: Called with what the stream says by itself; None writes it to ``out``.

    Returns:
        What came of it, also after a failure: the stream is as it was before that, and can be asked. Questions without
        a time are still to be asked.

    Raises:
        ValueError: The source or a step failed before the stream had seen anything; or OSError and the like.
    """
    result, seen, last_s = Watched(), stream.num_frames, stream.state.time_s
    taker = through or stream
    timed = sorted((ask for ask in asks if ask.at_s is not None), key=lambda ask: ask.at_s or 0.0)
    untimed = [ask for ask in asks if ask.at_s is None]

    def ask_timed(asking: Asking) -> None:
        at_s, now_s = asking.at_s or 0.0, stream.state.time_s
        if seen and at_s < last_s:
            out.note(f"--at {at_s:g}: the stream is already at {last_s:g} s; asked at {now_s:g} s")
        ask(stream, asking, answered)

    with graceful(source) as stop, out.progress(f"watching {source.name}", source.num_frames) as move:
        frames = taker.awaiting(source) if isinstance(taker, Governor) and source.live else source
        try:
            for frame in unseen(source, stream.state, frames):
                while timed and _is_due(timed[0], frame.time_s, seen=stream.num_frames, resumed=seen, last_s=last_s):
                    ask_timed(timed.pop(0))
                for event in taker.push(frame):
                    (heard or out.event)(event)
                if taker.report is not None:
                    result.add(taker.report)
                    stepped(taker.report)
                move()
                if stop.is_set():
                    break
        except BrokenPipeError:
            raise
        except FAILURES as error:
            if not stream.num_frames:
                raise
            result.error = error
        result.frames = stream.num_frames - seen
        result.signal = stop.number if stop.is_set() else 0
    if result.interrupted or result.error is not None:
        result.unasked = [*untimed, *timed]
        return result
    for late in timed:
        if (late.at_s or 0.0) > stream.state.time_s + 1.0:
            out.note(f"--at {late.at_s:g}: the stream ended at {stream.state.time_s:g} s; asked at the end")
        ask_timed(late)
    result.unasked = untimed
    return result


def _is_due(asking: Asking, next_s: float, *, seen: int, resumed: int, last_s: float) -> bool:
    """True when a question is to be asked before the next frame; one that a resumed stream missed waits for a frame."""
    at_s = asking.at_s or 0.0
    return seen > 0 and next_s > at_s and (seen > resumed or at_s >= last_s)


def ask(stream: Stream, asking: Asking, answered: Callable[[Asking, Answer], None]) -> None:
    """Ask a question now."""
    answered(asking, stream.ask(asking.query))


def summary(stream: Stream, result: Watched) -> dict[str, float]:
    """Totals and means over what was watched, for the last line of a command.

    A memory that grows says by how many bytes per frame (``memory_bytes_per_frame``), one that does not says the most
    it will hold (``memory_bound_bytes``).
    """
    if not result.stepped:
        return {"frames": result.frames}
    held, num = result.memory_bytes, stream.num_frames - len(stream.state.pending)
    bound = stream.pipeline.memory.bound_bytes(stream.spec)
    grows = {"memory_bytes_per_frame": held / num} if bound is None else {"memory_bound_bytes": bound}
    return {
        "frames": result.frames,
        "tokens_in_per_frame": result.tokens_in / result.stepped,
        "tokens_kept_per_frame": result.tokens_kept / result.stepped,
        "ms_per_frame": result.total_ms / result.stepped,
        "memory_bytes": held,
        **grows,
    }


def summary_line(totals: dict[str, float]) -> str:
    """The same for people."""
    if "memory_bytes" not in totals:
        return f"{totals['frames']:.0f} frames, which wait for others to be taken in with"
    if "memory_bound_bytes" in totals:
        growth = f"never more than {size(totals['memory_bound_bytes'])}"
    else:
        growth = f"{size(totals['memory_bytes_per_frame'])} more with every frame"
    return (
        f"{totals['frames']:.0f} frames, {totals['tokens_kept_per_frame']:.0f} of"
        f" {totals['tokens_in_per_frame']:.0f} visual tokens and {totals['ms_per_frame']:.0f} ms per frame,"
        f" memory {size(totals['memory_bytes'])}, {growth}"
    )
