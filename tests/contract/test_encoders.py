"""The contract of encoders, on every backbone."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch

from contract.plays import Case, EncoderPlay, equal, frozen, twin_of
from contract.streams import frames_of, places
from headrace.engine.state import fork
from headrace.protocols import SelectiveEncoder
from headrace.types import Frame, VisualTokens

STEPS = 4


def playing(case: Case, backbones: Any, dtype: torch.dtype = torch.float32) -> EncoderPlay:
    return EncoderPlay(case, case.build(), backbones(case.where, dtype))


def played(play: EncoderPlay) -> list[tuple[Any, VisualTokens]]:
    state, seen = play.init(), []
    for i in range(STEPS):
        state, tokens = play.step(state, play.item(1, i))
        seen.append((play.item(1, i), tokens))
    return seen


def test_tokens_have_their_places(encoder_case: Case, backbones: Any):
    """Every token of the grid, frame by frame in raster order, with index and time of its frame."""
    play = playing(encoder_case, backbones)
    size = play.spec.frames_per_step
    for frames, tokens in played(play):
        num = len(frames) // size
        assert tokens.grid == play.spec.grid
        assert tokens.frames == tuple(frame.index for frame in frames[::size])
        assert tokens.times_s == tuple(frame.time_s for frame in frames[::size])
        for got, want in zip((tokens.frame, tokens.row, tokens.col), places(num, tokens.grid), strict=True):
            assert got.tolist() == want.tolist()
        assert tokens.features.shape == (tokens.dense_len, play.spec.dim)


def test_full_budget_equals_the_dense_tower(encoder_identity: Case, backbones: Any):
    play = playing(encoder_identity, backbones)
    for frames, tokens in played(play):
        want = play.backbone.vision(play.backbone.pixels(frames), frames)
        torch.testing.assert_close(tokens.features, want.features, atol=1e-5, rtol=0)


def test_equals_the_naive_twin(encoder_case: Case, backbones: Any):
    play = playing(encoder_case, backbones)
    seen = played(play)
    want = twin_of(encoder_case.name).twin(play.method, play.backbone, [frames for frames, _ in seen])
    for (_, tokens), parts in zip(seen, want, strict=True):
        features = torch.cat([part.features for part in parts])
        torch.testing.assert_close(tokens.features, features, atol=1e-5 * float(features.abs().max()), rtol=0)


def test_says_which_patches_it_worked_on(encoder_case: Case, backbones: Any):
    """An encoder that leaves patches out names them, as its twin does; one that leaves none out has nothing to say."""
    play, state = playing(encoder_case, backbones), None
    twin, steps = twin_of(encoder_case.name), [play.item(1, i) for i in range(STEPS)]
    assert isinstance(play.method, SelectiveEncoder) == hasattr(twin, "updated")
    if not isinstance(play.method, SelectiveEncoder):
        assert play.init() is None, "an encoder with a state may reuse work: it has to say where"
        return
    state = play.init()
    for frames, want in zip(steps, twin.updated(play.method, play.backbone, steps), strict=True):
        state, _ = play.step(state, frames)
        found = play.method.updated(state, len(frames) // play.spec.frames_per_step)
        assert found.dtype == torch.bool
        assert [[set(torch.nonzero(x).flatten().tolist()) for x in layer] for layer in found] == want


def test_type_and_device_are_kept(encoder_case: Case, backbones: Any):
    for dtype in (torch.float32, torch.bfloat16):
        for _, tokens in played(playing(encoder_case, backbones, dtype)):
            assert tokens.features.dtype == dtype
            assert tokens.features.device.type == "cpu"
            assert bool(tokens.features.isfinite().all())


def test_without_a_state_the_cut_does_not_matter(encoder_case: Case, backbones: Any):
    """A method that remembers nothing gives the same for all frames at once as for each alone."""
    play = playing(encoder_case, backbones)
    size = play.spec.frames_per_step
    frames = frames_of(1, 3, 4 * size)
    if play.init() is None:
        _, together = play.step(None, frames)
        apart = [play.step(None, frames[i : i + size])[1] for i in range(0, len(frames), size)]
        features = torch.cat([part.features for part in apart])
        torch.testing.assert_close(together.features, features, atol=1e-5, rtol=0)
    else:
        state, one = play.step(play.init(), frames[:size])
        _, two = play.step(state, frames[:size])
        assert not equal(frozen(one), []), "a first step gives tokens"
        assert len(one) == len(two), "a repeated frame gives as many tokens"


def test_pictures_matter(encoder_case: Case, backbones: Any):
    play = playing(encoder_case, backbones)
    _, one = play.step(play.init(), play.item(1, 0))
    _, two = play.step(play.init(), play.item(2, 0))
    assert float((one.features - two.features).abs().max()) > 1e-3


def test_a_change_is_seen_where_it_is(encoder_case: Case, backbones: Any):
    """Of a still picture one cell changes after another: the token there moves most, or nearly (attention mixes).

    A still picture, because of one with noise an encoder that looks in the wrong place still finds something new there.
    """
    play = playing(encoder_case, backbones)
    rows, cols = play.spec.grid
    height, width = play.backbone.pixels(frames_of(1, 0, 1)).shape[-2:]
    still = torch.full((height, width, 3), 90, dtype=torch.uint8)
    first, before = play.step(play.init(), shown(play, still, 0))
    wrong = []
    for place, (row, col) in enumerate(product(range(rows), range(cols))):
        image = still.clone()
        image[row * height // rows : (row + 1) * height // rows, col * width // cols : (col + 1) * width // cols] = 255
        _, after = play.step(fork(first), shown(play, image, 1))
        moved = (after.features - before.features).float().norm(dim=-1)
        if moved[place] <= 0.5 * moved.max():
            wrong.append(((row, col), divmod(int(moved.argmax()), cols)))
    assert not wrong, f"(changed, seen at): {wrong}; do rows of the tower stand where spec.patch_order says?"


def shown(play: EncoderPlay, image: torch.Tensor, step: int) -> tuple[Frame, ...]:
    """One temporal step of a picture."""
    size = play.spec.frames_per_step
    return tuple(Frame(step * size + f, float(step * size + f), image) for f in range(size))
