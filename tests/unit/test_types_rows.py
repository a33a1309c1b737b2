"""Segments and spans: cutting and joining undo each other."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.types import Attention, LayerSpan, Moment, Query, Segment, Span, join

COLUMNS = ("embeds", "kind", "frame", "time_s", "tokens")


def segment(num: int, *, axes: int = 1, seed: int = 0, turn: int = 0, deep: int = 0, gap: int = 0) -> Segment:
    generator = torch.Generator().manual_seed(seed)
    return Segment(
        embeds=torch.randn(num, 3, generator=generator),
        ids=torch.arange(num).expand(axes, -1) + torch.arange(axes)[:, None],
        advance=num + gap,
        kind=torch.randint(0, 6, (num,), generator=generator).to(torch.int8),
        frame=torch.randint(-1, 9, (num,), generator=generator),
        time_s=torch.rand(num, generator=generator, dtype=torch.float64),
        tokens=torch.randint(-1, 99, (num,), generator=generator),
        turn=turn,
        deep=torch.randn(2, deep, 3, generator=generator) if deep else None,
    )


def span(num: int, rows: list[list[int]], *, rotated: bool = True) -> Span:
    layers = []
    for layer, which in enumerate(rows):
        x = torch.tensor(which, dtype=torch.float32).view(1, -1, 1) + 100 * layer
        layers.append(LayerSpan(x, x + 0.5, x + 0.25 if rotated else None, torch.tensor(which, dtype=torch.int64)))
    return Span(segment(num), tuple(layers), positions=torch.arange(num)[None] * 7)


@given(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5), axes=st.sampled_from([1, 3]))
def test_joining_what_was_cut(sizes: list[int], axes: int):
    whole = segment(sum(sizes), axes=axes, turn=4)
    whole = dataclasses.replace(whole, ids=whole.ids + 50)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    parts = [whole.cut(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    assert [len(part) for part in parts] == sizes
    again = join(parts, placed=True)
    for name in (*COLUMNS, "ids"):
        assert torch.equal(getattr(again, name), getattr(whole, name))
    assert (again.turn, again.advance) == (4, whole.advance)


@given(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5), gap=st.integers(0, 5))
def test_joined_segments_follow_each_other(sizes: list[int], gap: int):
    """Relative ids go on where the segment before ended, dropped tokens included."""
    parts = [segment(num, axes=3, seed=i, turn=i, gap=gap) for i, num in enumerate(sizes)]
    whole = join(parts)
    start, at = 0, 0
    for part in parts:
        assert torch.equal(whole.ids[:, at : at + len(part)], part.ids + start)
        start, at = start + part.advance, at + len(part)
    assert (whole.advance, whole.turn, len(whole)) == (start, 0, at)
    for name in COLUMNS:
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))


def test_deepstack_features_are_joined_along_the_rows():
    one, two, three = segment(4, deep=3), segment(2), segment(5, deep=1, seed=1)
    assert torch.equal(join([one, two, three]).deep, torch.cat((one.deep, three.deep), 1))
    assert join([two, two]).deep is None
    assert one.cut(0, 2).deep is None
    assert one.num_bytes() - one.cut(0, 4).num_bytes() == 2 * 3 * 3 * 4


@given(num=st.integers(1, 9), data=st.data())
def test_a_span_is_cut_in_every_layer(num: int, data: st.DataObject):
    """Layers hold fewer rows after a pruner; cutting keeps those of the stretch and counts them from its start."""
    left, rows = list(range(num)), []
    for _ in range(3):
        rows.append(left)
        left = sorted(data.draw(st.sets(st.sampled_from(left)))) if left else left
    whole = span(num, rows, rotated=data.draw(st.booleans()))
    at = data.draw(st.integers(0, num))
    for start, stop in ((0, at), (at, num)):
        part = whole.cut(start, stop)
        assert len(part.segment) == stop - start
        assert part.positions.tolist() == [[7 * i for i in range(start, stop)]]
        for layer, which in enumerate(rows):
            want = [row for row in which if start <= row < stop]
            got = part.layers[layer]
            assert got.rows.tolist() == [row - start for row in want]
            assert got.keys.flatten().tolist() == [row + 100 * layer for row in want]
            assert got.values.flatten().tolist() == [row + 100 * layer + 0.5 for row in want]
            if got.rotated is not None:
                assert got.rotated.flatten().tolist() == [row + 100 * layer + 0.25 for row in want]


def test_moments_are_the_frames_with_most_attention():
    attention = Attention(
        frame=torch.tensor([-1, 3, 3, 5, 9, 9, -1]),
        time_s=torch.tensor([-1, 1.5, 1.5, 2.5, 4.5, 4.5, -1], dtype=torch.float64),
        mass=torch.tensor([0.5, 0.0625, 0.0625, 0.0625, 0.125, 0.0625, 0.125]),
    )
    assert attention.moments(2) == (Moment(9, 4.5, 0.1875), Moment(3, 1.5, 0.125))
    assert [moment.frame for moment in attention.moments(10)] == [9, 3, 5]
    assert attention.moments(0) == ()
    text = Attention(torch.tensor([-1, -1]), torch.tensor([-1.0, -1.0]), torch.tensor([0.5, 0.5]))
    assert text.moments(3) == ()


def test_on_a_tie_the_earlier_frame_comes_first():
    even = Attention(
        torch.tensor([7, 2, 4]), torch.tensor([7.0, 2.0, 4.0], dtype=torch.float64), torch.full((3,), 0.25)
    )
    assert [moment.frame for moment in even.moments(3)] == [2, 4, 7]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", ""),
        ("text", " \n"),
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("evidence", -1),
    ],
)
def test_a_query_refuses(field: str, value: object):
    name = "question" if field == "text" else field
    with pytest.raises(ValueError, match=f"^{name}: "):
        Query(**{"text": "what now", field: value})
