"""What every method says about itself, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from contract.plays import REFERENCE, twin_of
from headrace import registry
from headrace.engine.pipeline import Pipeline
from headrace.protocols import Card


def test_card(name: str):
    card = registry.lookup(name).method.card
    assert isinstance(card, Card)
    assert card.title.strip()
    for text in (card.title, card.paper, card.licence, card.differs):
        assert "\n" not in text
        assert text == text.strip()
    assert bool(card.paper) == bool(card.licence), "a paper has a licence ('none' where its code has none), and only it"
    assert not card.paper or card.differs, "say how ours differs from the paper"


def test_declarations(name: str):
    method = registry.lookup(name).method
    params = method.__dataclass_params__
    assert params.frozen
    assert all(field.kw_only for field in dataclasses.fields(method))
    assert isinstance(method.causal, bool)
    assert isinstance(method.tunable, frozenset)
    known = registry.fields(name)
    assert method.tunable <= known.keys()
    assert method.shorthand in ("", *known)
    assert isinstance(method.presets, dict)
    for value in known.values():
        assert value is None or isinstance(value, int | float | str | bool), "a method is numbers, with defaults"


def test_effort_names_tunable_fields_and_both_ends_build(name: str):
    method = registry.lookup(name).method
    assert method.effort.keys() <= method.tunable
    for field, (cheapest, fullest) in method.effort.items():
        assert cheapest != fullest
        assert type(cheapest) is type(fullest)
        for value in (cheapest, fullest):
            assert getattr(registry.build(name, **{field: value}), field) == value


def test_is_frozen_and_a_value(name: str):
    method = registry.build(name)
    assert method == registry.build(name)
    assert hash(method) == hash(registry.build(name))
    assert eval(repr(method), {type(method).__name__: type(method)}) == method
    for field in [*registry.fields(name), "something_new"]:
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
            setattr(method, field, 1)
    with pytest.raises(TypeError):
        type(method)(1)


def test_presets_parse(name: str):
    for preset, text in registry.lookup(name).method.presets.items():
        assert Pipeline.parse(preset) == Pipeline.parse(text)
        assert name in {registry.name_of(method) for method in Pipeline.parse(text).methods().values()}


def test_shorthand_fills_its_field(name: str):
    method = registry.lookup(name).method
    if method.shorthand:
        value = registry.fields(name)[method.shorthand]
        built = registry.parse(f"{name}:{value}")[registry.lookup(name).role]
        assert getattr(built, method.shorthand) == value
    else:
        with pytest.raises(ValueError, match=name):
            registry.parse(f"{name}:1")


def test_variants_and_identity_build(name: str):
    twin = twin_of(name)
    assert {} in twin.VARIANTS or all(registry.build(name, **values) for values in twin.VARIANTS)
    assert twin.VARIANTS
    for values in (*twin.VARIANTS, *getattr(twin, "IDENTITY", [])):
        registry.build(name, **values)


def test_every_parameter_is_tried(name: str):
    """A parameter that no variant sets might do nothing; what a twin cannot tell is tried where ``OUTSIDE`` says."""
    twin, known = twin_of(name), registry.fields(name)
    outside = getattr(twin, "OUTSIDE", {})
    for field, path in outside.items():
        tests = REFERENCE.parent / path
        said = f"tests/reference/{name}.py: OUTSIDE says {path} for {field}"
        assert tests.is_file() and field in tests.read_text(), f"{said}, which does not try it"  # noqa: PT018 one story
    tried = {field for values in twin.VARIANTS for field, value in values.items() if value != known[field]}
    missing = sorted(known.keys() - tried - outside.keys())
    assert not missing, f"tests/reference/{name}.py: VARIANTS must try other values than the default of {missing}"


def test_rejects_values_out_of_range(name: str):
    """Every parameter has a range; the message names the field."""
    table, known = twin_of(name).REJECTS, registry.fields(name)
    free = {field.name for field in dataclasses.fields(registry.lookup(name).method) if str(field.type) == "bool"}
    assert table.keys() == known.keys() - free, "REJECTS of the twin must have values for every parameter"
    method = registry.lookup(name).method
    for field, values in table.items():
        assert values
        for value in values:
            with pytest.raises(ValueError, match=field):
                method(**{field: value})
            with pytest.raises(ValueError, match=field):
                registry.build(name, **{field: value})


WRONG: dict[str, Any] = {
    "str": "no such value",
    "int": 10,
    "float": 0.5,
    "bool": True,
    "None": None,
    "list": [1],
    "tuple": (1, 2),
    "dict": {},
}


def test_rejects_values_of_another_type(name: str):
    """Derived from the annotation; a whole number may stand for a float."""
    for field in dataclasses.fields(registry.lookup(name).method):
        allowed = {part.strip() for part in str(field.type).split("|")}
        assert allowed <= {"str", "int", "float", "bool", "None"}, f"{name}.{field.name}: {field.type}"
        if "float" in allowed:
            allowed.add("int")
            for value in (math.nan, math.inf, -math.inf):
                with pytest.raises(ValueError, match=field.name):
                    registry.build(name, **{field.name: value})
        for kind, value in WRONG.items():
            if kind not in allowed:
                with pytest.raises(ValueError, match=rf"{name}\.{field.name}"):
                    registry.build(name, **{field.name: value})
                with pytest.raises(ValueError, match=field.name):
                    registry.parse(name, [f"{registry.lookup(name).role}.{field.name}={value!r}"])


def test_rejects_unknown_parameters(name: str):
    with pytest.raises(ValueError, match="no_such_field"):
        registry.build(name, no_such_field=1)


def test_has_a_naive_twin(name: str):
    assert twin_of(name).__doc__
    role = registry.lookup(name).role
    wanted = {"VARIANTS", "REJECTS", "TUNED", "Twin" if role in ("memory", "retriever") else "twin"}
    none: set[str] = set()
    wanted |= {"speaker": none, "retriever": none, "compressor": {"IDENTITY", "budget"}}.get(role, {"IDENTITY"})
    assert wanted <= vars(twin_of(name)).keys(), f"tests/reference/{name}.py must define {sorted(wanted)}"


def test_every_twin_belongs_to_a_method():
    """A twin without a method is a leftover or a misspelt name."""
    twins = {path.stem for path in REFERENCE.glob("*.py") if "\nVARIANTS" in path.read_text()}
    assert twins <= set(registry.entries())
