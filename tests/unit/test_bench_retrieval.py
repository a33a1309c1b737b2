"""The retrieval bench at a tiny size, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.bench.retrieval import Setting, retrieval
from unit.tiny import run

TINY = ("bench", "retrieval", "--model-shape", "tiny", "--dtype", "float32", "--device", "cpu")


def test_a_tiny_run_tells_both_times_and_leaves_nothing(tmp_path: Path):
    setting = Setting(shape="tiny", few=3, many=9, today=2, encoded=1, repeats=2, ram_blocks=4, dtype="float32")
    found = retrieval(setting, tmp_path)
    assert {name: len(ms) for name, ms in found["first_token_ms"].items()} == {"3": 2, "9": 2}
    assert found["ratio"] == found["many_ms"] / found["few_ms"] > 0
    assert found["share_of_today"] == found["many_ms"] / found["again"]["first_token_ms"]
    assert found["disk_bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_command_and_another_memory():
    options = ("--few", "2", "--many", "5", "--today", "0", "--repeats", "1", "--ram-blocks", "3")
    status, stdout, _ = run(*TINY, *options, "--pipeline", "infllm", "--json")
    (found,) = (json.loads(line) for line in stdout.splitlines())
    assert (status, found["event"], found["pipeline"]) == (0, "result", "infllm")
    assert "again" not in found
    status, stdout, _ = run(*TINY, *options)
    assert status == 0
    assert "first token after 5 frames" in stdout


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"few": 5, "many": 5}, "frames: 5,5"),
        ({"repeats": 0}, "repeats: must be at least 1"),
        ({"today": 4, "encoded": 5}, "encoded: 5 of 4 frames"),
    ],
)
def test_bad_numbers_are_refused(values: dict[str, int], what: str):
    with pytest.raises(ValueError, match=what):
        Setting(**values)
