"""Rotary embedding: against one channel at a time in fp64, near and very far."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.ops.rope import cos_sin, rotate
from headrace.types import Rope
from reference.naive.rope import rotate_heads

CPU = torch.device("cpu")
LAYOUTS = {"plain": (1, None), "chunked": (3, (4, 2, 2)), "interleaved": (3, (4, 2, 2))}


def rope_of(kind: str, *, width: int = 16, trained_length: int = 100, scaling: float = 1.0) -> Rope:
    inv_freq = 1.0 / 10_000.0 ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    return Rope(inv_freq, scaling, trained_length, kind, LAYOUTS[kind][1])


def turned(x: torch.Tensor, rope: Rope, places: torch.Tensor) -> torch.Tensor:
    return rotate(x, *cos_sin(rope, places, dtype=x.dtype, device=CPU))


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@given(
    kind=st.sampled_from(list(LAYOUTS)),
    places=st.lists(st.tuples(*[st.integers(0, 300)] * 3), min_size=1, max_size=6),
    scaling=st.sampled_from([1.0, 1.25]),
)
def test_equals_the_naive_twin(kind: str, places: list[tuple[int, int, int]], scaling: float):
    rope = rope_of(kind, scaling=scaling)
    places = [place[: LAYOUTS[kind][0]] for place in places]
    x = random(2, len(places), 16)
    got = turned(x, rope, torch.tensor(places).T)
    torch.testing.assert_close(got, rotate_heads(x, places, rope), atol=3e-5, rtol=0)


@pytest.mark.parametrize("kind", list(LAYOUTS))
@pytest.mark.parametrize("place", [10**7, 123_456_789, 10**9])
def test_far_beyond_training_the_angles_are_exact(kind: str, place: int):
    """A week of time ids: fp64 angles are right to fp32's last digit, fp32 ones would be plainly wrong."""
    rope = rope_of(kind)
    places = [tuple(place + 7 * axis + i for axis in range(LAYOUTS[kind][0])) for i in range(5)]
    x = random(2, 5, 16)
    want = rotate_heads(x, places, rope)
    torch.testing.assert_close(turned(x, rope, torch.tensor(places).T), want, atol=2e-6, rtol=0)
    short_sighted = rope_of(kind, trained_length=2**62)
    wrong = turned(x, short_sighted, torch.tensor(places).T)
    assert float((wrong - want).abs().max()) > 0.05


@pytest.mark.parametrize("kind", list(LAYOUTS))
@pytest.mark.parametrize("shift", [10**6, 10**8, 10**9])
def test_only_distances_matter(kind: str, shift: int):
    """Queries and keys moved together give the same logits, however far."""
    rope, num = rope_of(kind, trained_length=0), 6
    places = (torch.arange(1, num + 1) * 9)[None] + torch.arange(LAYOUTS[kind][0])[:, None] * 4
    q, k = random(1, num, 16), random(1, num, 16).flip(1)
    near = turned(q, rope, places) @ turned(k, rope, places).transpose(1, 2)
    far = turned(q, rope, places + shift) @ turned(k, rope, places + shift).transpose(1, 2)
    torch.testing.assert_close(far, near, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", list(LAYOUTS))
def test_up_to_the_trained_length_it_is_the_fp32_product(kind: str):
    """Bit for bit what a model saw in training; the first place beyond it is taken in fp64."""
    rope = rope_of(kind, trained_length=5000)
    axes = LAYOUTS[kind][0]
    places = torch.tensor([[0, 1, 4999, 5000, 5001]]).expand(axes, -1)
    cos, sin = cos_sin(rope, places, dtype=torch.float32, device=CPU)
    angle = places[0, :, None].float() * rope.inv_freq
    exact = places[0, :, None].double() * rope.inv_freq.double()
    for got, near, far in ((cos, angle.cos(), exact.cos()), (sin, angle.sin(), exact.sin())):
        assert torch.equal(got[:4, :8], near[:4])
        assert torch.equal(got[4:, :8], far[4:].float())
        assert torch.equal(got[:, :8], got[:, 8:])


def test_one_far_row_does_not_change_the_near_ones():
    rope = rope_of("plain")
    near = cos_sin(rope, torch.tensor([[3, 50]]), dtype=torch.float32, device=CPU)
    both = cos_sin(rope, torch.tensor([[3, 50, 10**8]]), dtype=torch.float32, device=CPU)
    assert all(torch.equal(a, b[:2]) for a, b in zip(near, both, strict=True))


@pytest.mark.parametrize("kind", ["chunked", "interleaved"])
def test_equal_axes_are_the_plain_embedding(kind: str):
    places = torch.tensor([[0, 3, 77, 10**8]])
    plain = cos_sin(rope_of("plain"), places, dtype=torch.float32, device=CPU)
    three = cos_sin(rope_of(kind), places.expand(3, -1), dtype=torch.float32, device=CPU)
    one = cos_sin(rope_of(kind), places, dtype=torch.float32, device=CPU)
    for a, b, c in zip(plain, three, one, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_every_axis_turns_its_own_channels():
    """Moving one axis changes the channels of its section and no other."""
    for kind, owners in {"chunked": [0] * 4 + [1] * 2 + [2] * 2, "interleaved": [0, 1, 2, 0, 1, 2, 0, 0]}.items():
        rope = rope_of(kind)
        still = cos_sin(rope, torch.zeros(3, 1, dtype=torch.int64), dtype=torch.float64, device=CPU)[1]
        for axis in range(3):
            places = torch.zeros(3, 1, dtype=torch.int64)
            places[axis] = 5
            moved = cos_sin(rope, places, dtype=torch.float64, device=CPU)[1]
            assert [bool(x) for x in (moved != still)[0, :8]] == [owner == axis for owner in owners]


def test_lengths_are_kept_and_types_too():
    x = random(3, 4, 16)
    out = turned(x, rope_of("plain"), torch.tensor([[0, 9, 99, 10**6]]))
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1), atol=1e-5, rtol=0)
    assert turned(x.bfloat16(), rope_of("plain"), torch.zeros(1, 4, dtype=torch.int64)).dtype == torch.bfloat16
    assert torch.equal(turned(x, rope_of("plain"), torch.zeros(1, 4, dtype=torch.int64)), x)


def test_three_axes_need_a_section():
    rope = Rope(rope_of("plain").inv_freq)
    with pytest.raises(ValueError, match="section"):
        cos_sin(rope, torch.zeros(3, 2, dtype=torch.int64), dtype=torch.float32, device=CPU)
