"""What the governor promises: the target holds ten frames on whatever loads the core, and full quality returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from headrace.engine.costs import Curve
from headrace.engine.governor import Governor
from unit.promise import FIRST, KINDS, TEXTS, Load, World, broken, fell_behind, live, p95, within_queue
from unit.simulated import LiveSource, Prices, SimulatedStream, blank


def prices() -> st.SearchStrategy[Prices]:
    """Machines and models: the tower dearer than the decoder or cheaper, nearly all of it fixed or hardly any."""
    logarithm, share = st.floats(0, 3), st.floats(0.01, 0.5)
    return st.builds(
        lambda tower, prefill, *rest: Prices(10**tower, rest[0], 10**prefill, *rest[1:]),
        *(logarithm, logarithm, share, share, st.floats(0.5, 2), st.floats(0, 2)),
    )


def worlds() -> st.SearchStrategy[World]:
    loads = st.builds(
        Load,
        kind=st.sampled_from(KINDS),
        begin=st.integers(0, 140),
        length=st.integers(50, 180),
        slow=st.floats(1.2, 2.8),
        period=st.integers(3, 40),
    )
    return st.builds(
        World,
        prices=prices(),
        load=loads,
        noise=st.floats(0, 0.08),
        times=st.floats(4, 8),
        text=st.sampled_from(TEXTS),
        own_ms=st.floats(0, 30),
        seed=st.integers(0, 2**20),
    )


FOUND = (  # by a search; what was broken in them with earlier rules
    World(
        Prices(524.8074602497728, 0.5, 1, 0.0859, 1.93, 1.6),
        Load("slices", 0, 117, 2.19, 9),
        0.00667,
        4,
        "stc_cacher+uniform:60",
        seed=901048,
    ),  # not full at the end
    World(
        Prices(512.8613839913648, 0.01, 1.455459080581966, 0.0651, 1.55, 0.861),
        Load("slices", 0, 93, 1.94, 3),
        0.0495,
        7.68,
        "stc",
        seed=928883,
    ),  # p95 1.44 targets under load
    World(
        Prices(1000, 0.135, 3.2359365692962827, 0.2, 1.53, 1.44),
        Load("uneven", 140, 173, 1.33, 3),
        0.0353,
        7.33,
        "stc_cacher+uniform:60",
        seed=282734,
    ),  # 51 changes
    World(
        Prices(346.73685045253166, 0.117, 1.5205475297324955, 0.277, 1.13, 0.602),
        Load("slices", 110, 180, 1.91, 40),
        0.08,
        7.88,
        "stc_cacher+uniform:60",
        seed=699936,
    ),  # 51 changes
    World(
        Prices(234.42288153199226, 0.112, 3.8636697705406915, 0.174, 0.566, 1.78),
        Load("uneven", 0, 84, 2.24, 40),
        0.0312,
        6.91,
        "stc_cacher:1.0+uniform:1.0",
        seed=43643,
    ),  # not full at the end
    World(
        Prices(44.6683592150963, 0.233, 1, 0.236, 1.31, 0),
        Load("uneven", 140, 124, 2.48, 12),
        0.0514,
        7.0,
        "stc_cacher:1.0+uniform:1.0",
        seed=188264,
    ),  # not full at the end
    World(
        Prices(512.8613839913648, 0.257, 1, 0.0814, 1.07, 1.11),
        Load("slices", 127, 174, 2.76, 9),
        0.0781,
        5.43,
        "stc",
        seed=211239,
    ),  # not full at the end
    World(
        Prices(12.882495516931343, 0.0631, 218.77616239495518, 0.238, 0.984, 0.848),
        Load("rising", 103, 146, 2.4, 34),
        0.292,
        4,
        "stc",
        seed=207314,
    ),  # p95 1.25 targets under load, on a noisy machine and without caution after late steps
)


@pytest.mark.parametrize("world", FOUND, ids=lambda world: str(world.seed))
def test_worlds_that_once_broke_the_promise(world: World) -> None:
    assert broken(world) == []


@settings(max_examples=60)
@given(world=worlds())
@example(
    World(
        Prices(1.7, 0.11, 1, 0.32, 0.88, 0.3),
        Load("on and off", 27, 171, 2.8, 3),
        0.025,
        4,
        "stc_cacher:1.0+uniform:1.0",
        20,
        408,
    )
)  # never full
def test_the_target_holds_while_a_process_loads_the_core_and_quality_returns(world: World) -> None:
    assert broken(world) == []


@settings(max_examples=15)
@given(world=worlds())
@example(
    World(
        Prices(87.09635899560806, 0.151, 3.53183169791957, 0.129, 1.6, 2),
        Load("slices", 68, 160, 2.6, 18),
        0.0626,
        5.64,
        "stc_cacher:1.0+uniform:1.0",
        20.3,
        661784,
    )
)  # skip 1, where a slow step may be predicted to take more than the target
@example(
    World(
        Prices(5.4, 0.28, 1000, 0.074, 0.69, 0.5),
        Load("steady", 126, 63, 2.8, 34),
        0.03,
        4,
        "stc_cacher:0.5+uniform:0.5",
        13,
        507,
    )
)  # skip 34
@example(
    World(
        Prices(750, 0.01, 98, 0.36, 0.5, 0.7),
        Load("steady", 82, 105, 2.8, 29),
        0.03,
        4,
        "stc_cacher:0.5+uniform:0.5",
        7.8,
        248,
    )
)  # skip 49
@example(
    World(
        Prices(35, 0.01, 51, 0.26, 1, 0),
        Load("on and off", 65, 126, 2.8, 3),
        0.03,
        4,
        "stc_cacher:0.5+uniform:0.5",
        27,
        672,
    )
)  # skip 22
@example(
    World(
        Prices(140, 0.24, 1000, 0.01, 0.5, 1.6),
        Load("on and off", 140, 50, 2.8, 38),
        0.03,
        4,
        "stc_cacher:0.5+uniform:0.5",
        30,
        466,
    )
)  # skip 20
@example(
    World(
        Prices(520, 0.055, 26, 0.5, 0.77, 1.1),
        Load("on and off", 126, 168, 2.7, 36),
        0.03,
        4,
        "stc_cacher:0.5+uniform:0.5",
        0,
        45,
    )
)  # skip 3
@example(
    World(
        Prices(1000, 0.01, 290, 0.34, 0.86, 0.37),
        Load("steady", 47, 61, 2.8, 31),
        0.03,
        4,
        "stc_cacher:0.5+uniform:0.5",
        29,
        362,
    )
)  # skip 31
@example(
    World(
        Prices(2.2, 0.01, 25, 0.025, 0.5, 0),
        Load("steady", 121, 50, 2.4, 18),
        0.03,
        4,
        "stc_cacher:0.5+uniform:0.5",
        30,
        1,
    )
)  # skip 24
@example(
    World(
        Prices(440, 0.085, 1000, 0.15, 0.79, 0.64),
        Load("on and off", 127, 62, 2.8, 4),
        0.03,
        4,
        "stc_cacher:0.5+uniform:0.5",
        20,
        694,
    )
)  # skip 11
def test_nobody_falls_behind_a_live_source_for_which_there_is_time(world: World) -> None:
    assume(within_queue(world.prices))
    assert fell_behind(world) == []


def test_a_load_from_the_first_frame_on_is_met_before_the_tenth() -> None:
    stream = SimulatedStream(prices=Prices(400.0, 0.05, 200.0, 0.05), load=lambda frame: 2.0)
    governor = Governor(stream, target_ms=4 * stream.prices.cheapest, clock=stream.clock)
    for index in range(40):
        governor.push(blank(index))
    assert [choice.took_ms > 1.1 * governor.target_ms for choice in governor.chose][3:] == [False] * 37, (
        "two looks tell"
    )


def test_no_frame_is_skipped_on_a_guess() -> None:
    """A step takes ten targets once; what was never tried is guessed too dear, and tried before a frame is left out."""
    stream = SimulatedStream(prices=Prices(40.0, 0.02, 20.0, 0.02), load=lambda frame: 8.0 if frame >= 20 else 1.0)
    governor = Governor(stream, target_ms=70.0, clock=stream.clock)
    for index in range(60):
        governor.push(blank(index))
    assert governor.skipped == 0
    assert governor.setting != "full"


@dataclass(frozen=True)
class Bent(Prices):
    """Picking few patches costs more than computing all of them, as on a machine that gathers slowly."""

    def encode(self, encoder: Any, kind: str) -> float:
        return self.tower * (1.0 if kind == "refresh" or encoder.update_ratio == 1 else 2.0)


def test_where_nothing_fits_the_cheapest_is_taken_not_the_one_that_leaves_out_most() -> None:
    stream = SimulatedStream(prices=Bent(), text="stc_cacher:1.0+uniform:1.0", noise=0.0)
    governor = Governor(stream, target_ms=2.0, max_skip=0, clock=stream.clock)
    for index in range(100):
        governor.push(blank(index))
    cheapest = {"keep=0.05", "refresh_interval=64 keep=0.05"}  # with every patch computed an interval is all the same
    assert {choice.setting for choice in list(governor.chose)[20:]} <= cheapest


def test_a_live_source_is_kept_up_with_where_something_else_takes_time_too() -> None:
    """A step may take 95 of 100 ms, but 20 pass between two: who only looks at steps loses a frame in seven."""
    dear = {"prices": Prices(tower=45.0, prefill=44.0), "text": "stc_cacher:1.0+uniform:1.0"}
    unaware, _ = live(20.0, keep_up=False, **dear)
    assert len(unaware.lost) > 20, "else this is no test"
    source, governor = live(20.0, **dear)
    assert len(source.lost) + governor.skipped <= 2
    assert p95(list(governor.chose)[FIRST:], 100.0) <= 0.9


def test_an_answer_that_took_long_is_caught_up_with() -> None:
    """300 ms for an answer every 30 frames: steps give way until the queue is empty, and no frame is lost."""
    shown = SimulatedStream(prices=Prices(tower=45.0, prefill=45.0), text="stc_cacher:1.0+uniform:1.0")
    source = LiveSource(shown, 400, 0.1)
    governor = Governor(shown, target_ms=100.0, clock=shown.clock)
    for frame in governor.awaiting(source):
        governor.push(frame)
        shown.now_s += 0.3 if frame.index % 30 == 29 else 0.0
    assert source.lost == []
    assert governor.skipped == 0
    settings_seen = [choice.setting for choice in governor.chose]
    assert settings_seen.count("full") > len(settings_seen) // 2


def test_steps_give_way_where_answers_take_more_than_steps_leave() -> None:
    """Steps leave 7 of 100 ms, and every 40 frames an answer takes 600: without giving way the queue would fill."""
    shown = SimulatedStream(prices=Prices(tower=46.5, prefill=46.0), text="stc_cacher:1.0+uniform:1.0", noise=0.0)
    source = LiveSource(shown, 500, 0.1)
    governor = Governor(shown, target_ms=100.0, clock=shown.clock)
    for frame in governor.awaiting(source):
        governor.push(frame)
        shown.now_s += 0.6 if frame.index % 40 == 39 else 0.0
    assert source.lost == []
    assert governor.skipped == 0


def test_a_costly_frame_from_time_to_time_does_not_pull_points_apart() -> None:
    """Kinds take turns while the load flips every third step: what is known of a notch stays what it was."""
    curve = Curve([1.0, 0.5])
    for step in range(200):
        kind, slow = ("refresh", 100.0) if step % 2 else ("reuse", 40.0), 2.5 if step // 3 % 2 and step > 20 else 1.0
        curve.learn(0, kind[0], kind[1] * slow)
    for _ in range(20):
        curve.learn(0, "refresh", 100.0)
        curve.learn(0, "reuse", 40.0)
    assert curve.predict(0, "refresh") == pytest.approx(100.0, rel=0.1)
    assert curve.predict(0, "reuse") == pytest.approx(40.0, rel=0.1)
