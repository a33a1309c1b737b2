"""The pages say what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.cli import app
from headrace.engine.folder import FORMAT

ROOT = Path(__file__).parents[2]


def test_methods_page_is_what_the_registry_says() -> None:
    result = CliRunner().invoke(app, ["methods", "--markdown"])
    assert result.exit_code == 0
    page = (ROOT / "docs" / "methods.md").read_text()
    assert page == result.stdout, "run: headrace methods --markdown > docs/methods.md"


def test_readme_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert len(found) == 2
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in found:
        exec(compile(block, "README.md", "exec"), names)
    assert re.match(r"\w+ \d+ ms \[[\d., ]+\]\n", capsys.readouterr().out)
    assert names["stream"].state.time_s > 13


def test_files_named_in_the_pages_exist() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    missing = []
    for page in pages:
        for name in re.findall(r"`((?:src|tests|docs)/[\w/.-]+)`", page.read_text()):
            if not (ROOT / name).exists():
                missing.append(f"{page.relative_to(ROOT)} names {name}")
        for name in re.findall(r"\]\(([\w/.-]+)\)", page.read_text()):
            if not (page.parent / name).exists():
                missing.append(f"{page.relative_to(ROOT)} links {name}")
    assert not missing, "\n".join(missing)


def test_the_decision_on_saving_knows_the_format() -> None:
    page = (ROOT / "docs" / "decisions" / "0014-saving-what-is-new.md").read_text()
    assert f"become format {FORMAT} with the next save" in page


def test_decisions_are_short() -> None:
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        assert len(page.read_text().splitlines()) <= 40, page.name
