"""A stream of cuts, and comparing pipelines question by question."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import headrace
from headrace.bench.accuracy import FIRST_SEED, Setting, majority_row, run_seed
from headrace.bench.cuts import Cuts
from headrace.bench.ledger import Ledger, summarise
from headrace.bench.statistics import Outcome, accuracy, difference
from headrace.engine import Engine
from headrace.video.world import ALL_KINDS
from headrace.video.world.render import render
from unit.tiny import save_tiny

SETTING = Setting(seconds=6.0, every_s=1.0, h264=False, watches=0, cut_s=1.0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return headrace.load(save_tiny(tmp_path_factory.mktemp("model")), dtype="float32")


@given(seed=st.integers(0, 2**40), length=st.integers(2, 12), level=st.sampled_from(["easy", "standard", "hard"]))
def test_every_stretch_comes_out_of_one_scene(seed: int, length: int, level: str) -> None:
    source = Cuts(seed, level, length / 2)
    stretches = list(dict.fromkeys(source.at(index) for index in range(40)))
    assert [x.num for x in stretches[1:-1]] == [length] * (len(stretches) - 2)
    assert stretches[0].num == length - seed % 2
    assert [x.since for x in stretches] == [0, *(x.since + x.num for x in stretches[:-1])]
    for x in stretches:
        assert x.world.scene(x.start) == x.world.scene(x.start + x.num - 1)


def test_frames_are_the_worlds_and_questions_rest_on_their_stretch() -> None:
    source, asked = Cuts(3, "standard", 1.0), set()
    for frame in source.frames(60):
        stretch = source.at(frame.index)
        tick = stretch.start + frame.index - stretch.since
        assert frame.time_s == frame.index / 2
        assert torch.equal(frame.image, torch.from_numpy(render(stretch.world, tick)))
        for question in source.questions(frame.index):
            assert question.time_s == frame.time_s
            asked.add(question.kind)
            if question.kind == "digit":
                assert question.answer == str(stretch.world.scene(tick).digit(tick))
    assert {"colour", "where", "count", "digit", "shape"} <= asked
    assert not {kind for kind in asked if ALL_KINDS[kind].scenes_back}


def test_the_bench_runs_on_cuts(engine: Engine) -> None:
    names = ["dense", "stc_adaptive", "text-only"]
    rows = run_seed(engine, names, 1, SETTING)
    assert len({tuple(x.kind for x in row.outcomes) for row in (*rows, majority_row(1, SETTING))}) == 1
    wanted = [q.kind for tick in range(1, 12, 2) for q in Cuts(FIRST_SEED + 1, "standard", 1.0).questions(tick)]
    assert [x.kind for x in rows[0].outcomes] == wanted
    found = summarise(rows, names, 2, against="dense")
    assert found[0]["difference"] is None
    for item, row in zip(found[1:], rows[1:], strict=True):
        assert (item["difference"], item["difference_ci95"]) == difference(row.outcomes, rows[0].outcomes)
    assert summarise(rows, names, 2)[1]["difference"] is None


def test_what_is_not_possible() -> None:
    for values in ({"cut_s": 0.5}, {"cut_s": 7.0}, {"cut_s": -1.0}, {"cut_s": 1.0, "h264": True}, {"watches": 1}):
        with pytest.raises(ValueError, match="cut"):
            Setting(**({"h264": False, "watches": 0, "cut_s": 1.0} | values))


def test_oracles_know_one_world(engine: Engine) -> None:
    with pytest.raises(ValueError, match="oracle"):
        run_seed(engine, ["recent:2+oracle:1"], 0, SETTING)


def test_a_ledger_keeps_streams_with_cuts_apart(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Ledger(path, "m", SETTING, {}).add(majority_row(0, SETTING))
    assert Ledger(path, "m", SETTING, {}).has("majority", 0)
    assert not Ledger(path, "m", Setting(seconds=6.0, every_s=1.0, h264=False, watches=0), {}).rows


def outcomes(rights: dict[tuple[str, int], list[bool]]) -> list[Outcome]:
    return [Outcome(kind, seed, right) for (kind, seed), found in rights.items() for right in found]


def test_difference_by_hand() -> None:
    ours = outcomes({("a", 0): [True, True], ("a", 1): [True, False], ("b", 0): [True], ("b", 1): [False]})
    theirs = outcomes({("a", 0): [True, False], ("a", 1): [True, False], ("b", 0): [False], ("b", 1): [False]})
    gap, ci95 = difference(ours, theirs)
    # Kind a: +1 of 4, kind b: +1 of 2; stream 0 is as far above the mean as stream 1 below.
    assert gap == (0.25 + 0.5) / 2
    pull = ((1 - 2 * 0.25) / 4 + (1 - 0.5) / 2) / 2
    assert math.isclose(ci95, 12.7062 * math.sqrt(2 * pull**2 * 2))  # two streams: one degree of freedom
    # Equal answers: two more pairs are thought of beside those that 2 kinds of 4 and 2 questions are worth.
    assert difference(ours, ours) == (0.0, pytest.approx(1.959964 / (4 / (1 / 4 + 1 / 2) + 2)))
    for other in ([], theirs[:-1], outcomes({("a", 0): [True] * 6})):
        with pytest.raises(ValueError, match="same questions"):
            difference(ours, other)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans(), st.booleans()), min_size=1))
def test_difference_is_that_of_the_accuracies(rows: list[tuple[str, int, bool, bool]]) -> None:
    ours, theirs = ([Outcome(row[0], row[1], row[which]) for row in rows] for which in (2, 3))
    gap, ci95 = difference(ours, theirs)
    assert math.isclose(gap, accuracy(ours).macro - accuracy(theirs).macro, abs_tol=1e-9)
    assert ci95 >= 0


def test_the_interval_covers_the_truth() -> None:
    """200 made-up benches of 16 streams in which ours is 3 points better on average: about 95 % say so."""
    dice, covered = random.Random(1), 0
    for _ in range(200):
        ours, theirs = [], []
        for seed in range(16):
            luck = dice.gauss(0, 0.1)
            for _ in range(30):
                easy = dice.random() < 0.6 + luck
                theirs.append(Outcome("a", seed, easy))
                ours.append(Outcome("a", seed, easy or dice.random() < 0.03 / 0.4))
        gap, ci95 = difference(ours, theirs)
        covered += abs(gap - 0.03) <= ci95
    assert 175 <= covered <= 198


def test_equal_answers_are_no_proof_of_equality() -> None:
    """Two pipelines that seldom differ often answer all of a few questions alike; the interval knows it."""
    dice, covered, alike = random.Random(3), 0, 0
    for _ in range(400):
        theirs = [Outcome("a", seed, dice.random() < 0.9) for seed in range(3) for _ in range(9)]
        ours = [Outcome("a", x.seed, x.right and dice.random() >= 0.05) for x in theirs]
        gap, ci95 = difference(ours, theirs)
        covered += abs(gap + 0.9 * 0.05) <= ci95
        alike += gap == 0
    assert alike > 80
    assert covered >= 360
