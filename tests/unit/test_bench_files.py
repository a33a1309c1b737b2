"""What benches leave on disk: whole files, rows of today's pipelines, and a torn last line that stops nobody."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from headrace import registry
from headrace.bench import accuracy, recall
from headrace.bench import rows as bench_rows
from headrace.bench.files import append_line, check_save, read_lines, write_whole
from headrace.bench.ledger import Ledger, summarise
from headrace.bench.recalled import Rows
from headrace.bench.statistics import Outcome
from headrace.bench.table import replace_between
from headrace.methods.memories import full, recent
from unit.tiny import run

HERE = {"device": "cpu"}
SETTING = accuracy.Setting(seconds=6.0, every_s=3.0, h264=False)
PAST = recall.Setting(ages=(0.1,))


def row(name: str = "recent:2", seed: int = 0, *, right: bool = True) -> accuracy.Row:
    """A row as a run of today leaves it."""
    return accuracy.Row(name, accuracy.text_of(name), seed, [Outcome("where", seed, right)])


def kept(path: Path) -> tuple[Any, Any]:
    """Both kinds of rows in one file, each with one row of ``recent:2``."""
    ledger, rows = Ledger(path, "m", SETTING, HERE), Rows(path, "m", PAST, HERE)
    if not ledger.rows:
        ledger.add(row())
        rows.add(recall.Row("recent:2", recall.text_of("recent:2"), 0, [(0.1, "where", True)]))
    return ledger, rows


def test_a_row_measured_with_other_defaults_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is the same, its full text is not; it is measured anew, and the newest row is the one that is read."""
    path = tmp_path / "rows.jsonl"
    assert all(x.has("recent:2", 0) for x in kept(path))
    known = recent.Recent.__init__.__kwdefaults__
    monkeypatch.setattr(recent.Recent.__init__, "__kwdefaults__", {**known, "turn_rows": 7})
    for rows in kept(path):
        assert len(rows.rows) == 1, "an old row can still be read"
        assert not rows.has("recent:2", 0)
    ledger, _ = kept(path)
    ledger.add(row(right=False))
    assert ledger.has("recent:2", 0)
    for rows in (ledger, kept(path)[0]):
        assert [x.outcomes[0].right for x in rows.rows] == [False]
        assert rows.has("recent:2", 0)


def test_a_row_measured_with_other_code_of_a_method_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comments and docstrings may change; rows from before this was noted are taken."""
    path, source, read = tmp_path / "rows.jsonl", inspect.getsource(recent), inspect.getsource
    assert all(x.has("recent:2", 0) for x in kept(path))
    for change, counts in (
        (source + "\n# a remark\n", True),
        (source.replace("Recent frames only", "Only recent frames"), True),
        (source + "\nNEW = 1\n", False),
    ):
        assert change != source
        patched = partial(_read_as, read, change)
        monkeypatch.setattr(registry.inspect, "getsource", patched)
        assert [x.has("recent:2", 0) for x in kept(path)] == [counts, counts]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "code"}) + "\n" for line in lines))
    assert all(x.has("recent:2", 0) for x in kept(path))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("recent:2+oracle:0.3", recent),
        ("recent:2+oracle:0.3@memory.turn_rows=9", bench_rows),
        ("recent:2@turn_rows=9+oracle:0.3", recent),
        ("oracle:0.3", full),
    ],
)
def test_an_oracle_measured_with_other_code_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, changed: Any
) -> None:
    """It is no method of the registry, but what stands beside it is."""
    ledger = Ledger(tmp_path / "rows.jsonl", "m", SETTING, HERE)
    for known in (name, "majority", "text-only"):
        ledger.add(row(known))
    changes(monkeypatch, changed)
    assert [ledger.has(known, 0) for known in (name, "majority", "text-only")] == [False, True, True]


def test_a_moment_measured_with_other_code_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs ``full``."""
    found = Rows(tmp_path / "rows.jsonl", "m", PAST, HERE)
    found.add(recall.Row("moment", "moment", 0, [(0.1, "where", True)]))
    assert found.has("moment", 0)
    changes(monkeypatch, recent)
    assert found.has("moment", 0)
    changes(monkeypatch, full)
    assert not found.has("moment", 0)


def changes(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """Let a module do something else from here on."""
    source, read = inspect.getsource(module), inspect.getsource
    monkeypatch.setattr(registry.inspect, "getsource", lambda of: f"{source}\nNEW = 1\n" if of is module else read(of))


def _read_as(read: Callable[[Any], str], text: str, module: Any) -> str:
    return text if module is recent else read(module)


def test_an_oracle_is_known_again_in_another_run(tmp_path: Path) -> None:
    """The address of the function that knows the foreground is no parameter."""
    path, name = tmp_path / "rows.jsonl", "recent:2+oracle:0.3@memory.turn_rows=9"
    text = accuracy.text_of(name)
    assert "turn_rows=9" in text
    assert "0x" not in text
    old = dataclasses.replace(row(name), pipeline=text.replace("shown>", "shown at 0x7f6c012864c0>"))
    Ledger(path, "m", SETTING, HERE).add(old)
    assert Ledger(path, "m", SETTING, HERE).has(name, 0)
    assert not Ledger(path, "m", SETTING, HERE).has("recent:2+oracle:0.3", 0)
    for plain in ("majority", "text-only"):
        assert accuracy.text_of(plain) == plain


def test_two_runs_on_one_file_count_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    ours, theirs = (Ledger(path, "m", SETTING, HERE) for _ in "ab")
    for ledger in (ours, theirs):
        ledger.add(row(seed=0))
        ledger.add(row(seed=1, right=False))
    assert len(path.read_text().splitlines()) == 4
    again = Ledger(path, "m", SETTING, HERE)
    (found,) = summarise(again.rows, ["recent:2"], 2)
    assert (len(again.rows), found["streams"], found["questions"]) == (2, 2, 2)


@pytest.mark.parametrize("torn", [b'{"key": {"la', b'{"key": "\xc3', b"7{"])
def test_a_torn_last_line_is_dropped(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    kept(path)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    for rows in kept(path):
        assert len(rows.rows) == 1
    kept(path)[0].add(row(seed=1))
    assert path.read_bytes().startswith(whole)
    assert [json.loads(line)["row"]["seed"] for line in path.read_text().splitlines()] == [0, 0, 1]
    path.write_bytes(whole + torn + b"\n" + whole)
    with pytest.raises(ValueError, match="line 3 is damaged"):
        kept(path)


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.jsonl"
    append_line(path, {"x": 1})
    path.write_bytes(path.read_bytes()[:-1])
    assert list(read_lines(path)) == [(1, {"x": 1})]
    append_line(path, {"x": 2})
    assert list(read_lines(path)) == [(1, {"x": 1}), (2, {"x": 2})]
    assert list(read_lines(tmp_path / "none")) == list(read_lines(None)) == []


def test_a_page_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_bytes(b"a\r\n<!-- t -->\r\nold\r\n<!-- /t -->\r\nb\r\n")
    page.chmod(0o640)
    (tmp_path / "link.md").symlink_to(page)
    replace_between(tmp_path / "link.md", "t", "1\n2")
    assert page.read_bytes() == b"a\r\n<!-- t -->\r\n1\r\n2\r\n<!-- /t -->\r\nb\r\n"
    assert page.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "link.md").is_symlink()
    before, write = page.read_bytes(), Path.write_text

    def full(self: Path, text: str, **settings: Any) -> int:
        write(self, text[: len(text) // 2], **settings)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    for act in (lambda: replace_between(page, "t", "new"), lambda: write_whole(page, "x" * 100)):
        with pytest.raises(OSError, match="No space"):
            act()
        assert page.read_bytes() == before
    assert sorted(x.name for x in tmp_path.iterdir()) == ["link.md", "page.md"]


def test_a_soak_keeps_its_last_result_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.cli import soak

    path = tmp_path / "deep" / "soak.json"
    soak._keep(path, {"frames": 1})
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        soak._keep(path, {"frames": 2})
    assert json.loads(path.read_text()) == {"frames": 1}


def test_a_place_that_cannot_be_written_is_named_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, says in ((tmp_path, "is a folder"), (tmp_path / "file" / "rows.json", "cannot be written")):
        with pytest.raises(ValueError, match=says) as error:
            check_save(path)
        assert str(path) in str(error.value)
        for command in (("latency", "--model-shape", "nowhere"), ("accuracy", "--model", "nowhere")):
            code, stdout, stderr = run("bench", *command, "--save", str(path))
            assert (code, stdout, stderr.count("\n")) == (2, "", 1)
            assert says in stderr
    check_save(tmp_path / "new" / "deep" / "rows.json")
    check_save(tmp_path / "file")
    check_save(None)
    assert [x.name for x in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "x"
