"""The rules of live sources, one by one."""

from __future__ import annotations

import pytest

from headrace.video import Reconnect, VideoError
from headrace.video.live import LiveQueue
from unit.test_video_live import Clock, Tape, unbroken


def test_a_source_that_is_back_at_once_goes_on_behind_its_last_frame() -> None:
    """What it had gathered came faster than its own time passes."""
    source, _ = unbroken([Tape(0, 10), Tape(0, 1)], Clock(), Reconnect(tries=1, first_s=0.0, longest_s=0.0))
    assert [shot.time_s for shot in source.shots(0.0)] == pytest.approx([0, 10, 10.1, 11.1])


def test_what_ended_a_queue_first_is_what_ended_it() -> None:
    queue = LiveQueue(2)
    queue.end(VideoError("the cable was pulled"))
    queue.end()
    with pytest.raises(VideoError, match="the cable was pulled"):
        queue.get()
    assert queue.get() is None
