"""The contract itself: methods made for it, right ones that it must take and wrong ones that it must not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

from contract import plays, test_cards, test_compressors, test_encoders, test_memories, test_streams
from contract.plays import Case
from headrace import registry
from headrace.backbones import FAMILIES, plain
from headrace.methods.encoders.dense import Dense
from headrace.methods.memories.flash_vstream import FlashVStream
from headrace.protocols import Card, Method
from headrace.types import Keep, VisualTokens

Made = Callable[..., Case]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """Register a class under the name ``made``, with a twin that has these values, until the test ends."""

    def make(role: str, method: type[Any], where: str, **twin: Any) -> Case:
        module = ModuleType("reference.made", "A twin.")
        vars(module).update({"VARIANTS": [{}], **twin})
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(plays, "has_twin", lambda name: True)
        known = {**registry.entries(), "made": registry.Entry("made", role, method)}
        monkeypatch.setattr(registry, "entries", lambda: known)
        return Case("made", role, (), where)

    return make


@dataclass
class Counted:
    """(1,) int64 frames that have come."""

    num: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class OddFrames(Method):
    """Keeps every other frame whole and nothing of the others."""

    card: ClassVar[Card] = Card("every other frame")

    def init(self, spec: Any) -> Counted:
        return Counted(torch.zeros(1, dtype=torch.int64))

    def step(self, state: Counted, tokens: VisualTokens) -> tuple[Counted, Keep]:
        kept = (tokens.frame + state.num) % 2 == 1
        return Counted(state.num + len(tokens.frames)), Keep(torch.nonzero(kept).squeeze(1))


@dataclass(frozen=True, kw_only=True)
class InPlace(OddFrames):
    """The same, but the state is changed in place."""

    def step(self, state: Counted, tokens: VisualTokens) -> tuple[Counted, Keep]:
        after, edit = OddFrames.step(self, state, tokens)
        state.num.copy_(after.num)
        return state, edit


def odd_frames(method: Any, steps: list[VisualTokens]) -> list[list[int]]:
    """Indices of the tokens of frames with an odd number."""
    return [[i for i, frame in enumerate(tokens.frame.tolist()) if tokens.frames[frame] % 2] for tokens in steps]


COMPRESSOR_TESTS = [
    test_compressors.test_edits_are_in_order,
    test_compressors.test_every_frame_keeps_something_and_no_more_than_allowed,
    test_compressors.test_type_device_and_attached_maps_are_kept,
    test_compressors.test_equals_the_naive_twin,
    test_compressors.test_the_input_may_have_lost_tokens_already,
]


@pytest.mark.parametrize("where", ["float32", "bfloat16"])
@pytest.mark.parametrize("test", COMPRESSOR_TESTS)
def test_a_compressor_may_drop_all_of_a_frame_where_its_twin_says_so(made: Made, test: Any, where: str) -> None:
    test(made("compressor", OddFrames, where, twin=odd_frames, budget=lambda method, num: num, LEAST=0))


def test_a_compressor_may_not_drop_all_of_a_frame_otherwise(made: Made) -> None:
    case = made("compressor", OddFrames, "float32", twin=odd_frames, budget=lambda method, num: num)
    with pytest.raises(AssertionError, match="keeps 0 tokens; where that is right, the twin says LEAST = 0"):
        test_compressors.test_every_frame_keeps_something_and_no_more_than_allowed(case)


def test_a_state_that_changes_in_place_is_found(made: Made) -> None:
    test_streams.test_a_step_leaves_the_state_it_was_given_alone(made("compressor", OddFrames, "float32"), None)
    with pytest.raises(AssertionError, match="step 0 changed the state it was given"):
        test_streams.test_a_step_leaves_the_state_it_was_given_alone(made("compressor", InPlace, "float32"), None)


@dataclass(frozen=True, kw_only=True)
class InAnotherOrder(Dense):
    """Gives the tokens of a frame in the order of columns, as one does who takes a tower's order for another."""

    def step(self, state: None, frames: Any, backbone: Any) -> tuple[None, VisualTokens]:
        _, tokens = super().step(state, frames, backbone)
        order = torch.argsort(tokens.frame * tokens.dense_len + tokens.col * tokens.grid[0] + tokens.row)
        return None, replace(tokens, features=tokens.features[order])


@pytest.mark.parametrize("family", [family for family in FAMILIES if "qwen" in family])  # rows in an order of their own
def test_tokens_in_the_wrong_place_are_found(made: Made, backbones: Any, family: str) -> None:
    case = made("encoder", InAnotherOrder, family)
    with pytest.raises(AssertionError, match="do rows of the tower stand where"):
        test_encoders.test_a_change_is_seen_where_it_is(case, backbones)


def test_the_pixels_of_a_tiny_picture_do_not_divide() -> None:
    """As those of released towers of one size, whose last pixels no patch has."""
    towers = [plain.tiny(family, ["what"])[0].config.vision_config for family in FAMILIES]
    fixed = [tower for tower in towers if hasattr(tower, "image_size")]
    assert fixed
    assert all(tower.image_size % tower.patch_size for tower in fixed)


@dataclass(frozen=True, kw_only=True)
class Shallow(FlashVStream):
    """Loses the deepstack features of what it makes."""

    def recall(self, state: Any) -> tuple[Any, ...]:
        return tuple(replace(x, deep=None) if isinstance(x, VisualTokens) else x for x in super().recall(state))


def test_lost_deepstack_features_are_found(made: Made) -> None:
    twin = plays.twin_of("flash_vstream").Twin
    with pytest.raises(AssertionError, match="deepstack features"):
        test_memories.test_equals_the_naive_twin(made("memory", Shallow, "p1", Twin=twin), "p1")


@dataclass(frozen=True, kw_only=True)
class Idle(OddFrames):
    """Has a parameter that does nothing."""

    every: int = 2


def test_a_parameter_that_nobody_tries_is_found(made: Made) -> None:
    made("compressor", Idle, "float32")
    with pytest.raises(AssertionError, match=r"VARIANTS must try other values than the default of \['every'\]"):
        test_cards.test_every_parameter_is_tried("made")
    made("compressor", Idle, "float32", VARIANTS=[{"every": 3}])
    test_cards.test_every_parameter_is_tried("made")
    made("compressor", Idle, "float32", OUTSIDE={"every": "unit/no_such_file.py"})
    with pytest.raises(AssertionError, match=r"says unit/no_such_file\.py for every, which"):
        test_cards.test_every_parameter_is_tried("made")
