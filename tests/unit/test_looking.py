"""Which size frames have: transformers' rule within the budget, never more tokens than was said."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from headrace.backbones.looking import check_view, fit, most_tokens, read_edges
from headrace.types import View

SIDES = st.integers(1, 3000)


@given(
    height=SIDES, width=SIDES, unit=st.sampled_from([14, 28, 32]), least=st.integers(1, 600), most=st.integers(1, 900)
)
@example(height=72, width=422, unit=14, least=151, most=151)  # too large, and too small once rounded
def test_sizes_are_transformers_and_within_the_bound(height: int, width: int, unit: int, least: int, most: int):
    """Also where the picture is as long as it may be, or the least asked for is nearly the most."""
    pixels = {"least": min(least, most) * unit**2, "most": most * unit**2}
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ValueError, match=f"frame: is {width} x {height} pixels"):
            fit(height, width, unit=unit, **pixels)
        return
    rows, cols = fit(height, width, unit=unit, **pixels)
    want = smart_resize(height, width, factor=unit, min_pixels=pixels["least"], max_pixels=pixels["most"])
    rounded = round(height / unit) * round(width / unit)
    if want[0] * want[1] <= most * unit**2 or rounded > most:  # else theirs enlarges it beyond the most
        assert (rows, cols) == want
    assert rows % unit == cols % unit == 0
    assert rows * cols <= pixels["most"] or min(rows, cols) == unit
    assert rows * cols // unit**2 <= most_tokens(unit=unit, most=pixels["most"])


def test_the_longest_pictures_take_more_than_the_budget_and_the_bound_knows():
    rows, cols = fit(50, 10_000, unit=28, least=784, most=128 * 784)
    assert rows * cols > 128 * 784
    assert rows * cols // 784 <= most_tokens(unit=28, most=128 * 784)


def test_edges_of_old_and_new_files():
    size = {"shortest_edge": 3136, "longest_edge": 602112}
    assert read_edges({"size": size}) == (3136, 602112)
    assert read_edges({"size": size, "min_pixels": 784, "max_pixels": 12845056}) == (784, 12845056)
    for wrong in ({"shortest_edge": 9, "longest_edge": 5}, {"height": 3, "width": 3}, {"shortest_edge": 1.5}):
        with pytest.raises(ValueError, match="size: from"):
            read_edges({"size": wrong})


def test_what_a_model_of_one_size_refuses():
    check_view(View(), one_size=(384, 384))
    check_view(View(prompt="library"), one_size=(384, 384))
    with pytest.raises(ValueError, match="max_pixels: this model sees every frame at 384 x 384 pixels"):
        check_view(View(max_pixels=1000), one_size=(384, 384))
    with pytest.raises(ValueError, match="prompt: 'vllm' is unknown; known: trained, library"):
        check_view(View(prompt="vllm"))
