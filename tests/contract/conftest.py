"""Parameters from the registry: no method is listed by name, its role gives the cases."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from contract.plays import Case, Play, cases, entry_names, play_of
from contract.streams import frames_of
from headrace.types import View

ROLES = ("encoder", "compressor", "memory", "retriever", "speaker")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """A folder with a tiny random model, by family."""

    @cache
    def make(family: str) -> Any:
        from headrace.backbones import plain

        folder = tmp_path_factory.mktemp(family)
        plain.save(*plain.tiny(family, ["what", "is", "there", "now"]), folder)
        return folder

    return make


@pytest.fixture(scope="session")
def backbones(folders: Callable[[str], Any]) -> Callable[..., Any]:
    """A backbone on tiny random weights, by family."""

    @cache
    def load(family: str, dtype: torch.dtype = torch.float32) -> Any:
        from headrace.backbones import load

        backbone, (frame,) = load(str(folders(family)), dtype=dtype), frames_of(0, 0, 1)
        return backbone.at(backbone.choose(View(), frame))

    return load


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``name``: every method; ``case``: every method with every variant; ``ROLE_case``: those of one
    role; ``ROLE_variant``: the same in one place only;
    ``stepped_case``: those whose step makes the next state beside the old one;
    ``identity``: methods that claim to change nothing at full budget.
    """
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", entry_names())
    if "case" in metafunc.fixturenames:
        _cases(metafunc, "case", cases("VARIANTS", *ROLES))
    if "stepped_case" in metafunc.fixturenames:
        _cases(metafunc, "stepped_case", cases("VARIANTS", "encoder", "compressor", "speaker"))
    for role in ROLES:
        if f"{role}_case" in metafunc.fixturenames:
            _cases(metafunc, f"{role}_case", cases("VARIANTS", role))
        if f"{role}_variant" in metafunc.fixturenames:
            found = cases("VARIANTS", role)
            _cases(metafunc, f"{role}_variant", [case for case in found if case.where == found[0].where])
        if f"{role}_identity" in metafunc.fixturenames:
            _cases(metafunc, f"{role}_identity", cases("IDENTITY", role))


def _cases(metafunc: pytest.Metafunc, argument: str, found: list[Case]) -> None:
    assert found, f"the registry has no case for {argument}"
    metafunc.parametrize(argument, found, ids=str)


@pytest.fixture
def play(case: Case, backbones: Callable[..., Any]) -> Play:
    """A method at work."""
    return play_of(case, backbones)
