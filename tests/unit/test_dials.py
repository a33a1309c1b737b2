"""The dials of a governor on efforts of any kind: amounts, thresholds that may be 0 or less, whole numbers."""

from __future__ import annotations

from dataclasses import field, make_dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine import dials
from reference.naive.decoder import spec


def notches(value: Any, *ends: Any) -> list[dials.Notch]:
    """The decoder's dial of a compressor with one field and this effort."""
    kind = type(value).__name__
    method = make_dataclass("Made", [("x", kind, field(default=value))], namespace={"effort": {"x": ends}}, frozen=True)
    pipeline: Any = SimpleNamespace(methods=lambda: {"compressor": method()})
    return dials.notches(pipeline, spec(), dials.DECODER)


@pytest.mark.parametrize(
    ("value", "ends", "turned"),
    [
        (0.9, (0.0, 1.0), [0.72, 0.54, 0.36, 0.18, 0.0]),
        (0.9, (-0.5, 1.0), [0.62, 0.34, 0.06, -0.22, -0.5]),
        (0.0, (-0.5, 1.0), [-0.1, -0.2, -0.3, -0.4, -0.5]),
        (-0.2, (-0.5, 1.0), [-0.26, -0.32, -0.38, -0.44, -0.5]),
        (0.0, (0.0, 1.0), []),
        (5, (0, 10), [4, 3, 2, 1, 0]),
        (0.32, (0.01, 1.0), [0.16, 0.08, 0.04, 0.02, 0.01]),
    ],
)
def test_a_field_goes_down_evenly(value: Any, ends: tuple[Any, Any], turned: list[Any]) -> None:
    """By ratio where the values are amounts, by difference where they may be 0 or less."""
    found = [notch.values["compressor"]["x"] for notch in notches(value, *ends)[1:]]
    assert found == pytest.approx(turned)
    assert all(type(x) is type(value) for x in found)


ROUND = st.integers(-2000, 2000).map(lambda x: x / 1000)


@given(ends=st.lists(ROUND, min_size=2, max_size=2, unique=True), value=ROUND, whole=st.booleans())
def test_every_notch_lies_between_the_ends_and_costs_less(ends: list[float], value: float, whole: bool) -> None:
    if whole:
        value, *ends = (round(1000 * x) for x in (value, *ends))
    first, *others = notches(value, *ends)
    assert (first.work, first.loss) == (1.0, 0.0)
    works = [notch.work for notch in others]
    assert all(0 < work <= 1 for work in works)
    assert sorted(works, reverse=True) == works
    assert all(notch.loss > 0 for notch in others)
    values = [notch.values["compressor"]["x"] for notch in others]
    if ends[0] < ends[1]:
        assert all(ends[0] <= x < value for x in values)
        assert sorted(values, reverse=True) == values
        assert bool(values) == (value > ends[0])
        assert not values or values[-1] == ends[0] or values[-1] == pytest.approx(ends[0], rel=0.01)
    else:
        assert values == [ends[0]] * (value < ends[0])
