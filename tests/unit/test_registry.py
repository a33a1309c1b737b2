"""Names, values and settings: what the grammar takes, and what each mistake is told."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace import registry
from headrace.methods.compressors.random import Random
from headrace.methods.compressors.uniform import Uniform
from headrace.methods.memories.full import Full
from headrace.methods.memories.recent import Recent
from headrace.methods.memories.streamingllm import StreamingLLM


def test_methods_are_found_by_file_name():
    found = registry.entries()
    assert found["uniform"] == registry.Entry("uniform", "compressor", Uniform)
    assert found["recent"].role == "memory"
    assert all(name == entry.name == entry.method.__module__.rsplit(".", 1)[-1] for name, entry in found.items())
    assert [*found] == sorted(found, key=lambda name: ([*registry.ROLES.values()].index(found[name].role), name))
    assert {entry.role for entry in found.values()} <= set(registry.ROLES.values())


@pytest.mark.parametrize(
    ("name", "values", "want"),
    [
        ("uniform", {}, Uniform()),
        ("uniform", {"keep": 60}, Uniform(keep=60)),
        ("uniform", {"keep": 0.25}, Uniform(keep=0.25)),
        ("random", {"keep": 3, "seed": 9}, Random(keep=3, seed=9)),
        ("streamingllm", {"sinks": None}, StreamingLLM(sinks=None)),
        ("streamingllm", {"sinks": 4, "positions": "original"}, StreamingLLM(sinks=4, positions="original")),
    ],
)
def test_build(name: str, values: dict[str, Any], want: Any):
    assert registry.build(name, **values) == want
    assert registry.name_of(want) == name


def test_fields_and_defaults():
    assert registry.fields("recent") == {"frames": 4, "turn_rows": 512, "positions": "auto"}
    assert registry.fields("keep_all") == {}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("full", {"memory": Full()}),
        ("recent:8", {"memory": Recent(frames=8)}),
        ("streamingllm:2048+uniform:0.3", {"memory": StreamingLLM(window=2048), "compressor": Uniform(keep=0.3)}),
        (" recent : 8 ", None),
        (" recent:8 + uniform:5 ", {"memory": Recent(frames=8), "compressor": Uniform(keep=5)}),
        ("uniform+uniform:5", {"compressor": Uniform(keep=5)}),
        ("uniform:5+uniform", {"compressor": Uniform(keep=5)}),
        ("uniform:1.0", {"compressor": Uniform(keep=1.0)}),
        ("uniform:1", {"compressor": Uniform(keep=1)}),
        ("uniform:3e-1", {"compressor": Uniform(keep=0.3)}),
    ],
)
def test_parse(text: str, want: dict[str, Any] | None):
    if want is None:
        with pytest.raises(ValueError, match="unknown method"):
            registry.parse(text)
    else:
        assert registry.parse(text) == want
        assert all(type(a.keep) is type(want["compressor"].keep) for a in [registry.parse(text).get("compressor")] if a)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a name is missing"),
        ("+", "a name is missing"),
        ("full+", "a name is missing"),
        ("full++uniform", "a name is missing"),
        (":4", "a name is missing"),
        ("recent:", "the value after the colon is missing"),
        ("keep_all:4", "keep_all takes no value, but 'keep_all:4' gives one"),
        ("full:4", "full.positions: 4 is no str"),
        ("keep_all:", "keep_all takes no value"),
        ("recnt:4", "unknown method 'recnt'; did you mean recent"),
        ("Recent", "unknown method 'Recent'; did you mean recent"),
        ("streaming_llm", "did you mean streamingllm"),
        ("xyzzy", "unknown method 'xyzzy'; known: .*uniform"),
        ("full+recent:4", "full and recent both fill the role of memory; choose one"),
        ("uniform+random", "uniform and random both fill the role of compressor"),
        ("uniform:5+uniform:6", "uniform is given two values"),
        ("uniform:5+uniform:5", "uniform is given two values"),
        ("recent:four", "recent.frames: 'four' is no int"),
        ("recent:4.0", "recent.frames: 4.0 is no int"),
        ("recent:True", "recent.frames: True is no int"),
        ("recent:4:5", "recent.frames: '4:5' is no int"),
        ("recent:0", "frames: must be at least 1, not 0"),
        ("uniform:0", "keep: 0 is no budget"),
        ("uniform:1.5", "keep: 1.5 is no fraction"),
        ("uniform:60%", "uniform.keep: '60%' is no float or int"),
        ("uniform:[1]", r"uniform.keep: \[1\] is no float or int"),
        ("uniform:{[]:1}", "uniform.keep"),
        ("uniform:" + "(" * 500, "uniform.keep"),
    ],
)
def test_what_a_wrong_text_is_told(text: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        registry.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "settings", "want"),
    [
        ("uniform", ["compressor.keep=60"], {"compressor": Uniform(keep=60)}),
        ("uniform:5", ["compressor.keep=60"], {"compressor": Uniform(keep=60)}),
        ("random", ["compressor.keep=0.5", " compressor.seed = 7 "], {"compressor": Random(keep=0.5, seed=7)}),
        ("streamingllm", ["memory.sinks=none"], {"memory": StreamingLLM(sinks=None)}),
        ("streamingllm", ["memory.sinks=None", "memory.window=8"], {"memory": StreamingLLM(window=8)}),
        ("full", ["memory.positions=original"], {"memory": Full(positions="original")}),
        ("full", ["memory.positions='original'"], {"memory": Full(positions="original")}),
        ("full", ["memory.positions=repack", "memory.positions=original"], {"memory": Full(positions="original")}),
    ],
)
def test_settings(text: str, settings: list[str], want: dict[str, Any]):
    assert registry.parse(text, settings) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("uniform@keep=60", {"compressor": Uniform(keep=60)}),
        ("uniform@compressor.keep=60", {"compressor": Uniform(keep=60)}),
        (" random @ keep = 0.5 @seed=7 ", {"compressor": Random(keep=0.5, seed=7)}),
        ("random:0.5@seed=7+recent:4", {"compressor": Random(keep=0.5, seed=7), "memory": Recent(frames=4)}),
        ("recent:4+random@memory.frames=5@seed=7", {"compressor": Random(seed=7), "memory": Recent(frames=5)}),
        ("recent@frames=5@frames=6", {"memory": Recent(frames=6)}),
    ],
)
def test_settings_in_the_text(text: str, want: dict[str, Any]):
    assert registry.parse(text) == want
    assert registry.parse(*registry.apart(text)) == want


def test_settings_beside_the_text_go_last():
    assert registry.parse("recent@frames=5", ["memory.frames=6"]) == {"memory": Recent(frames=6)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uniform@", "write role.field=value"),
        ("uniform@60", "write role.field=value"),
        ("uniform@=60", "write role.field=value"),
        ("uniform@kep=60", "uniform has no parameter 'kep'"),
        ("uniform@memory.frames=6", "names no memory"),
        ("unifrm@keep=60", "unknown method 'unifrm'; did you mean uniform"),
        ("@keep=60", "a name is missing"),
        ("@compressor.keep=60", "a name is missing"),
        ("recent@frames=5+", "a name is missing"),
    ],
)
def test_what_a_wrong_setting_in_the_text_is_told(text: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        registry.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("keep=60", "write role.field=value"),
        ("compressor.keep", "write role.field=value"),
        ("compressor=60", "write role.field=value"),
        (".keep=60", "write role.field=value"),
        ("compressor.=60", "write role.field=value"),
        ("", "write role.field=value"),
        ("compressors.keep=60", "'compressors' is no role; roles: encoder, compressor"),
        ("pruner.keep=60", "names no pruner"),
        ("compressor.kep=60", "uniform has no parameter 'kep'; parameters: keep"),
        ("compressor.keep=", "uniform.keep: '' is no float or int"),
        ("compressor.keep=lots", "uniform.keep: 'lots' is no float or int"),
        ("compressor.keep=None", "uniform.keep: None is no float or int"),
        ("compressor.keep=-3", "keep: -3 is no budget"),
        ("compressor.keep=a=b", "uniform.keep: 'a=b'"),
        ("memory.frames=8", "full has no parameter 'frames'; parameters: positions"),
    ],
)
def test_what_a_wrong_setting_is_told(setting: str, message: str):
    with pytest.raises(ValueError, match=message):
        registry.parse("uniform+full", [setting])


def test_a_method_without_parameters_says_none():
    with pytest.raises(ValueError, match="keep_all has no parameter 'keep'; parameters: none"):
        registry.parse("keep_all", ["compressor.keep=3"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("60", 60), ("-1", -1), ("0.3", 0.3), ("1e3", 1000.0), ("true", True), ("False", False), ("none", None),
        ("None", None), ("auto", "auto"), ("'60'", "60"), ("a b", "a b"), ("0x10", 16), ("1_000", 1000), ("", ""),
        ("007", "007"), ("4#2", "4#2"), ("4 # frames", "4 # frames"), ("nan", "nan"), ("{[]:1}", "{[]:1}"),
    ],
)  # fmt: skip
def test_values(text: str, value: Any):
    got = registry.parse_value(text)
    assert got == value
    assert type(got) is type(value)


@given(text=st.text(max_size=40))
@example("{[]: 1}")
@example("-'a'")
@example("\0")
@example("9" * 5000)
@example("[" * 3000)
@example("-" * 20_000 + "1")
def test_any_text_is_a_value(text: str):
    registry.parse_value(text)


TEXTS = st.text(alphabet="full+recnt:4.0-'[]{} @=uniform", max_size=24)


@given(text=TEXTS, setting=st.text("memory.frs=4", max_size=14))
def test_any_text_parses_or_is_refused_in_one_line(text: str, setting: str):
    for settings in ([], [setting]):
        refusal = ""
        try:
            registry.parse(text, settings)
        except ValueError as error:
            refusal = repr(str(error))
        assert refusal != "''"
        assert "\\n" not in refusal


def test_wrong_type_for_a_whole_number_and_for_a_fraction():
    for value in (True, None, "4", 4.0, [4]):
        with pytest.raises(ValueError, match=re.escape("recent.frames")):
            registry.build("recent", frames=value)
    assert registry.build("uniform", keep=2).keep == 2


def test_presets_stand_for_their_text(monkeypatch: pytest.MonkeyPatch):
    """A made-up preset: takes no value, may be mixed with other roles, and its name is hinted at."""
    monkeypatch.setattr(registry, "presets", lambda: {"gist": "recent:2+uniform:3"})
    assert registry.parse("gist") == {"memory": Recent(frames=2), "compressor": Uniform(keep=3)}
    assert registry.parse("gist", ["compressor.keep=9"])["compressor"] == Uniform(keep=9)
    with pytest.raises(ValueError, match="the preset gist takes no value; write gist@role"):
        registry.parse("gist:3")
    assert registry.parse("gist@compressor.keep=9")["compressor"] == Uniform(keep=9)
    with pytest.raises(ValueError, match="setting 'keep=9': gist is a preset of several methods; write role"):
        registry.parse("gist@keep=9")
    with pytest.raises(ValueError, match="both fill the role of memory"):
        registry.parse("gist+full")
    with pytest.raises(ValueError, match="did you mean gist"):
        registry.parse("gits")


def test_two_presets_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch):
    one = dataclasses.make_dataclass("One", [], frozen=True)
    one.presets = {"gist": "full"}
    both = {name: registry.Entry(name, "memory", one) for name in ("a", "b")}
    monkeypatch.setattr(registry, "entries", lambda: both)
    with pytest.raises(ValueError, match=r"preset 'gist': \w+ and another method both have one"):
        registry.presets.__wrapped__()


@pytest.mark.parametrize("name", list(registry.entries()))
def test_every_parameter_says_what_it_is(name: str) -> None:
    """Users read it in ``headrace methods NAME``; it is the comment behind the field."""
    method = registry.lookup(name).method
    meanings = registry.meanings(method)
    assert list(meanings) == list(registry.fields(name))
    assert all(meanings.values())
    assert all(paragraph.strip() for paragraph in registry.account(method))


def test_a_method_without_source_is_listed_all_the_same() -> None:
    made = dataclasses.make_dataclass("Made", [("keep", int, 3)])
    assert registry.meanings(made) == {}
