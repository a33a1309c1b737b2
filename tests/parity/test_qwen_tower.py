"""The towers of Qwen2.5-VL and Qwen3-VL give transformers' own features, whole and in parts."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

from headrace.backbones import adopt
from headrace.backbones.plain.qwen_vl import patch_rows
from headrace.backbones.qwen_tower import learned_places, sort_rows
from headrace.backbones.tower import run_tower
from headrace.methods.encoders.stc_cacher import StcCacher
from headrace.types import View
from parity.families import kin
from parity.models import frames

QWEN = pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
SIZES = [(28, 28), (70, 42), (42, 98), (84, 56), (14, 14)]  # windows of 2x2 tokens of 14 px: whole, ragged, one


def bound(family: str, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Any]:
    """The plain model, and the backbone on it for frames of exactly this size."""
    model, tokenizer = kin(family).model, kin(family).tokenizer
    if dtype != torch.float32:
        model = deepcopy(model).to(dtype)
        for old, new in zip(rotaries(kin(family).model), rotaries(model), strict=True):
            new.inv_freq = old.inv_freq.clone()  # loading keeps the frequencies in fp32, ``to`` does not
    backbone = adopt(model, tokenizer)
    return model, backbone.at(View(size=size)), frames(5, size=size)


@QWEN
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_layers_merger_and_taps_are_exact(family, dtype):
    """Bit for bit from the embedded patches on; the embedding itself is one product instead of a convolution."""
    for size in SIZES:
        model, backbone, shown = bound(family, size, dtype)
        for num in (1, 5):
            px = backbone.pixels(shown[:num])
            rows, grid = patch_rows(px, 7)
            with torch.no_grad():
                want = model.model.visual(rows, grid_thw=torch.tensor([grid]))
                found = backbone.vision(px, shown[:num])
                embedded = model.model.visual.patch_embed(rows)
                exact = through(backbone, model, embedded.view(grid[0], -1, embedded.shape[-1]), shown[:num])
            assert torch.equal(exact.features, want.pooler_output)
            near = 1e-5 if dtype == torch.float32 else 0.1
            scale = float(want.pooler_output.abs().max())
            assert float((found.features - want.pooler_output).abs().max()) <= near * max(scale, 1.0)
            if family == "qwen3_vl":
                assert torch.equal(exact.deep, torch.stack(want.deepstack_features))
            assert found.frames == tuple(range(0, num, 2))
            assert found.ends_s == tuple(float(min(i + 1, num - 1)) for i in range(0, num, 2))


def rotaries(model: Any) -> tuple[Any, Any]:
    """The rotary embeddings of decoder and tower."""
    return model.model.language_model.rotary_emb, model.model.visual.rotary_pos_emb


def through(backbone: Any, model: Any, embedded: torch.Tensor, shown: Any) -> Any:
    """Run the tower from transformers' own patch embeddings, in raster order of their groups."""
    if backbone.spec.family == "qwen2_5_vl":
        h = sort_rows(embedded, backbone.plan)
    else:
        h = embedded + learned_places(model.model.visual.pos_embed.weight, backbone.plan).to(embedded.dtype)
    h, *taps = run_tower(backbone.blocks(), h, backbone.spec.taps)
    return backbone.project(h, shown, taps)


@QWEN
def test_rows_say_where_they_stand(family):
    """A change of one pixel changes the embedding of the one row that says it stands there."""
    _, backbone, (frame, *_) = bound(family, (42, 70))
    before = backbone.patches(backbone.pixels([frame]))[0]
    rows, cols = backbone.spec.patch_grid
    assert sorted(backbone.spec.patch_order.tolist()) == list(range(rows * cols))
    for row, col in ((0, 0), (2, 5), (5, 9), (3, 0)):
        image = frame.image.clone()
        image[7 * row + 3, 7 * col + 3] ^= 255
        after = backbone.patches(backbone.pixels([type(frame)(0, 0.0, image)]))[0]
        changed = torch.nonzero((after != before).any(1)).flatten()
        assert backbone.spec.patch_order[changed].tolist() == [row * cols + col]


@QWEN
def test_rows_on_their_own_are_those_among_all(family):
    """Queries, keys and attention of some rows, in any order, equal those of a pass over all; nothing crosses steps."""
    _, backbone, shown = bound(family, (70, 42))
    h = backbone.patches(backbone.pixels(shown[:4]))
    pick = torch.stack([torch.randperm(h.shape[1], generator=torch.Generator().manual_seed(i))[:7] for i in range(2)])
    index = pick[..., None].expand(-1, -1, h.shape[-1])
    for block in backbone.blocks():
        x = block.norm1(h)
        k, (q, v) = block.keys(x), block.queries_values(x)
        some = x.gather(1, index)
        torch.testing.assert_close(block.keys(some, pick), k.gather(1, index), atol=1e-5, rtol=0)
        part, values = block.queries_values(some, pick)
        torch.testing.assert_close(part, q.gather(1, index), atol=1e-5, rtol=0)
        torch.testing.assert_close(values, v.gather(1, index), atol=1e-5, rtol=0)
        whole = block.attend(q, k, v)
        torch.testing.assert_close(block.attend(part, k, v, pick), whole.gather(1, index), atol=1e-5, rtol=0)
        torch.testing.assert_close(block.attend(q[:1], k[:1], v[:1]), whole[:1], atol=1e-5, rtol=0)
        h = h + block.out(whole)
        h = h + block.mlp(block.norm2(h))


def test_a_window_sees_itself_and_some_layers_see_all():
    _, backbone, shown = bound("qwen2_5_vl", (56, 28))  # two windows of 2x2 tokens, one below the other
    h = backbone.patches(backbone.pixels(shown[:2]))
    reaches = []
    for block in backbone.blocks():
        x = block.norm1(h)
        k, (q, v) = block.keys(x), block.queries_values(x)
        other = v.clone()
        other[:, 16:] += 1.0
        moved = (block.attend(q, k, other) - block.attend(q, k, v)).abs().amax((0, 2))
        assert bool((moved[16:] > 1e-3).all())
        reaches.append(bool((moved[:16] > 1e-6).any()))
    assert reaches == [False, True, False]


@QWEN
@pytest.mark.parametrize("selection", ["per_layer", "shared"])
def test_identical_frames_through_the_cacher_equal_dense(family, selection):
    """What is used again was computed for the same picture, so leaving most of it out changes nothing."""
    _, backbone, shown = bound(family, (70, 42))
    same, method = [shown[0], shown[0]], StcCacher(refresh_interval=9, update_ratio=0.2, selection=selection)
    want, state = backbone.vision(backbone.pixels(same), same), method.init(backbone.spec)
    for _ in range(3):
        state, tokens = method.step(state, same, backbone)
        torch.testing.assert_close(tokens.features, want.features, atol=2e-5, rtol=0)
        if want.deep is not None:
            torch.testing.assert_close(tokens.deep, want.deep, atol=2e-5, rtol=0)
