"""A running stream: push frames, ask questions, fork, save."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.cache import Disk
from headrace.engine import saving
from headrace.engine.answering import Prompt, Said, answer, check_told, opened
from headrace.engine.checkpoints import EVERY_S, Checkpointer, Keeping
from headrace.engine.folder import Folder
from headrace.engine.following import Source, unseen
from headrace.engine.gate import Gate
from headrace.engine.listening import dismiss, listen, stand
from headrace.engine.modes import own_modes
from headrace.engine.pipeline import Pipeline
from headrace.engine.state import StreamState, alias, counted, fork, waiting
from headrace.engine.step import advance, answered, begin, check_bound, check_budget, housed, most_rows, next_frame
from headrace.protocols import Backbone
from headrace.types import Answer, Event, Frame, ModelSpec, Query, Report, Sight, Span, Token, View, join

if TYPE_CHECKING:
    from headrace.engine.engine import Engine


class Stream:
    """One stream's past, and what may be asked of it.

    Any thread may call any method. Pushes wait for each other; a question takes a snapshot and then runs beside
    further pushes, unless it is remembered: then pushes wait until it is written down.

    Args:
        engine: Weights and settings shared by all streams.
        pipeline: What to run.
        budget_bytes: Most bytes the past may take, None for no limit.
        state: Where to go on; None starts anew.
        folder: Where the state was read from.
        view: How to look through the model, where the stream starts anew.

    Raises:
        ValueError: The model cannot be looked through like that.
        MemoryBudgetError: The memory's bound is above the budget.
    """

    def __init__(
        self,
        engine: Engine,
        pipeline: Pipeline,
        *,
        budget_bytes: int | None = None,
        state: StreamState | None = None,
        folder: Folder | None = None,
        view: View | None = None,
    ) -> None:
        self._engine = engine
        self.pipeline = pipeline
        self._budget_bytes = budget_bytes
        self._lock = threading.RLock()
        self._closed = False
        self._gate = Gate(self._lock)
        self.report: Report | None = None
        self._observer: Callable[[Sight, Report], None] | None = None
        self._keeping = Keeping(folder)
        self._disk: Disk | None = None  # for the first frame, which may begin the state anew
        with own_modes(engine.backbone.spec.device):
            self._backbone: Backbone = engine.looking((view or View()) if state is None else state.view)
            check_bound(pipeline, self.spec, budget_bytes)
            self._state = begin(pipeline, self._backbone, budget_bytes=budget_bytes) if state is None else state

    @property
    def state(self) -> StreamState:
        """The state as it is now; read it, do not change it."""
        return self._state

    @property
    def spec(self) -> ModelSpec:
        """The model's numbers; its grid is known from the first frame on."""
        return self._backbone.spec

    @property
    def backbone(self) -> Backbone:
        """The model as this stream looks through it."""
        return self._backbone

    @property
    def num_frames(self) -> int:
        """Frames pushed so far."""
        return self._state.num_frames

    @property
    def next_index(self) -> int:
        """Index of the frame that would follow the last one; above ``num_frames`` where frames were left out."""
        return max(self._state.next_index, self.num_frames)  # what an earlier version saved has no index

    def unseen(self, source: Source, *, append: bool = False) -> Iterator[Frame]:
        """A source's frames that this stream has not seen, numbered and timed to follow on it; see ``following``.

        The source is such as ``video.open(address, after=stream.state.time_s, begins=stream.state.began_s)``, or
        another one, all of which is to follow (``append``).
        """
        return unseen(source, self.state, append=append)

    def push(self, frame: Frame | Any) -> list[Event]:
        """Show the stream one frame.

        Args:
            frame: A Frame, or a uint8 (H, W, 3) array or tensor, which is taken to be one second after the last.

        Returns:
            What the stream has to say, usually nothing. ``report`` tells what the step cost.

        Raises:
            ValueError: The frame is no picture or comes before the last one, or the stream is closed.
            MemoryBudgetError: There is no room left; the frame was not taken.
        """
        with self._inside(waits=True):
            frame = next_frame(frame, self._state)
            state = self._state if self._state.num_frames else self._settled(frame)
            if len(state.pending) + 1 < self._step_frames:
                self._state, self.report = waiting(state, frame), None
                return self._heard()
            return self._step(replace(counted(state, frame), pending=()), (*state.pending, frame), hear=True)

    def _settled(self, frame: Frame) -> StreamState:
        """The state with the size of all frames fixed by the first one: begun again, knowing it."""
        view = self._backbone.choose(self._state.view, frame)
        if view == self._state.view:
            return self._state
        self._backbone = self._engine.looking(view)
        state = begin(self.pipeline, self._backbone, budget_bytes=self._budget_bytes)
        memory = state.memory if self._disk is None else housed(self.pipeline.memory, state.memory, self._disk)
        return replace(state, memory=memory, watching=self._state.watching, num_watches=self._state.num_watches)

    def _heard(self) -> list[Event]:
        """Hand out what the stream has said since the last push."""
        events, self._state = self._state.unheard, replace(self._state, unheard=())
        return list(events)

    def _step(self, state: StreamState, frames: Sequence[Frame], *, hear: bool) -> list[Event]:
        """Run a step and put its result in place; a checkpoint follows, whatever an observer raises."""
        after, report, decision, sight = advance(
            self.pipeline, self._backbone, state, frames, budget_bytes=self._budget_bytes
        )
        after, report, events = listen(self.pipeline, self._backbone, after, sight, report)
        self._state, self.report = replace(after, unheard=(*after.unheard, *events)), report
        if decision.speak:
            spoke = Event(report.time_s, decision, self.ask(Query(decision.prompt)))
            self._state = replace(self._state, unheard=(*self._state.unheard, spoke))
        try:
            if self._observer is not None:
                self._observer(sight, report)
            return self._heard() if hear else []
        finally:
            self._keeping.tick()

    @property
    def _step_frames(self) -> int:
        """Frames per step: the chunk, filled up to what the tower takes at once."""
        unit = self._backbone.spec.frames_per_step
        return -(-self.pipeline.chunk_frames // unit) * unit

    def ask(self, question: str | Query, **options: Any) -> Answer:
        """Answer a question about what has been seen so far.

        Args:
            question: A text, or a Query.
            **options: Fields of ``Query``: max_tokens, temperature, top_p, seed, stop, remember, ...

        Returns:
            The answer. The stream's memory is untouched unless ``remember`` was set.

        Raises:
            ValueError: An option is wrong, no frame was pushed yet, or the stream is closed.
            TypeError: There is no such option.
            MemoryBudgetError: There is no room to remember the longest answer; nothing was asked.
        """
        *_, found = self.ask_live(question, **options)
        assert isinstance(found, Answer)
        return found

    def ask_live(self, question: str | Query, **options: Any) -> Iterator[Token | Answer]:
        """Answer token by token; the last item is the Answer. Same arguments and errors as ``ask``.

        A remembered question holds the stream until it has been iterated to its end or closed, in any thread; its
        errors come with the first item.
        """
        query = replace(question, **options) if isinstance(question, Query) else Query(question, **options)
        start = time.perf_counter()
        if query.remember:
            return self._ask_remembered(query, start)
        return self._ask(query, self._prompt(query), start)

    def _ask(self, query: Query, prompt: Prompt, start: float) -> Iterator[Token | Answer]:
        for part in answer(self._backbone, query, prompt, start=start):
            if isinstance(part, Said) and query.remember:
                self._remember(part)
            yield part.answer if isinstance(part, Said) else part

    def _ask_remembered(self, query: Query, start: float) -> Iterator[Token | Answer]:
        with self._gate.taken():
            yield from self._gate.handed_out(self._ask(query, self._prompt(query), start))

    def _prompt(self, query: Query) -> Prompt:
        """Take a snapshot to answer from; pending frames are seen by the question but stay pending."""
        with self._inside():
            if not self._state.num_frames:
                raise ValueError("question: no frame has been pushed yet; push at least one before asking")
            before = self._state
            num_rows = 1 + len(self._backbone.turn(query.text, self._state.cursor)) + query.max_tokens
            if query.remember:
                pending = self._state.pending
                most = num_rows + most_rows(self.spec, len(pending))
                check_budget(self.pipeline, self.spec, self._state.memory, most, self._budget_bytes)
                if pending:
                    begun = fork(before) if query.frames else before  # where those are refused nothing has happened
                    self._step(replace(begun, pending=()), pending, hear=False)
            state, memory = self._state, self.pipeline.memory
            waits = bool(state.pending) and memory.digests  # and so is opened anew, when it has seen those
            try:
                check_told(memory, query.frames)
                context = opened(memory, state.memory, self.spec, () if waits else query.frames)
            except ValueError:
                self._state = before
                raise
            if state.pending:
                state = replace(state, encoder=fork(state.encoder), compressor=fork(state.compressor))
            if memory.kind == "tokens" or waits:
                # used outside the lock, while a push may write to the stream's own
                state = replace(state, memory=fork(state.memory))
        return Prompt(self.pipeline, state, context, query.frames)

    def _remember(self, said: Said) -> None:
        """Write a question and its answer into the memory."""
        span, cursor, memory = said.span, said.cursor, self.pipeline.memory
        with self._lock, own_modes(self.spec.device):
            if memory.kind == "tokens":
                ids, cursor = said.answer.tokens, self._state.cursor
                rows = [said.asked, self._backbone.embed(ids, turn=cursor.turn)] if ids else [said.asked]
                span = Span(segment=join(rows))
            held = self._state.memory if memory.kind == "tokens" else alias(self._state.memory)
            self._state = replace(self._state, memory=memory.write(held, span), cursor=answered(cursor))

    @property
    def watching(self) -> dict[int, str]:
        """The standing instructions by number, oldest first."""
        return {standing.number: standing.text for standing in self._state.watching}

    def watch(self, instruction: str, *, max_tokens: int = 128) -> int:
        """Give a standing instruction, such as ``say when the star appears``; it holds from the next step on.

        After every step the model is asked about it, as by ``ask``, and the pipeline's speaker decides from how the
        reply would begin whether it has come true. If so, ``push`` returns an Event with the reply. Nothing of it
        enters the memory: answers, and other instructions, are what they would be without it.

        Args:
            instruction: What to look out for.
            max_tokens: Longest reply, in tokens, >= 1.

        Returns:
            The instruction's number, for ``unwatch``.

        Raises:
            ValueError: The instruction is empty or holds control tokens, the number is wrong, the pipeline's speaker
                takes no instructions, or the stream is closed.
        """
        with self._inside(waits=True):
            standing = stand(self.pipeline, self._backbone, self._state.num_watches + 1, instruction, max_tokens)
            watching = (*self._state.watching, standing)
            self._state = replace(self._state, watching=watching, num_watches=standing.number)
            return standing.number

    def unwatch(self, number: int) -> None:
        """Take a standing instruction back.

        Raises:
            ValueError: There is none of this number, or the stream is closed.
        """
        with self._inside(waits=True):
            self._state = replace(self._state, watching=dismiss(self._state.watching, number))

    def house(self, disk: Disk) -> None:
        """Let blocks of the past that do not fit in memory go to a disk; forks share it.

        Raises:
            ValueError: The memory keeps no blocks, or all of them in memory.
        """
        with self._inside():
            self._state = replace(self._state, memory=housed(self.pipeline.memory, self._state.memory, disk))
            self._disk = disk

    def fork(self) -> Stream:
        """Start another stream with the same past; sealed blocks are shared, both go their own way."""
        with self._inside():
            twin = Stream(self._engine, self.pipeline, budget_bytes=self._budget_bytes, state=fork(self._state))
            twin._disk = self._disk
            return twin

    def tune(self, **values: Any) -> None:
        """Change tunable fields while the stream runs, e.g. ``tune(compressor={"keep": 30})``.

        Raises:
            ValueError: A field is not tunable, a value is out of range, or the stream is closed.
            MemoryBudgetError: The memory might then hold more than its budget.
        """
        with self._inside():
            pipeline = self.pipeline.tuned(**values)
            check_bound(pipeline, self.spec, self._budget_bytes)
            self.pipeline = pipeline

    def observe(self, observer: Callable[[Sight, Report], None] | None) -> None:
        """Call ``observer`` after every step with what became of its frames and what it cost; None stops it.

        It runs in the thread that pushes, which waits for it. What it raises comes out of ``push``, after the frame was
        taken. Forks are not observed.
        """
        with self._inside():
            self._observer = observer

    def save(self, folder: str | Path) -> None:
        """Write the stream to a folder, from which ``Engine.resume`` goes on exactly.

        Rows that never change again are not written twice to any of the latest folders. Pushes wait only until the
        state is taken down, not until it is on the disk.

        Raises:
            SavedStreamError: The folder cannot be written to; what it held is still there.
        """
        with own_modes(self.spec.device):
            self._keeping.folder(folder).write(self._snapshot(None))

    def checkpoint(
        self,
        folder: str | Path,
        *,
        every_s: float = EVERY_S,
        pipeline: Pipeline | None = None,
        noted: Callable[[str], None] | None = None,
    ) -> Checkpointer:
        """Keep a folder up to date while frames are pushed: ``with stream.checkpoint("camera"): ...``.

        Args:
            folder: Where to save.
            every_s: Seconds of wall time between saves, >= 0: what a crash may cost.
            pipeline: What to go on with after a crash, where that is not what runs: a governor turns things down.
            noted: Takes a line when saving begins to fail or works again; None logs it.

        Raises:
            ValueError: ``every_s`` is no time.
            SavedStreamError: The folder cannot be written to.
        """
        snap, place = partial(self._snapshot, pipeline), self._keeping.folder(folder)
        return self._keeping.begin(Checkpointer(snap, place, every_s=every_s, noted=noted))

    def _snapshot(self, pipeline: Pipeline | None) -> saving.Snapshot:
        with self._inside():
            return saving.snapshot(pipeline or self.pipeline, self._state, self._backbone.spec)

    def close(self) -> None:
        """Forget the past; further calls fail."""
        with self._lock:
            self._gate.pass_through()
        try:
            self._keeping.end()  # without the lock: what is told of the last save may use the stream
        finally:
            with self._lock:
                self._gate.pass_through()
                self._closed, self._disk = True, None
                nothing = replace(self._state, encoder=None, compressor=None, memory=None, speaker=None, pending=())
                self._state = replace(nothing, watching=())

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _inside(self, *, waits: bool = False) -> Iterator[None]:
        """Hold the lock of the open stream, in its own modes; ``waits`` until no answer is being written down."""
        with self._lock, own_modes(self.spec.device):
            if waits:
                self._gate.pass_through()
            if self._closed:
                raise ValueError("this stream is closed; open another")
            yield
