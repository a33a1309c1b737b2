"""Live sources without a network: the queue, the thread, and coming back after a loss."""

from __future__ import annotations

import gc
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.types import Frame
from headrace.video import Reconnect, VideoError
from headrace.video.live import LiveQueue
from headrace.video.reconnect import Unbroken
from headrace.video.shots import Facts, Shot
from headrace.video.source import Notes, VideoSource, Wanted

IMAGE = torch.zeros(2, 2, 3, dtype=torch.uint8)


def frame(i, gap=False):
    return Frame(i, float(i), IMAGE, gap)


class Tape:
    """A reader that plays (time, gap) pairs; an exception in the list is raised, a callable is called."""

    def __init__(self, *items, live=True, fps=10.0, stamped=False):
        self.facts = Facts("tape", fps=fps, live=live)
        self.items, self.closed, self.stamped = items, 0, stamped

    def shots(self, start_s):
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            if callable(item):
                item()
            else:
                time_s, gap = item if isinstance(item, tuple) else (item, False)
                yield Shot(float(time_s), lambda: IMAGE, gap, float(time_s) if self.stamped else None)

    def close(self):
        self.closed += 1


class Clock:
    """Time that passes only when told, or when something waits."""

    def __init__(self):
        self.now, self.waits = 1000.0, []

    def __call__(self):
        return self.now

    def pass_s(self, seconds):
        return lambda: setattr(self, "now", self.now + seconds)

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += seconds


def unbroken(tapes, clock, policy=None):
    """Play tapes one after the other; an exception among them is a connection that fails."""
    notes, waiting = Notes(threading.Event()), list(tapes)

    def connect():
        tape = waiting.pop(0) if waiting else VideoError("no more")
        if isinstance(tape, Exception):
            raise tape
        return tape

    return Unbroken(connect(), connect, policy or Reconnect(tries=3), clock, clock.wait, notes), notes


def opened(reader, *, queue_frames=16, **wanted):
    stop = threading.Event()
    choice = Wanted(queue_frames=queue_frames, **wanted)
    return VideoSource(reader, choice, Notes(stop), stop, time.monotonic, stop.wait)


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 8))
def test_the_queue_keeps_the_newest_counts_the_rest_and_keeps_gap_marks(gaps, size):
    queue = LiveQueue(size)
    for i, gap in enumerate(gaps):
        queue.put(frame(i, gap))
    queue.end()
    got = list(iter(queue.get, None))
    left = max(0, len(gaps) - size)
    assert queue.dropped == left
    assert [f.index for f in got] == list(range(left, len(gaps)))
    if got:
        assert got[0].gap == any(gaps[: left + 1])
    assert [f.gap for f in got[1:]] == gaps[left + 1 :]


def test_a_slow_consumer_loses_the_oldest_and_numbers_stay_whole():
    may_go, all_sent = threading.Event(), threading.Event()
    s = opened(Tape(0, may_go.wait, *range(1, 20), all_sent.set), queue_frames=4)
    assert next(s).time_s == 0
    may_go.set()
    all_sent.wait(5)
    rest = list(s)
    assert [f.time_s for f in rest] == [16, 17, 18, 19]
    assert [f.index for f in rest] == [1, 2, 3, 4]
    assert s.dropped == 15


def test_nothing_is_read_before_the_first_next():
    tape = Tape(0, 1)
    s = opened(tape)
    assert s.live
    s.close()
    assert tape.closed == 1
    assert list(s) == []


def test_closing_wakes_a_consumer_that_waits():
    hang = threading.Event()
    s = opened(Tape(0, hang.wait))
    next(s)
    got = []
    consumer = threading.Thread(target=lambda: got.extend(s))
    consumer.start()
    began = time.monotonic()
    s._thread.close(patience_s=0.05)  # the reader hangs where nothing can interrupt it
    consumer.join(2)
    assert not consumer.is_alive()
    assert got == []
    assert time.monotonic() - began < 1
    hang.set()


def test_close_waits_for_a_thread_that_is_well():
    tape = Tape(*range(10_000))
    s = opened(tape, queue_frames=2)
    next(s)
    s.close()
    assert not s._thread._thread.is_alive()
    assert tape.closed == 1
    assert list(s) == []


def test_a_forgotten_source_ends_its_thread():
    go = threading.Event()
    s = opened(Tape(0, go.wait, *range(1, 10_000)), queue_frames=2)
    next(s)
    thread = s._thread._thread
    del s
    gc.collect()
    go.set()
    thread.join(2)
    assert not thread.is_alive()


def test_months_of_warnings_stay_few_and_a_closed_source_is_silent():
    stop = threading.Event()
    notes = Notes(stop)
    for i in range(1000):
        notes(str(i))
    assert notes.lines == [str(i) for i in range(800, 1000)]
    stop.set()
    notes("late")
    assert notes.lines[-1] == "999"


def test_what_goes_wrong_in_the_thread_is_raised_after_the_frames_before_it():
    s = opened(Tape(0, 1, RuntimeError("boom")))
    assert next(s).time_s == 0
    assert next(s).time_s == 1
    with pytest.raises(RuntimeError, match="boom"):
        next(s)
    assert list(s) == []


def test_a_loss_is_a_gap_and_adds_the_wall_clock():
    clock = Clock()
    first = Tape(5, clock.pass_s(1), 6, clock.pass_s(2), VideoError("cable"))
    again = Tape(90, clock.pass_s(0.5), 90.5)
    reader, notes = unbroken([first, VideoError("still off"), again], clock)
    shots = list(reader.shots(0.0))
    # 2 s until the loss was noticed, waits of 0.5 s and 1 s
    assert [(s.time_s, s.gap) for s in shots] == [(0, False), (1, False), (4.5, True), (5.0, False)]
    assert clock.waits[:2] == [0.5, 1.0]
    assert (first.closed, again.closed) == (1, 1)
    assert "lost (cable); trying again in 0.5 s" in notes.lines[0]
    assert "lost (still off); trying again in 1.0 s" in notes.lines[1]
    assert "is back at 4.5 s" in notes.lines[2]
    assert notes.lines[-1] == "tape was given up after 3 tries: no more"


def test_the_wait_doubles_up_to_its_cap_and_tries_are_bounded():
    clock = Clock()
    reader, _ = unbroken([Tape(0)], clock, Reconnect(tries=6, first_s=1, longest_s=5))
    assert len(list(reader.shots(0.0))) == 1
    assert clock.waits == [1, 2, 4, 5, 5, 5]


def test_connections_without_frames_count_as_failures():
    clock = Clock()
    tapes = [Tape(0)] + [Tape() for _ in range(9)]
    reader, _ = unbroken(tapes, clock)
    assert len(list(reader.shots(0.0))) == 1
    assert len(clock.waits) == 3
    assert sum(t.closed for t in tapes) == 4


def test_frames_reset_the_count_of_failures():
    clock = Clock()
    reader, _ = unbroken([Tape(i) for i in range(10)], clock, Reconnect(tries=1))
    assert len(list(reader.shots(0.0))) == 10


def test_no_tries_end_with_the_first_loss():
    clock = Clock()
    reader, notes = unbroken([Tape(0, 1)], clock, Reconnect(tries=0))
    assert len(list(reader.shots(0.0))) == 2
    assert notes.lines == ["tape ended: it ended"]
    assert clock.waits == []


def test_a_source_that_comes_back_with_a_length_has_ended():
    clock = Clock()
    closed = Tape(0, 1, 2, live=False)
    reader, _ = unbroken([Tape(0, 1), closed, Tape(5)], clock)
    assert [s.time_s for s in reader.shots(0.0)] == [0, 1]
    assert closed.closed == 1


def test_being_closed_while_waiting_ends_quietly():
    clock = Clock()
    reader, notes = unbroken([Tape(0)], clock, Reconnect(tries=None))
    reader._wait = lambda seconds: True
    assert len(list(reader.shots(0.0))) == 1
    assert len(notes.lines) == 1


@pytest.mark.parametrize("tape", [Tape(), Tape(VideoError("cable"))])
def test_a_live_source_without_a_frame_is_an_error(tape):
    clock = Clock()
    reader, _ = unbroken([tape], clock)
    s = opened(reader)
    with pytest.raises(VideoError, match="no frame of tape"):
        next(s)


def test_sampling_and_the_window_reach_across_a_loss():
    clock = Clock()
    first = Tape(*(i / 10 for i in range(11)))
    again = Tape(*(i / 10 for i in range(31)))
    reader, _ = unbroken([first, again], clock)
    s = opened(reader, fps=1.0, start_s=0.5, end_s=4.0)
    # the second connection begins 0.5 s after 1.0 s; the gap mark moves to the next sampled frame
    assert [(round(f.time_s, 6), f.gap) for f in s] == [(0.5, False), (1.5, True), (2.5, False), (3.5, False)]
    assert s.gaps == 1


@pytest.mark.parametrize(
    ("bad", "says"),
    [({"tries": -1}, "tries must be"), ({"first_s": -1}, "first_s"), ({"first_s": 9, "longest_s": 1}, "longest_s")],
)
def test_reconnect_rejects(bad, says):
    with pytest.raises(ValueError, match=says):
        Reconnect(**bad)


def playlist(clock, newest_s):
    """Twenty seconds of a live playlist: three pieces of the past at once, then one every ten seconds."""
    later = [item for k in (0, 10) for item in (clock.pass_s(10), *range(newest_s + k, newest_s + k + 10))]
    return Tape(*range(newest_s - 30, newest_s), *later, fps=1.0, stamped=True)


@pytest.mark.parametrize("away_s", [11, 14, 45, 1000])
def test_what_a_playlist_shows_again_after_a_loss_is_left_out_and_time_keeps_its_pace(away_s):
    clock = Clock()
    tapes = [playlist(clock, 2000 + k * (20 + away_s)) for k in range(4)]
    reader, _ = unbroken(tapes, clock, Reconnect(tries=1, first_s=away_s, longest_s=away_s))
    times = [s.time_s for s in reader.shots(0.0)]
    missed = max(0, away_s - 30)
    whole = range(50 + 3 * (20 + away_s))
    assert times == [t for t in whole if t < 50 or (t - 50) % (20 + away_s) >= missed], "every second once, at its time"


def test_a_playlist_whose_clock_was_set_loses_no_more_than_its_first_seconds():
    clock = Clock()
    for begins_s, lost in ((0, 0), (1995, 11)):
        again = Tape(*(x for i in range(30) for x in (begins_s + i, clock.pass_s(1))), fps=1.0, stamped=True)
        reader, _ = unbroken([playlist(clock, 2000), again], clock, Reconnect(tries=1))
        times = [s.time_s for s in reader.shots(0.0)]
        assert (times == sorted(set(times)), len(times)) == (True, 50 + 30 - lost)


def test_a_slow_camera_and_a_fast_one_lose_nothing_after_a_loss():
    """Where no burst was, frames are never taken for old ones, however far the source's clock has run away."""
    for pace in (0.5, 2.0):
        clock = Clock()
        tape = Tape(*(item for i in range(200) for item in (i * pace / 10, clock.pass_s(0.1))))
        again = Tape(*(item for i in range(50) for item in (i / 10, clock.pass_s(0.1))))
        reader, _ = unbroken([tape, again], clock, Reconnect(tries=1))
        times = [s.time_s for s in reader.shots(0.0)]
        assert len(times) == 250
        assert times[200] - times[199] >= 0.1
