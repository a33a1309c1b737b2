"""What a governor may turn: settings from the one a stream was opened with down to the cheapest.

A method says in ``effort`` which of its tunable fields cost time, and how far each may go. Fields that act on the same
stages share a dial, so that two dials remain: ``vision`` (the encoder) and ``decoder`` (everything behind it).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from headrace import registry
from headrace.engine.pipeline import Pipeline
from headrace.types import ModelSpec

VISION, DECODER = "vision", "decoder"
NUM_NOTCHES = 5  # below the opened one, evenly spaced
LEAST_WORK = 0.05  # believed of the cheapest end of a field whose values are no amounts; the governor measures
INTERVAL_LOSS = 0.4  # what a stretched interval counts for: about as much as a field turned down by a third

Values = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Notch:
    """One position of a dial.

    Attributes:
        values: Role to field to value; empty at the opened position.
        work: Share of the opened position's work, 1 there.
        loss: How far it is from the opened position, 0 there; the logarithm of the work that is left out.
    """

    values: Values
    work: float = 1.0
    loss: float = 0.0


@dataclass(frozen=True, slots=True)
class Setting:
    """A position of both dials.

    Attributes:
        vision: Notch number of the vision dial, 0 as opened.
        decoder: Notch number of the decoder's dial, 0 as opened.
        values: Role to field to value, complete: with what ``Stream.tune`` needs to get here from any other setting.
        loss: How far it is from the opened setting.
        name: ``full``, or the fields that differ.
    """

    vision: int
    decoder: int
    values: Values
    loss: float
    name: str


def group_of(role: str) -> str:
    """Which dial a role's fields belong to."""
    return VISION if role == "encoder" else DECODER


def notches(pipeline: Pipeline, spec: ModelSpec, group: str) -> list[Notch]:
    """Positions of one dial, the opened one first, each cheaper than the one before.

    A field whose cheaper end is the larger one is an interval: it makes costly steps rarer, not cheaper, so it goes to
    its end in one go, before anything else. All other fields go down together, by equal ratios; by equal differences
    where the cheapest value is not above 0, since a threshold that may be 0 is no amount.

    Args:
        pipeline: What was opened; its values are the best the dial offers.
        spec: The model; a range of shares is counted in tokens of its grid where a field holds a whole number.
        group: ``VISION`` or ``DECODER``.
    """
    shares: list[tuple[str, str, Any, tuple[Any, Any]]] = []
    intervals: dict[str, dict[str, Any]] = {}
    for role, field, value, (cheapest, fullest) in _efforts(pipeline, spec, group):
        if fullest < cheapest and value < cheapest:
            intervals.setdefault(role, {})[field] = cheapest
        elif cheapest < fullest and value > cheapest:
            shares.append((role, field, value, (cheapest, fullest)))
    found = [Notch({})]
    extra = INTERVAL_LOSS if intervals else 0.0
    if intervals:
        found.append(Notch(intervals, 1.0, extra))
    for k in range(1, NUM_NOTCHES + 1 if shares else 1):
        values, work = {role: dict(fields) for role, fields in intervals.items()}, 1.0
        for role, field, value, ends in shares:
            turned = _between(value, ends[0], k / NUM_NOTCHES)
            values.setdefault(role, {})[field] = turned
            work *= _amount(turned, *ends) / _amount(value, *ends)
        if work < found[-1].work:
            found.append(Notch(values, work, extra - math.log(work)))
    return found


def _efforts(pipeline: Pipeline, spec: ModelSpec, group: str) -> Iterator[tuple[str, str, Any, tuple[Any, Any]]]:
    """Yield role, field, opened value, and cheapest and fullest value, for every field of a dial."""
    tokens = spec.grid[0] * spec.grid[1]
    for role, method in pipeline.methods().items():
        if group_of(role) != group:
            continue
        kinds = {field.name: str(field.type) for field in dataclasses.fields(method)}
        for field, (cheapest, fullest) in method.effort.items():
            value = getattr(method, field)
            if isinstance(value, int) and isinstance(cheapest, float):
                if "int" in kinds[field]:
                    cheapest, fullest = max(1, round(cheapest * tokens)), max(1, round(fullest * tokens))
                else:  # a whole number given for a field of floats counts nothing
                    value = float(value)
            if cheapest < fullest:
                value = min(value, fullest)  # a frame has no more tokens than that
            yield role, field, value, (cheapest, fullest)


def _between(value: Any, cheapest: Any, t: float) -> Any:
    """Go down from a value to the cheapest one, 0 <= t <= 1: whole numbers stay whole, others get three digits."""
    turned = value * (cheapest / value) ** t if cheapest > 0 else value + (cheapest - value) * t
    turned = round(turned) if isinstance(value, int) else float(f"{turned:.3g}")
    return min(max(turned, cheapest), value)  # rounding goes beyond neither


def _amount(value: float, cheapest: float, fullest: float) -> float:
    """What a value stands for: itself where it is an amount, else its place between the ends, from LEAST_WORK to 1."""
    if cheapest > 0:
        return value
    return LEAST_WORK + (1 - LEAST_WORK) * (value - cheapest) / (fullest - cheapest)


def settings(pipeline: Pipeline, vision: Sequence[Notch], decoder: Sequence[Notch]) -> list[Setting]:
    """All positions of both dials, the opened one first, in order of loss."""
    opened: dict[str, dict[str, Any]] = {}
    for notch in (*vision, *decoder):
        for role, fields in notch.values.items():
            for field in fields:
                opened.setdefault(role, {})[field] = getattr(pipeline.methods()[role], field)
    found = []
    for (i, left), (j, right) in product(enumerate(vision), enumerate(decoder)):
        turned = {**left.values, **right.values}
        values = {role: {**fields, **turned.get(role, {})} for role, fields in opened.items()}
        changed = [f"{f}={v}" for r, fields in values.items() for f, v in fields.items() if v != opened[r][f]]
        found.append(Setting(i, j, values, left.loss + right.loss, " ".join(changed) or "full"))
    return sorted(found, key=lambda setting: (setting.loss, setting.vision))


def encoders(pipeline: Pipeline, vision: Sequence[Notch]) -> list[Any]:
    """The encoder at every notch of the vision dial."""
    return [registry.change(pipeline.encoder, **notch.values.get("encoder", {})) for notch in vision]
