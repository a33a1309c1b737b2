"""Exact pixels beside H.264, and rows with settings."""

import dataclasses

import pytest

from headrace.bench import agreement as module
from headrace.bench.accuracy import FIRST_SEED, Setting, asked, frames, run_seed
from headrace.bench.agreement import agreement
from headrace.engine import Engine, load
from headrace.video.world import ALL_KINDS, World


@pytest.fixture(scope="module")
def nano() -> Engine:
    return load("nano")


SHORT = Setting(seconds=8, every_s=2, watches=0)
FEW = dataclasses.replace(SHORT, kinds="digit,where,colour")


def test_the_same_pixels_agree_wholly_and_others_less(nano: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    coded = agreement(nano, "recent:8", seeds=1, setting=FEW)
    assert coded.num == sum(len(asked(World(FIRST_SEED), tick, FEW)) for tick in range(3, 16, 4))
    assert 0.5 < coded.share <= 1
    monkeypatch.setattr(module, "frames", lambda world, num, h264: frames(world, num, h264=False))
    same = agreement(nano, "recent:8", seeds=1, setting=FEW)
    assert same.share == 1.0
    assert same.right[0] == same.right[1] == coded.right[0]
    monkeypatch.setattr(module, "frames", lambda world, num, h264: frames(World(world.seed + h264), num, h264=False))
    assert agreement(nano, "recent:8", seeds=1, setting=FEW).share < 0.8


def test_rows_take_settings_and_kinds(nano: Engine) -> None:
    setting = dataclasses.replace(SHORT, kinds="digit,backward tracing")
    names = ["recent:8+uniform:0.3", "recent:8+uniform:0.3@memory.positions=repack"]
    rows = run_seed(nano, names, 0, setting)
    assert "positions='repack'" in rows[1].pipeline
    assert "positions='auto'" in rows[0].pipeline
    kinds = {outcome.kind for outcome in rows[0].outcomes}
    assert "digit" in kinds
    assert all(kind == "digit" or ALL_KINDS[kind].group == "backward tracing" for kind in kinds)
    for wrong in ("tea", "forward active responding"):  # the latter is what standing instructions are for
        with pytest.raises(ValueError, match=f"kinds: '{wrong}' is unknown"):
            Setting(kinds=f"digit,{wrong}")
