"""Choosing tokens and giving out text: against slow twins, with drawn cases."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.decoding import Chooser, Detokenizer
from headrace.types import Query

LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12)
SHARES = st.floats(0.01, 1.0)
HEATS = st.floats(0.05, 20.0)


def choose(logits, **options) -> int:
    return Chooser(Query("q", **options))(torch.tensor(logits))


def nucleus(logits: list[float], temperature: float, top_p: float) -> set[int]:
    """The slow twin: take tokens from the likeliest on until their sum reaches top_p."""
    top = max(logits)
    odds = [math.exp((x - top) / temperature) for x in logits]
    chosen, used = set(), 0.0
    for i in sorted(range(len(odds)), key=lambda i: -odds[i]):
        chosen.add(i)
        used += odds[i] / sum(odds)
        if used >= top_p - 1e-5:  # a set one token smaller is right within rounding
            break
    return chosen


@given(LOGITS)
def test_greedy_takes_the_first_of_the_likeliest(logits):
    assert choose(logits) == max(range(len(logits)), key=lambda i: (logits[i], -i))


@given(LOGITS, HEATS, SHARES, st.integers(0, 2**31))
def test_sampling_stays_in_the_nucleus(logits, temperature, top_p, seed):
    chooser = Chooser(Query("q", temperature=temperature, top_p=top_p, seed=seed))
    allowed = nucleus(logits, temperature, min(1.0, top_p + 2e-5))
    drawn = {chooser(torch.tensor(logits)) for _ in range(8)}
    floor = min(logits[i] for i in allowed)
    assert all(i in allowed or logits[i] >= floor for i in drawn)


@given(LOGITS, st.integers(0, 2**31))
def test_the_smallest_share_is_greedy(logits, seed):
    chosen = choose(logits, temperature=1.0, top_p=1e-6, seed=seed)
    assert logits[chosen] == pytest.approx(max(logits), abs=1e-12)


@pytest.mark.parametrize("temperature", [1e-3, 1e-8, 1e-30, 1e-40, 1e-300, 5e-324])
def test_a_temperature_near_zero_is_greedy(temperature):
    logits = [3.0, 2.5, -1.0, 2.99]
    for top_p in (1.0, 0.5):
        assert {choose(logits, temperature=temperature, top_p=top_p, seed=s) for s in range(20)} == {0}


def test_a_hot_model_says_everything():
    drawn = Counter(choose([3.0, 2.5, -1.0], temperature=1e30, seed=s) for s in range(600))
    assert sorted(drawn) == [0, 1, 2]
    assert min(drawn.values()) > 140


def test_frequencies_follow_the_softmax():
    logits = [1.0, 0.0, -1.0, 2.0]
    for temperature, top_p in ((1.0, 1.0), (2.0, 1.0), (1.0, 0.8)):
        chooser = Chooser(Query("q", temperature=temperature, top_p=top_p, seed=5))
        drawn = Counter(chooser(torch.tensor(logits)) for _ in range(4000))
        kept = nucleus(logits, temperature, top_p)
        total = sum(math.exp(logits[i] / temperature) for i in kept)
        for i in range(4):
            want = math.exp(logits[i] / temperature) / total if i in kept else 0.0
            assert drawn[i] / 4000 == pytest.approx(want, abs=0.03)


def test_the_seed_decides_and_nothing_else():
    logits = torch.zeros(50)

    def draw(seed: int, noise: int) -> list[int]:
        torch.manual_seed(noise)
        chooser = Chooser(Query("q", temperature=1.0, seed=seed))
        return [chooser(logits) for _ in range(20)]

    assert draw(3, 1) == draw(3, 2)
    assert draw(3, 1) != draw(4, 1)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    choose([0.0, 0.0], temperature=1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_logits_are_left_alone():
    logits = torch.randn(9)
    kept = logits.clone()
    Chooser(Query("q", temperature=1.0, top_p=0.3))(logits)
    assert torch.equal(logits, kept)


def test_half_precision_logits_are_sampled_in_full():
    logits = torch.tensor([1.0, 0.0, -1.0], dtype=torch.bfloat16)
    assert {Chooser(Query("q", temperature=0.7, top_p=0.9, seed=s))(logits) for s in range(50)} == {0, 1}


# -- text ------------------------------------------------------------------------------------------------------------

LETTERS = "ab é€😀"


def letters(ids) -> str:
    """Decode a byte per token, as byte-level tokenizers do: unfinished characters become U+FFFD."""
    return bytes(ids).decode("utf-8", errors="replace")


def speak(data: bytes, stop=()) -> tuple[list[str], Detokenizer]:
    text, parts = Detokenizer(letters, stop), []
    for byte in data:
        parts.append(text.add(byte))
        if text.stopped:
            break
    return [*parts, text.finish()], text


@given(st.text(LETTERS, max_size=20), st.lists(st.text(LETTERS, max_size=4), max_size=3))
def test_pieces_join_to_the_text_before_the_first_stop(said, stop):
    parts, text = speak(said.encode(), stop)
    assert "".join(parts) == text.text
    cuts = []
    for end in range(1, len(said) + 1):  # the first moment any stop string is complete
        cuts = [said.find(s) for s in stop if s and s in said[:end]]
        if cuts:
            break
    assert text.text == (said[: min(cuts)] if cuts else said)
    assert text.stopped == bool(cuts)


@given(st.text(LETTERS, max_size=20), st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3))
def test_what_was_given_out_is_never_taken_back(said, stop):
    whole = speak(said.encode(), stop)[1].text
    text, given_out = Detokenizer(letters, stop), ""
    for byte in said.encode():
        given_out += text.add(byte)
        assert whole.startswith(given_out)
        assert "\ufffd" not in given_out
        if text.stopped:
            break


def test_text_comes_as_soon_as_it_is_certain():
    assert speak(b"abc", ["xyz"])[0] == ["a", "b", "c", ""]
    assert speak("aé€".encode())[0] == ["a", "", "é", "", "", "€", ""]
    assert speak(b"axyb", ["xyz"])[0] == ["a", "", "", "xyb", ""]
    assert speak(b"axyz", ["xyz"])[0] == ["a", "", "", "", ""]


def test_an_answer_cut_in_the_middle_of_a_character_keeps_what_there_is():
    parts, text = speak("a€".encode()[:3])
    assert "".join(parts) == text.text == "a\ufffd"
    assert parts[:3] == ["a", "", ""]


def test_empty_stop_strings_stop_nothing():
    assert speak(b"ab", ["", ""])[0] == ["a", "b", ""]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -3}, "max_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"evidence": -1}, "evidence"),
    ],
)
def test_wrong_options_are_named(options, named):
    with pytest.raises(ValueError) as raised:
        Query("what?", **options)
    assert str(raised.value).startswith(f"{named}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_an_empty_question_is_refused(text):
    with pytest.raises(ValueError, match=r"^question: is empty"):
        Query(text)
