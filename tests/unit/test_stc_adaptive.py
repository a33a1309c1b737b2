"""``stc_adaptive``: what it spends on still pictures, cuts, motion, light and shake."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from headrace.cli.output import step_line
from headrace.engine import Pipeline, load
from headrace.methods.encoders.stc_adaptive import AdaptiveState, StcAdaptive
from headrace.ops.grid import raster_order, spread
from headrace.registry import build
from headrace.types import Frame, VisualTokens
from headrace.video.world import LEVELS, World, frames
from parity.families import kin


@pytest.fixture(scope="module")
def nano() -> Any:
    return load("nano", dtype="float32", device="cpu").backbone


def shots(images: Iterable[Tensor]) -> list[Frame]:
    return [Frame(i, i / 2, image) for i, image in enumerate(images)]


def picture(seed: int, tick: int = 0, level: str = "standard") -> Tensor:
    return next(iter(frames(World(seed, LEVELS[level]), tick, tick + 1))).image


def noisy(image: Tensor, amount: float, seed: int) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image + amount * noise).round().clamp(0, 255).to(torch.uint8)


def run(backbone: Any, images: Sequence[Frame], **values: Any) -> tuple[list[AdaptiveState], list[VisualTokens]]:
    method, states, seen = StcAdaptive(**values), [], []
    state = method.init(backbone.spec)
    with torch.no_grad():
        for frame in images:
            state, tokens = method.step(state, [frame], backbone)
            states.append(state)
            seen.append(tokens)
    return states, seen


def spent(states: Sequence[AdaptiveState]) -> list[float]:
    return [state.spent for state in states]


def test_a_repeated_picture_costs_nothing_and_gives_the_same(nano: Any):
    states, seen = run(nano, shots([picture(3)] * 70))
    assert spent(states) == [1.0, *[0.0] * 63, 1.0, *[0.0] * 5]
    assert all(torch.equal(tokens.features, seen[0].features) for tokens in seen)
    assert [tokens.frames for tokens in seen] == [(i,) for i in range(70)]
    assert [tokens.times_s for tokens in seen] == [(i / 2,) for i in range(70)]


@pytest.mark.parametrize("amount", [1.0, 3.0, 6.0, 12.0])
@pytest.mark.parametrize("seed", [None, 3])
def test_a_still_picture_under_noise_costs_a_quarter_at_most(nano: Any, seed: int | None, amount: float):
    """A scene, and a room without light, where nothing but noise is there to compare noise with."""
    image = torch.full((128, 128, 3), 6, dtype=torch.uint8) if seed is None else picture(seed)
    states, _ = run(nano, shots(noisy(image, amount, i) for i in range(40)))
    assert sum(spent(states)[1:]) / 39 <= 0.25


def test_a_cut_costs_one_dense_frame(nano: Any):
    images = [picture(seed) for seed in (3, 3, 3, 4, 4, 5, 5, 6)]
    states, seen = run(nano, shots(images))
    assert spent(states) == [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    for frame, tokens in zip(shots(images), seen, strict=True):
        assert torch.allclose(tokens.features, nano.vision(nano.pixels([frame]), [frame]).features, atol=1e-5)


@pytest.mark.parametrize("level", ["standard", "hard"])
def test_cuts_are_found(nano: Any, level: str):
    """Scenes of two frames, and the same scene moving on; at the hard level everything else changes, too."""
    worlds = [World(seed, LEVELS[level]) for seed in range(20, 50)]
    images = [image for world in worlds for image in (f.image for f in frames(world, 3, 5))]
    costs = spent(run(nano, shots(images))[0])
    assert sum(cost == 1.0 for cost in costs[::2]) >= 29
    assert sum(costs[1::2]) / 30 <= 0.4


def test_something_small_is_seen_at_once_and_costs_little(nano: Any):
    """A square comes, stays and goes; the patches around it are computed when it comes and when it goes."""
    empty = picture(3)
    full = empty.clone()
    full[66:78, 34:46] = 255
    states, seen = run(nano, shots([empty, empty, full, full, empty, empty]))
    around = torch.zeros(16, 16, dtype=torch.bool)
    around[7:11, 3:7] = True  # the square covers rows 8 and 9, columns 4 and 5
    assert [bool(cost) for cost in spent(states)] == [True, False, True, False, True, False]
    for state in (states[2], states[4]):
        assert state.worked is not None
        assert torch.equal(state.worked.view(16, 16), around)
        assert state.spent == float(around.float().mean())
    assert torch.equal(seen[2].features, seen[3].features)


def test_small_changes_add_up_to_a_full_pass(nano: Any):
    empty = picture(3)
    images = []
    for i in range(30):
        image = empty.clone()
        image[66:78, 20 + 3 * i : 32 + 3 * i] = 255
        images.append(image)
    costs = spent(run(nano, shots(images))[0])
    assert 0 < costs[1] <= 0.4
    assert 2 <= sum(cost == 1.0 for cost in costs) <= 10
    assert costs == spent(run(nano, shots(images))[0])
    patient = spent(run(nano, shots(images), drift=100.0)[0])
    assert sum(cost == 1.0 for cost in patient) == 1
    assert max(patient[1:]) <= 0.4


def test_light_that_swings_is_no_cut(nano: Any):
    image = picture(3).float()
    swing = [1 + 0.08 * (abs(i % 8 - 4) / 4 - 0.5) for i in range(24)]
    costs = spent(run(nano, shots((image * gain).clamp(0, 255).to(torch.uint8) for gain in swing))[0])
    assert sum(costs[1:]) / len(costs[1:]) <= 0.5


def test_a_shaking_camera_stays_below_the_clock(nano: Any):
    """The hard level shakes, pans, swings its light and has noise; the published clock spends .65 of dense there."""
    costs = [spent(run(nano, list(frames(World(seed, LEVELS["hard"]), 0, 40)))[0]) for seed in (1, 2)]
    assert sum(map(sum, costs)) / 80 <= 0.65


def test_bounds_hold(nano: Any):
    images = list(frames(World(1, LEVELS["hard"]), 0, 18))
    for least, most in ((0.0, 0.1), (0.2, 0.2), (0.3, 0.5)):
        costs = spent(run(nano, images, least=least, most=most, drift=1e6, max_age=10)[0])
        assert [i for i, cost in enumerate(costs) if cost == 1.0] == [0, 10]
        assert all(int(256 * least) / 256 <= cost <= int(256 * most) / 256 for cost in costs if cost != 1.0)


def test_the_oldest_patches_come_first(nano: Any):
    """With a least share every patch of a still picture is computed again, in turn."""
    states, _ = run(nano, shots([picture(3)] * 5), least=0.25)
    turns = [state.worked for state in states[1:]]
    assert torch.stack([turn for turn in turns if turn is not None]).sum(0).eq(1).all()


def test_the_most_goes_before_the_least(nano: Any):
    """A governor turns the most; nothing may hold it up."""
    states, _ = run(nano, shots(picture(3, tick) for tick in range(8)), least=0.5, most=0.1, drift=1e6)
    assert all(cost <= 0.1 for cost in spent(states)[1:])


def test_change_that_is_put_off_does_not_count_as_drift(nano: Any):
    """No patch counts for more than 1, and only patches that were computed count."""
    (_, state), _ = run(nano, shots(picture(3).roll(5 * tick, 1) for tick in range(2)), most=0.05, drift=1e6)
    assert 0 < state.drift <= state.spent <= 0.05


def test_what_lies_still_says_how_much_is_noise_also_where_it_is_less_than_half(nano: Any):
    image = picture(3).clamp(60, 180)
    brighter = image.clone()
    brighter[:, :80] += 9
    costs = spent(run(nano, shots([image, brighter]), most=1.0, halo=0, drift=1e9)[0])
    assert costs == [1.0, 80 / 128]


def test_where_everything_moves_everything_is_computed(nano: Any):
    """The quieter quarter of such a picture says nothing of noise."""
    texture = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(0)).byte()
    texture = texture.repeat_interleave(4, 0).repeat_interleave(4, 1)
    states, _ = run(nano, shots(texture.roll(4 * tick, 1) for tick in range(6)), most=1.0, halo=0, drift=1e9)
    assert spent(states) == [1.0] * 6


def test_a_full_pass_that_comes_by_age_is_no_cut(nano: Any):
    """Motion that goes on was there before it."""
    images = [picture(3).roll(3 * tick, 1) for tick in range(20)]
    costs = spent(run(nano, shots(images), max_age=6, drift=1e9, noise=0.0)[0])
    full = [i for i, cost in enumerate(costs) if cost == 1.0 and i > 1]
    assert full
    assert all(b - a == 6 for a, b in pairwise(full))


@pytest.mark.parametrize("name", ["stc_cacher", "stc_adaptive"])
def test_another_grid_of_as_many_patches_is_encoded_afresh(name: str):
    wide, tall = (kin("qwen2_5_vl").looking(frame) for frame in oblongs())
    assert wide.spec.patch_grid == tall.spec.patch_grid[::-1] != tall.spec.patch_grid
    method, state = build(name), None
    with torch.no_grad():
        for where, frame in zip((wide, tall), oblongs(), strict=True):
            state, seen = method.step(state or method.init(where.spec), [frame, frame], where)
            dense = build("dense").step(None, [frame, frame], where)[1]
            assert torch.allclose(seen.features, dense.features, atol=1e-5)


def oblongs() -> tuple[Frame, Frame]:
    """A wide picture, and a tall one of the same patches in the same order, to which nothing seems to have moved."""
    wide = torch.randint(0, 256, (28, 112, 3), generator=torch.Generator().manual_seed(1)).byte()
    return Frame(0, 0.0, wide), Frame(0, 0.0, torch.cat(wide.split(28, 1)))


def test_how_frames_are_cut_into_steps_changes_nothing(nano: Any):
    images, method = list(frames(World(5, LEVELS["hard"]), 0, 12)), StcAdaptive()
    _, alone = run(nano, images)
    state, together = method.init(nano.spec), []
    with torch.no_grad():
        for start, stop in ((0, 1), (1, 4), (4, 9), (9, 12)):
            state, tokens = method.step(state, images[start:stop], nano)
            together += tokens.split()
            assert method.updated(state, stop - start).shape == (4, stop - start, 256)
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one.features, other.features, atol=1e-4)


def test_a_slow_change_is_not_lost(nano: Any):
    """Every step is below the noise, but patches are compared with what they were computed from."""
    dark, states = torch.full((128, 128, 3), 90.0), []
    spot = torch.zeros(128, 128, 3)
    spot[40:72, 40:72] = 1.0
    states, _ = run(nano, shots((dark + i * spot).to(torch.uint8) for i in range(60)))
    assert any(0 < state.spent < 1 for state in states)
    assert sum(spent(states)) < 15


def test_the_report_says_what_was_spent():
    engine = load("nano", dtype="float32", device="cpu")
    for pipeline, want in (("stc_adaptive", [1.0, 0.0, 1.0]), ("dense", [None] * 3)):
        with engine.open(pipeline) as stream:
            found = []
            for frame in shots([picture(3), picture(3), picture(4)]):
                stream.push(frame)
                assert stream.report is not None
                found.append(stream.report.spent)
                assert ("tower" in step_line(stream.report)) == (pipeline != "dense")
        assert found == want


def test_pipelines():
    assert Pipeline.parse("stc_adaptive:0.2").encoder == StcAdaptive(drift=0.2)
    assert replace(StcAdaptive(), most=0.1, least=0.3) == StcAdaptive(least=0.3, most=0.1)


@given(rows=st.integers(1, 6), cols=st.integers(1, 6), reach=st.integers(0, 3), seed=st.integers(0, 99))
def test_spread_is_a_neighbourhood(rows: int, cols: int, reach: int, seed: int):
    mask = torch.rand(rows * cols, generator=torch.Generator().manual_seed(seed)) < 0.2
    marked = [divmod(int(n), cols) for n in torch.nonzero(mask)]
    want = [
        any(abs(n // cols - r) <= reach and abs(n % cols - c) <= reach for r, c in marked) for n in range(len(mask))
    ]
    assert spread(mask, (rows, cols), reach).tolist() == want
    order = torch.randperm(rows * cols, generator=torch.Generator().manual_seed(seed))
    found = spread(mask[order], (rows, cols), reach, order=order)
    assert found.tolist() == [want[place] for place in order.tolist()]
    assert raster_order(found, order).tolist() == want
