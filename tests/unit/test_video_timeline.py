"""Stamps to seconds: exact, never backwards, and honest about what is counted."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest
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


MS = Fraction(1, 1000)
YEAR_MS = 365 * 86_400_000


def times_ms(stamps_ms, elapsed_s=None):
    """Times in milliseconds, and the numbers of the frames before which the stamps jumped."""
    timeline = Timeline(MS, 0, 25.0)
    placed = [timeline.place(stamp, elapsed_s) for stamp in stamps_ms]
    return [round(t * 1000) for t, _ in placed], [i for i, (_, jumped) in enumerate(placed) if jumped]


@pytest.mark.parametrize("count", [4, 5, 15, 24])
def test_a_sender_that_restarts_within_a_second_does_not_stop_time(count):
    placed, jumps = times_ms([40 * (i % count) for i in range(10 * count)])
    assert jumps == [i * count + 3 for i in range(1, 10)], "what four frames go on from is no jitter"
    assert [t for i, t in enumerate(placed) if i < count or i % count > 2] == [
        40 * i for i in range(10 * count) if i < count or i % count > 2
    ]


@pytest.mark.parametrize(
    ("stamps_ms", "most_ms"),
    [([0] * 600, 256 * 40), ([0, 40, 80] * 100, 5000), ([0, 40] * 150, 5000)],
    ids=["one", "three", "two"],
)
def test_time_does_not_stand_still_for_ever(stamps_ms, most_ms):
    placed, jumps = times_ms(stamps_ms)
    assert jumps
    assert max(40 * i - t for i, t in enumerate(placed)) <= most_ms


@pytest.mark.parametrize(("fps", "rate"), [(30, 25), (60, 30), (10, 5), (25, 25), (6, 1)])
def test_stamps_of_whole_seconds_are_taken_as_they_are(fps, rate):
    timeline = Timeline(Fraction(1), None, rate)
    placed = [timeline.place(i // fps) for i in range(60 * fps)]
    assert placed == [(i // fps, False) for i in range(60 * fps)]


def test_strong_jitter_leaves_the_clock_alone():
    dice = random.Random(1)
    stamps = [round(90_000 * (i / 25 + dice.uniform(-0.3, 0.3))) for i in range(2000)]
    timeline = Timeline(Fraction(1, 90_000), None, 25)
    placed = [timeline.place(stamp) for stamp in stamps]
    assert not any(jumped for _, jumped in placed)
    assert abs(placed[-1][0] - 80) < 1


def test_pauses_of_a_live_source_that_is_read_late_are_kept():
    """Its frames waited for us, so no time passed; a picture every 20 s, and a pause of five minutes."""
    timeline, times_s = Timeline(Fraction(1), None, 25), [0, 20, 40, 60, 360, 380, 400]
    placed = [timeline.place(stamp, elapsed_s=0.01)[0] for stamp in times_s]
    assert placed[2:] == times_s[2:]
    assert placed[1] == pytest.approx(0.04), "the first one is not believed"


@pytest.mark.parametrize(
    "stamps_ms",
    [
        [0, 160, 80, 40, 120, 320, 240, 200, 280, 480, 400, 360, 440, 640],
        [0, 240, 40, 80, 120, 160, 200, 480, 280, 320, 360, 400, 440, 640],
        [0, 40, 80, 600, 160, 200, 240, 280, 320, 360, 400, 440, 480, 640],
        [0, 90, 85, 86, 87, 88, 160, 200, 190, 240, 230, 280, 270, 640],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 640],
    ],
    ids=["pyramid of B-frames", "B-frames", "early", "jitter", "coarse"],
)
def test_disorder_of_less_than_a_second_leaves_the_clock_alone(stamps_ms):
    placed, jumps = times_ms(stamps_ms)
    assert placed == list(itertools.accumulate(stamps_ms, max))
    assert jumps == []


def test_a_live_stamp_far_ahead_of_the_clock_is_not_believed():
    assert times_ms([0, 40, 80, YEAR_MS, 160, 200], 0.04) == ([0, 40, 80, 120, 160, 200], [3])
    assert times_ms([0, 40, 80, -YEAR_MS, 160, 200, 240], 0.04) == ([0, 40, 80, 120, 160, 200, 240], [3, 4])


def test_a_live_clock_that_is_set_goes_on_from_there():
    assert times_ms([0, 40, *(YEAR_MS + 40 * i for i in range(4))], 0.04) == ([0, 40, 80, 120, 160, 200], [2])


def test_a_live_leap_that_the_clock_made_too_is_believed():
    assert times_ms([0, 40, 60_000, 60_040], 55.0) == ([0, 40, 60_000, 60_040], [])
    assert times_ms([0, 40, 9_000, 9_040], 0.04) == ([0, 40, 9_000, 9_040], [])


@given(
    st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40)), max_size=30),
    st.one_of(st.none(), st.floats(0, 1e7)),
)
def test_live_time_never_runs_backwards(stamps, elapsed_s):
    placed, _ = times_ms(stamps, elapsed_s)
    assert all(a <= b for a, b in itertools.pairwise([0, *placed]))


@given(st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40)), max_size=30), st.integers(-1000, 1000))
def test_time_never_runs_backwards(stamps, start):
    placed, _ = times(stamps, start=start)
    assert all(a <= b for (a, _), (b, _) in zip([(0.0, False), *placed], placed, strict=False))
