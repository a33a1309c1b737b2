"""What people mistype at the benches and at ``methods``: one clear line that says what would be right."""

from __future__ import annotations

import pytest

from unit.tiny import objects, run


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("bench", "accuracy", "--pipelines", " , "), "--pipelines: names none"),
        (("bench", "accuracy", "--seconds", "nan"), "seconds: must be a number of seconds, not nan"),
        (("bench", "accuracy", "--every", "inf"), "every_s: must be a number of seconds, not inf"),
        (("bench", "accuracy", "--level", "odd"), "level: 'odd' is unknown; known: easy"),
        (("methods", "--markdown", "--json"), "leave out --json"),
        (("methods", "nosuch"), "unknown method 'nosuch'; known: "),
    ],
)
def test_wrong_input_is_one_clear_line(args: tuple[str, ...], says: str) -> None:
    code, stdout, stderr = run(*args)
    assert (code, stdout) == (2, "")
    assert says in stderr
    assert stderr.count("\n") == 1


def test_a_preset_can_be_looked_up_too() -> None:
    assert run("methods", "stc") == (0, "preset stc = stc_cacher+stc_pruner\n", "")
    assert objects(run("methods", "stc", "--json")[1]) == [
        {"event": "preset", "name": "stc", "pipeline": "stc_cacher+stc_pruner"}
    ]
