"""The latency governor: full quality while there is time, cheaper settings while there is not.

It stands in front of a stream. Before a step it predicts what the step would cost at every setting (``costs.py``), and
tunes the stream to the best one that fits; after the step it learns from what it took. Only the stream's public
``tune`` is used, so a governed stream gives what the same calls by hand would give. When not even the cheapest setting
fits and a whole frame has been lost, frames are skipped, never more than ``max_skip`` in a row.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.engine import dials
from headrace.engine.choices import Choice
from headrace.engine.costs import FLOOR_MS, OFTEN, TAIL_SAMPLES, Curve, Shares
from headrace.engine.pace import Pace
from headrace.engine.step import next_frame
from headrace.engine.stream import Stream
from headrace.engine.threads import Threads
from headrace.types import Event, Frame, Report

REST = "rest"
STAGES = {  # all else is the rest
    dials.VISION: ("encode",),
    dials.DECODER: ("compress", "prefill", "speak"),  # instructions are asked over the tokens that were kept
}

MARGIN = 0.95  # of the target is what a slow step may be predicted to take
LOOK_STEPS = 3  # at the start only looked at: the first steps pay for what is set up once
HOPELESS = 1.5  # targets that a step after the first may take until looking on makes no sense
CAUTION_UP, CAUTION_DOWN, CAUTION_MOST = 1.15, 0.993, 1.5  # after a second late step in a row of 20; after any other
HOLD, HOLD_MOST = 4, 64  # steps for which something better must fit before it is taken; doubles when it did not last
LASTED = 16  # steps after which a better setting has lasted
PROBE, PROBE_MOST, PROBE_SOON = 64, 96, 16  # steps between tries of what seems too much; soon after one that fitted
IDLE = 0.7  # targets; where steps take less and none was late for PROBE steps, tries come soon, too
REACH, REACH_MORE, REACH_MOST = 2.0, 1.5, 4.0  # targets that a try may be predicted to take; more after none was made
TELLING = 0.1  # share of a step that stages whose dials stood still must have to tell a change of the load
CHEAPER = 1.15  # times the cheapest cost of all counts as just as cheap


class Governor:
    """Keeps the time per frame of one stream near a target.

    While it runs it owns the fields it turns (``effort`` of the methods); what the stream was opened with is the best
    it ever chooses. ``close`` puts that back.

    Args:
        stream: What to govern.
        target_ms: Milliseconds per frame that 95 of 100 pushes should not exceed, > 0.
        max_skip: Most frames skipped in a row when nothing fits; 0 never skips.
        threads: Also try with one torch thread fewer under load. Off by default: the number of threads belongs to the
            whole process, so other streams feel it, and another number may round sums differently.
        clock: Seconds, any origin.
        noted: Called with every choice that changes something: another setting, a skipped frame.

    Attributes:
        chose: The latest 1000 choices.
        skipped: Frames skipped so far.
        report: The stream's report of the last push, None when it made no step.

    Raises:
        ValueError: The target or ``max_skip`` is out of range.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        target_ms: float,
        max_skip: int = 3,
        threads: bool = False,
        clock: Callable[[], float] = time.perf_counter,
        noted: Callable[[Choice], None] = lambda choice: None,
    ) -> None:
        if not 0 < target_ms < math.inf:
            raise ValueError(f"target_ms: must be above 0 milliseconds, not {target_ms}")
        if max_skip < 0:
            raise ValueError(f"max_skip: must be 0 frames or more, not {max_skip}")
        self.stream, self.target_ms, self.max_skip = stream, target_ms, max_skip
        self.chose: deque[Choice] = deque(maxlen=1000)
        self.skipped = 0
        self.report: Report | None = None
        self._pipeline, unit = stream.pipeline, stream.spec.frames_per_step
        self._look()
        self._step_frames = math.ceil(stream.pipeline.chunk_frames / unit) * unit
        self._threads = Threads() if threads else None
        self._clock, self._noted, self._lock = clock, noted, threading.Lock()
        self._now, self._steps, self._caution = 0, 0, 1.0
        self._better, self._hold, self._since, self._last_up = 0, HOLD, 0, -LASTED - 1
        self._probe, self._reach = PROBE, REACH
        self._late: deque[bool] = deque(maxlen=round(1 / OFTEN))
        self._in_a_row, self._gap, self._hopeless = 0, False, False
        self._standing, self._calm = False, 0
        self._seen: dict[int, dict[str, float]] = {}  # ms per frame by setting and kind of step since nothing fits
        self._most: dict[int, float] = {}  # ms per frame that a step has ever taken, by setting
        self._ran = 0  # setting of the last step
        self._pace = Pace(target_ms, self._step_frames - 1)
        self._changes = 0
        self._took: deque[float] = deque(maxlen=4096)
        self._tally: Counter[str] = Counter()
        self._lately: deque[float] = deque(maxlen=LOOK_STEPS)
        self._reached: deque[float] = deque(maxlen=TAIL_SAMPLES)

    def _look(self) -> None:
        """See what there is to turn; the first frame may fix the grid, in whose tokens budgets are counted."""
        pipeline, self._spec = self._pipeline, self.stream.spec
        turned = {group: dials.notches(pipeline, self._spec, group) for group in (dials.VISION, dials.DECODER)}
        self._settings = dials.settings(pipeline, turned[dials.VISION], turned[dials.DECODER])
        self._encoders = dials.encoders(pipeline, turned[dials.VISION])
        self._shares = [Shares() for _ in self._encoders]
        self._curves = {group: Curve([notch.work for notch in found]) for group, found in turned.items()}
        self._curves[REST] = Curve([1.0])
        self._num_decoder = len(turned[dials.DECODER])

    @property
    def can_turn(self) -> bool:
        """False where, from the first frame on, no method has a field to turn: then frames can only be skipped."""
        return len(self._settings) > 1

    @property
    def setting(self) -> str:
        """What the stream is tuned to now: ``full``, or the fields that are turned down."""
        return self._settings[self._now].name

    def push(self, frame: Frame | Any) -> list[Event]:
        """Show the stream one frame, or skip it.

        Same as ``Stream.push`` but for the setting. Pictures that are no Frame keep their second of time when others
        are skipped before them.

        Raises:
            ValueError: As ``Stream.push``.
            MemoryBudgetError: As ``Stream.push``.
        """
        with self._lock:
            frame = self._framed(frame)
            start = self._clock()
            self._pace.began(start)
            steps = len(self.stream.state.pending) + 1 >= self._step_frames
            kinds = [encoder.next_kind(self.stream.state.encoder) for encoder in self._encoders] if steps else []
            costs = self._costs() if steps else None
            why = self._choose(costs, kinds) if costs else "look"
            predicted = costs[self._now] if costs else None
            if predicted is not None and self._must_skip(predicted):
                return self._skip(frame)
            setting = self._settings[self._now]
            if steps:
                self._tune(setting)
            events = self.stream.push(frame if not self._gap else replace(frame, gap=True))
            if self.stream.spec is not self._spec and not self._steps:
                self._look()
            ended = self._clock()
            took_ms = 1000 * (ended - start)
            self.report, self._in_a_row, self._gap = self.stream.report, 0, False
            self._pace.ended(ended, took_ms - self.target_ms if self._steps >= LOOK_STEPS else 0.0)
            if steps and self.report is not None:
                self._count(kinds)
                self._learn(setting, kinds[setting.vision], took_ms, self.report, fresh=why in {"probe", "last"})
                self._note(frame, predicted, took_ms / self._step_frames, why)
            return events

    def awaiting(self, source: Iterable[Frame]) -> Iterator[Frame]:
        """Yield a live source's frames, for the loop that pushes them.

        The governor then knows how long it was waited for a frame. What else passes between two pushes, such as an
        answer, counts as lost, and steps have to leave room for what comes between every two.
        """
        return self._pace.awaiting(source, self._clock)

    def close(self) -> None:
        """Tune the stream back to what it was opened with; threads too. The stream stays open."""
        with self._lock:
            self._now = 0
            if self._threads is not None:  # first: the stream may be closed by now
                self._threads.restore()
            self._tune(self._settings[0])

    def __enter__(self) -> Governor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def summary(self) -> dict[str, Any]:
        """What was chosen and whether it held.

        Returns:
            ``target_ms``; ``frames`` that were taken in by setting; ``skipped``; ``p50_ms`` and ``p95_ms`` per frame
            over the latest 4096 steps, without the three that were only looked at, None before there are any;
            ``changes`` of the setting.
        """
        ranked = sorted(self._took)
        return {
            "target_ms": self.target_ms,
            "frames": dict(self._tally.most_common()),
            "skipped": self.skipped,
            "p50_ms": ranked[len(ranked) // 2] if ranked else None,
            "p95_ms": ranked[min(math.ceil(0.95 * len(ranked)), len(ranked)) - 1] if ranked else None,
            "changes": self._changes,
        }

    def _framed(self, frame: Frame | Any) -> Frame:
        """Count skipped frames in the index and time of a bare picture."""
        if isinstance(frame, Frame):
            return frame
        found = next_frame(frame, self.stream.state)
        late = self._in_a_row if self.stream.num_frames else 0
        return replace(found, index=found.index + late, time_s=found.time_s + late)

    def _count(self, kinds: Sequence[str]) -> None:
        """Note the kind of step that it was, or would have been, at every notch of the vision dial."""
        if self._steps:  # the first step of a stream is like no other
            for shares, kind in zip(self._shares, kinds, strict=True):
                shares.add(kind)

    def _costs(self) -> list[float] | None:
        """Milliseconds per frame that a slow step would take at every setting; None before anything is known.

        Of the kinds of steps that come often, the worst counts. Stages are seldom slow in the same step; of their sum
        counts what steps have lately reached.
        """
        vision = [
            self._worst(self._curves[dials.VISION], notch, shares.counted) for notch, shares in enumerate(self._shares)
        ]
        decoder = [self._worst(self._curves[dials.DECODER], notch) for notch in range(self._num_decoder)]
        rest = self._worst(self._curves[REST], 0)
        if not self._steps:
            return None
        share = self._share / self._step_frames
        return [share * (vision[x.vision] + decoder[x.decoder] + rest) for x in self._settings]

    @property
    def _share(self) -> float:
        """How much of the sum of slow stages the slowest of the latest steps took, at most all of it."""
        return min(1.0, max(self._reached)) if len(self._reached) == TAIL_SAMPLES else 1.0

    @staticmethod
    def _worst(curve: Curve, notch: int, kinds: Iterable[str] = ()) -> float:
        return max(curve.predict(notch, kind) or 0.0 for kind in (kinds or ("",)))

    def _choose(self, costs: list[float], kinds: Sequence[str]) -> str:
        """Decide on the setting of the next step, and say why; ``kinds``: what it would be at each vision notch."""
        if self._steps < LOOK_STEPS and not self._hopeless:
            return "look"
        budget = MARGIN * self._pace.budget_ms / self._caution
        fitting = [i for i, ms in enumerate(costs) if ms <= budget]
        if fitting:
            self._seen.clear()
        best = fitting[0] if fitting else self._cheapest(costs)
        self._since, self._calm = self._since + 1, self._calm + 1
        if self._standing and self._steps - self._last_up > LASTED:
            self._hold = HOLD
        if costs[self._now] > budget and best != self._now:
            lasted = self._steps - self._last_up > LASTED
            self._hold = HOLD if lasted else min(2 * self._hold, HOLD_MOST)
            self._probe = PROBE if lasted else self._probe
            self._better, self._calm, self._standing = 0, 0, False
            return self._move(best, "over" if fitting or best in self._seen else "last")
        if self._settings[best].loss < self._settings[self._now].loss and fitting:
            self._better += 1
            if self._better > self._hold:
                self._last_up, self._probe, self._standing = self._steps, PROBE, True
                return self._move(best, "room")
        else:
            self._better = 0
            idle = self._calm >= PROBE and self._recent_ms <= IDLE * self.target_ms
            if self._now and fitting and self._since >= (PROBE_SOON if idle else self._probe):
                return self._try(costs, kinds)
        return "stay"

    def _cheapest(self, costs: list[float]) -> int:
        """The cheapest setting where none seems to fit; of about equal ones the present, or one that leaves out most.

        What was seen since nothing fits counts, not what is guessed; the setting that leaves out most is always seen.
        """
        last = len(costs) - 1
        if last not in self._seen or max(self._seen[last].values()) <= self._pace.room_ms:
            return last
        costs = [max(self._seen[i].values()) if i in self._seen else ms for i, ms in enumerate(costs)]
        least = CHEAPER * min(costs)
        same = [i for i, ms in enumerate(costs) if ms <= least]
        return self._now if self._now in same else max(same, key=lambda i: self._settings[i].loss)

    def _try(self, costs: list[float], kinds: Sequence[str]) -> str:
        """Go to the cheapest setting that is better than this one, though it seems too much: the guess may be wrong.

        It is gone to with a step of the kind that costs most there; a cheap one would tell nothing.
        """
        loss = self._settings[self._now].loss
        better = [i for i, setting in enumerate(self._settings) if setting.loss < loss]
        most = self._reach * self.target_ms
        target = min(better, key=lambda i: costs[i], default=self._now)
        if costs[target] > most:  # no such guess is believed where nothing of the kind was ever seen
            target = min(better, key=lambda i: self._most.get(i, costs[i]), default=self._now)
        if target != self._now and not self._is_dearest(self._settings[target].vision, kinds):
            return "stay"
        self._since = 0
        if target == self._now or min(costs[target], self._most.get(target, math.inf)) > most:
            self._reach = min(REACH_MORE * self._reach, REACH_MOST)
            return "stay"
        self._last_up, self._reach, self._probe = self._steps, REACH, min(2 * self._probe, PROBE_MOST)
        return self._move(target, "probe")

    def _is_dearest(self, notch: int, kinds: Sequence[str]) -> bool:
        """True when the next step at a vision notch is of the kind, of those that count, that takes longest there."""
        curve, counted = self._curves[dials.VISION], self._shares[notch].counted
        return not counted or (curve.predict(notch, kinds[notch]) or 0.0) >= self._worst(curve, notch, counted)

    def _move(self, setting: int, why: str) -> str:
        self._now, self._since, self._better = setting, 0, 0
        self._changes += 1
        return why

    def _must_skip(self, predicted_ms: float) -> bool:
        """True when a whole frame has been lost and the best choice there is would not keep up.

        What a setting costs must have been seen just before: a frame is never left out on a guess.
        """
        if self._in_a_row >= self.max_skip or self._steps < LOOK_STEPS or self._now != self._ran:
            return False
        return self._pace.late and min(predicted_ms, self._recent_ms) > self._pace.room_ms

    @property
    def _recent_ms(self) -> float:
        """What a frame took lately; one slow step is made good by the next ones."""
        return sorted(self._lately)[len(self._lately) // 2]

    def _skip(self, frame: Frame) -> list[Event]:
        self._in_a_row, self.skipped, self.report = self._in_a_row + 1, self.skipped + 1, None
        self._gap = self._gap or frame.gap
        self._pace.ended(self._clock(), -self.target_ms)
        choice = Choice(frame.index, frame.time_s, self.setting, None, None, "skip")
        self.chose.append(choice)
        self._noted(choice)
        return []

    def _tune(self, setting: dials.Setting) -> None:
        """Tune the stream where it is not tuned yet."""
        methods = self.stream.pipeline.methods()
        if any(getattr(methods[role], f) != v for role, fields in setting.values.items() for f, v in fields.items()):
            self.stream.tune(**setting.values)

    def _learn(self, setting: dials.Setting, kind: str, took_ms: float, report: Report, *, fresh: bool) -> None:
        """Take in what a step took, stage by stage; ``fresh`` after a try: what was believed is given up if it fits."""
        if (costs := self._costs()) is not None:
            self._reached.append(took_ms / self._step_frames / (costs[self._now] / self._share))
        notch = {dials.VISION: (setting.vision, kind), dials.DECODER: (setting.decoder, ""), REST: (0, "")}
        spent = {group: sum(report.stage_ms.get(name, 0.0) for name in names) for group, names in STAGES.items()}
        spent[REST] = max(0.0, took_ms - sum(spent.values()))
        fits = took_ms <= MARGIN * self.target_ms * self._step_frames
        self._probe = PROBE_SOON if fresh and fits else self._probe
        drift, ran = self._drift(notch, spent), self._settings[self._ran]
        moved = {dials.VISION: ran.vision != setting.vision, dials.DECODER: ran.decoder != setting.decoder, REST: False}
        for group, curve in self._curves.items():
            if fresh and fits and moved[group]:
                curve.tried(*notch[group], spent[group], drift)
            else:
                curve.learn(*notch[group], spent[group], drift)
        self._steps, self._ran = self._steps + 1, self._now
        if self._steps > 1:  # the first pays for what is set up once
            self._most[self._now] = max(self._most.get(self._now, 0.0), took_ms / self._step_frames)
        if kind in self._shares[setting.vision].counted or self._now not in self._seen:
            self._seen.setdefault(self._now, {})[kind] = took_ms / self._step_frames
        self._lately.append(took_ms / self._step_frames)
        self._hopeless = self._steps > 1 and took_ms > HOPELESS * self.target_ms * self._step_frames
        if self._steps > LOOK_STEPS:
            self._took.append(took_ms / self._step_frames)
        if self._steps > LOOK_STEPS and kind in self._shares[setting.vision].counted:
            late = took_ms > self.target_ms * self._step_frames
            rise = CAUTION_UP if late and any(self._late) else CAUTION_DOWN
            self._caution = max(1.0, min(self._caution * rise, CAUTION_MOST))
            self._late.append(late)
            self._calm = 0 if late else self._calm
        if self._threads is not None:
            slow = max(self._curves[dials.VISION].load, self._curves[dials.DECODER].load)
            self._threads.look(self._now > 0, slow)

    def _drift(self, at: Mapping[str, tuple[int, str]], spent: Mapping[str, float]) -> float | None:
        """By how much this step was slower than typical where its dials stood still; None where that tells nothing.

        The load that has just changed is why dials move: a cost first seen in that step would be wrong by that change.
        """
        known = {group: ms for group, curve in self._curves.items() if (ms := curve.typical(*at[group])) is not None}
        if sum(known.values()) <= TELLING * sum(spent.values()):
            return None
        return max(sum(spent[group] for group in known), FLOOR_MS) / sum(known.values())

    def _note(self, frame: Frame, predicted: float | None, took_ms: float, why: str) -> None:
        last = next((choice for choice in reversed(self.chose) if choice.why != "skip"), None)
        choice = Choice(frame.index, frame.time_s, self.setting, predicted, took_ms, why)
        self.chose.append(choice)
        self._tally[choice.setting] += self._step_frames
        if (last.setting if last else "full") != choice.setting:
            self._noted(choice)
