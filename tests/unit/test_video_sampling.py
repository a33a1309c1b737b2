"""Choosing by time, against naive twins that look at the whole list at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.video.sampling import SLACK_S, pace, sample, window
from headrace.video.shots import Shot

IMAGE = torch.zeros(1, 1, 3, dtype=torch.uint8)

times = st.lists(st.integers(0, 20_000), max_size=40).map(lambda ms: [m / 1000 for m in sorted(ms)])
rates = st.one_of(st.sampled_from([1.0, 2.0, 25.0, 30.0, 0.3]), st.floats(0.05, 200))


def shots_at(times_s, gaps=()):
    return [Shot(t, lambda: IMAGE, i in gaps) for i, t in enumerate(times_s)]


def on_screen(times_s, fps):
    """For every instant before the end: the last frame that is due; each frame once."""
    chosen: list[int] = []
    slack = min(SLACK_S, 0.25 / fps)
    until = 2 * times_s[-1] - times_s[-2] - 2 * slack if len(times_s) > 1 else 0.0
    until = max(until, times_s[-1] - slack) if times_s else until  # before, another shot is on the screen
    k = 0
    while times_s and (k == 0 or times_s[0] + k / fps < until):
        due = [i for i, t in enumerate(times_s) if t - slack <= times_s[0] + k / fps]
        if not chosen or due[-1] != chosen[-1]:
            chosen.append(due[-1])
        k += 1
    return chosen


@given(times, rates)
@example([0.001, 0.019, 0.027, 0.027], 121.0)  # the last two at once
def test_sample_equals_the_naive_twin(times_s, fps):
    shots = shots_at(times_s)
    assert [shots.index(s) for s in sample(shots, fps)] == on_screen(times_s, fps)


@given(times, rates, st.data())
def test_sampling_goes_on_where_it_stopped(times_s, fps, data):
    """From any shot that was chosen on; which instants there are does not depend on where one begins to look."""
    times_s = sorted({0.0, *times_s})  # of shots at one time any may be seen
    shots = shots_at(times_s)
    whole = list(sample(shots, fps))
    at = data.draw(st.integers(0, len(whole) - 1))
    rest = window(shots, whole[at].time_s, None)
    again = [s for s in sample(rest, fps, times_s[0]) if s.time_s > whole[at].time_s]
    assert again == whole[at + 1 :]


@given(times, rates, st.sets(st.integers(0, 39)))
def test_a_gap_is_never_lost_between_two_chosen_frames(times_s, fps, gaps):
    shots = shots_at(times_s, gaps)
    kept = list(sample(shots, fps))
    numbers = on_screen(times_s, fps)
    for j, shot in enumerate(kept):
        since = numbers[j - 1] + 1 if j else 0
        assert shot.gap == any(i in gaps for i in range(since, numbers[j] + 1))


@given(times, st.floats(0, 20), st.floats(0, 20))
def test_window_equals_a_filter(times_s, a, b):
    start, end = min(a, b), max(a, b)
    assert [s.time_s for s in window(shots_at(times_s), start, end)] == [t for t in times_s if start <= t < end]


def test_window_stops_reading_at_the_end():
    source = iter(shots_at([0.0, 1.0, 2.0, 3.0]))
    assert len(list(window(source, None, 1.5))) == 2
    assert next(source).time_s == 3.0


@pytest.mark.parametrize("digits", [3, 9])
def test_asking_for_the_rate_of_the_source_gives_every_frame(digits):
    times_s = [round(i / 30, digits) for i in range(90)]
    assert len(list(sample(shots_at(times_s), 30.0))) == 90
    assert len(list(sample(shots_at(times_s), 1000.0))) == 90
    assert [s.time_s for s in sample(shots_at(times_s), 1.0)] == [0.0, 1.0, 2.0]


def test_no_rate_hands_everything_through():
    shots = shots_at([0.0, 0.0, 5.0])
    assert list(sample(shots, None)) == shots


def test_pace_waits_for_the_presentation_time_and_forgives_lateness():
    now, waits = [100.0], []

    def wait(seconds):
        waits.append(round(seconds, 6))
        now[0] += seconds

    paced = pace(shots_at([4.0, 4.5, 5.0, 6.0]), lambda: now[0], wait)
    assert next(paced).time_s == 4.0
    next(paced)
    now[0] += 2.0  # a slow consumer: the next one is due long since
    assert [s.time_s for s in paced] == [5.0, 6.0]
    assert waits == [0.5]
