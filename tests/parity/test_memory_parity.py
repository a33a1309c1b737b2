"""Every memory on every family: with room for all it is transformers' own model, and steps may be of any size."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from contract.plays import Case, cases
from headrace.backbones import FAMILIES
from headrace.engine.state import pack
from headrace.types import Frame, Kind
from parity.families import kin
from parity.models import QUESTION, Recorder, frames

TOLERANCE = 1e-4
WIDE = (30, 44)
TALK = ((QUESTION, 3), ("w9 w4", 3), ("w5", 0))  # what is asked, and how many frames come before it


def spread(table: str, fits: Callable[[Case], bool]) -> list[tuple[str, Case]]:
    """Every memory on every family, with the values of its twin's table that fit in turn: each with some family."""
    pairs, found = [], [case for case in cases(table, "memory") if case.where == "p1" and fits(case)]
    for name in dict.fromkeys(case.name for case in found):
        mine = [case for case in found if case.name == name]
        pairs += [(family, mine[(i + 1) % len(mine)]) for i, family in enumerate(FAMILIES)]
    return pairs


def in_order(case: Case) -> bool:
    """All but the published order of Flash-VStream: turns come behind all it shows."""
    return case.name != "flash_vstream" or case.kwargs.get("order") == "time"


def by_frame(case: Case) -> bool:
    """All but those whose cards let steps decide: eviction after a step, clustering of a step, exec blocks of rows."""
    return case.name not in ("streamingllm", "flash_vstream") and "exec_rows" not in case.kwargs


def on(pairs: list[tuple[str, Case]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("family", "case"), pairs, ids=[f"{family}-{case}" for family, case in pairs])


def settings_of(case: Case) -> list[str]:
    return [f"memory.{name}={value}" for name, value in case.values]


def clips() -> list[list[Frame]]:
    shown, parts = frames(sum(num for _, num in TALK), size=WIDE), []
    for _, num in TALK:
        parts.append(shown[:num])
        shown = shown[num:]
    return parts


@functools.cache
def spoken(family: str) -> tuple[tuple[tuple[int, ...], ...], torch.Tensor]:
    """transformers' answers to a conversation, and its logits of all of it but the last answer."""
    model, turns, answers, said = kin(family), [], [], []
    for (question, _), clip in zip(TALK, clips(), strict=True):
        turns.append((question, clip))
        inputs = model.inputs(*turns, answers=answers)
        said.append(tuple(model.generate(inputs, 4)))
        answers.append(model.engine.backbone.decode(list(said[-1])).strip())
    return tuple(said), model.forward(inputs)


@on(spread("IDENTITY", in_order))
def test_with_room_for_everything_it_is_the_plain_model(family: str, case: Case) -> None:
    """A conversation with clips between: the logits of every row and every answer are transformers' own."""
    recorder = Recorder(kin(family).engine.backbone)
    stream = kin(family).open(case.name, backbone=recorder, settings=settings_of(case))
    want, logits = spoken(family)
    for (question, _), clip, tokens in zip(TALK, clips(), want, strict=True):
        for frame in clip:
            stream.push(frame)
        if stream.pipeline.memory.kind == "tokens":  # it runs everything again
            recorder.logits_seen.clear()
        assert stream.ask(question, max_tokens=4, remember=True).tokens == tokens
    assert float((recorder.logits_of_all[: len(logits)] - logits).abs().max()) <= TOLERANCE
    assert len(set(want)) == len(TALK), "a model that always says the same proves nothing"


def shown(family: str, case: Case, chunk: int) -> Any:
    """A stream of nine frames with a remembered turn, in steps of so many frames."""
    stream = kin(family).open(case.name, settings=settings_of(case), chunk_frames=chunk)
    for frame in frames(6, size=WIDE):
        stream.push(frame)
    stream.ask(QUESTION, max_tokens=2, remember=True)
    for frame in frames(5, first=6, size=WIDE):
        stream.push(frame)
    return stream


@on(spread("VARIANTS", by_frame))
def test_any_size_of_a_step_gives_the_same_state_and_answer(family: str, case: Case) -> None:
    """Frames one by one or six at once, also those that wait for their step when a question comes."""
    one, many = (shown(family, case, chunk) for chunk in (1, 6))
    assert len(many.state.pending) == 5
    asked = [stream.ask("w9 w4", max_tokens=4, evidence=3) for stream in (one, many)]
    assert asked[0].tokens == asked[1].tokens
    for stream in (one, many):
        for frame in frames(1, first=11, size=WIDE):
            stream.push(frame)
    assert not many.state.pending
    alike(one.state.memory, many.state.memory)


def alike(one: Any, other: Any) -> None:
    """The same state but for rounding."""
    left: dict[str, torch.Tensor] = {}
    right: dict[str, torch.Tensor] = {}
    trees = pack(one, left), pack(other, right)
    assert trees[0] == trees[1]
    for name, x in left.items():
        torch.testing.assert_close(x, right[name], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_words_that_count_on_behind_the_frames_are_an_ordinary_prompt(family: str) -> None:
    """Group positions whose offset is where the question stands in a plain prompt; with another offset they are not."""
    recorder = Recorder(kin(family).engine.backbone)
    plain, said = kin(family).open("full", backbone=recorder), {}
    for frame in clips()[0]:
        plain.push(frame)
    said["plain"] = plain.ask(QUESTION, max_tokens=4).tokens
    ids = torch.cat([segment.ids for segment in recorder.segments], dim=1)
    frame, kind = (torch.cat([getattr(segment, name) for segment in recorder.segments]) for name in ("frame", "kind"))
    start = int(ids[0, (frame < 0) & (kind != Kind.PREFIX)][0])
    for offset in (start, 0):
        stream = kin(family).open("group_position", settings=[f"memory.offset={offset}"])
        for frame in clips()[0]:
            stream.push(frame)
        said[offset] = stream.ask(QUESTION, max_tokens=4).tokens
    assert said[start] == said["plain"] == spoken(family)[0][0]
    assert said[0] != said["plain"]
