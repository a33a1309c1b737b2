"""Stamps to seconds: exact, never backwards, and honest about what is counted."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from headrace.video.timeline import Timeline

TICK = Fraction(1, 90_000)


def times(stamps, start=None, rate=25.0):
    timeline = Timeline(TICK, start, rate)
    return [timeline.place(stamp) for stamp in stamps], timeline


def test_times_are_exact_fractions_of_the_stream():
    # after ten days of 29.97 fps, the nearest double to the exact time
    placed, _ = times([3003 * i + 7 for i in (0, 1, 25_894_105)], start=7)
    assert [t for t, _ in placed] == [0.0, float(Fraction(3003, 90_000)), float(Fraction(3003 * 25_894_105, 90_000))]


def test_a_first_stamp_before_the_promised_start_is_the_start():
    assert times([-900, 0, 900], start=0)[0] == [(0.0, False), (0.01, False), (0.02, False)]


def test_a_late_first_frame_keeps_its_time():
    assert times([9000, 18000], start=0)[0] == [(0.1, False), (0.2, False)]


def test_without_stamps_times_are_counted():
    placed, timeline = times([None] * 3, rate=10.0)
    assert [t for t, _ in placed] == [0.0, 0.1, 0.2]
    assert not timeline.stamped


def test_stamps_that_come_late_continue_the_counted_ones():
    placed, timeline = times([None, None, 500, 4100], start=500)
    assert placed == [(0.0, False), (0.04, False), (0.08, False), (0.12, False)]
    assert timeline.stamped


def test_a_small_step_back_waits_and_a_big_one_is_a_gap():
    placed, _ = times([0, 90_000, 85_000, 180_000, 0, 9000])
    assert placed == [(0.0, False), (1.0, False), (1.0, False), (2.0, False), (2.04, True), (2.14, False)]


@given(st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40)), max_size=30), st.integers(-1000, 1000))
def test_time_never_runs_backwards(stamps, start):
    placed, _ = times(stamps, start=start)
    assert all(a <= b for (a, _), (b, _) in zip([(0.0, False), *placed], placed, strict=False))
