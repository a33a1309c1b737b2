"""Budgets and position policies."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.ops.budget import check_keep, num_kept
from headrace.ops.positions import POLICIES, check_policy, resolve_policy


@pytest.mark.parametrize("keep", [1, 60, 10**9, 1e-9, 0.3, 1.0])
def test_budgets(keep: int | float):
    check_keep(keep)


@pytest.mark.parametrize("keep", [0, -1, 0.0, -0.1, 1.1, 60.0, math.nan, math.inf, True, False, "60", None, [1]])
def test_no_budgets(keep: object):
    with pytest.raises(ValueError, match=r"^keep: "):
        check_keep(keep)


@given(keep=st.one_of(st.integers(1, 500), st.floats(0, 1, exclude_min=True)), num=st.integers(0, 400))
def test_a_budget_is_a_number_of_tokens(keep: int | float, num: int):
    kept = num_kept(keep, num)
    assert isinstance(kept, int)
    assert (1 if num else 0) <= kept <= num
    if isinstance(keep, int):
        assert kept == min(keep, num)
    elif num:
        assert kept == 1 or abs(kept - keep * num) <= 0.5
    assert num_kept(1.0, num) == num


def test_a_larger_budget_never_keeps_less():
    for num in (1, 7, 49, 196):
        counts = [num_kept(step / 50, num) for step in range(1, 51)]
        assert counts == sorted(counts)


def test_policies():
    for name in POLICIES:
        check_policy(name)
    assert resolve_policy("auto", "original") == "original"
    assert resolve_policy("auto", "repack") == "repack"
    assert resolve_policy("repack", "original") == "repack"
    for name in ("", "Auto", "gaps", None):
        with pytest.raises(ValueError, match="positions"):
            check_policy(name)
