"""The rules of the house, over the whole package and everything that is tracked."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

from house import arrows, habits, shapes

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "headrace"


@cache
def _sources() -> dict[PurePosixPath, str]:
    files = sorted(PACKAGE.rglob("*.py"))
    return {PurePosixPath(file.relative_to(PACKAGE).as_posix()): file.read_text() for file in files}


@cache
def _trees() -> dict[PurePosixPath, ast.Module]:
    return {path: ast.parse(text, str(path)) for path, text in _sources().items()}


def _tracked() -> list[Path]:
    """List what git tracks; where the tree is no checkout, what would be tracked."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        files = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        ignored = {".git", ".venv", "build", "dist", "__pycache__"}
        files = [file for file in ROOT.rglob("*") if not ignored & set(file.relative_to(ROOT).parts)]
    return [file for file in files if file.is_file()]


def test_the_package_is_found():
    assert PurePosixPath("__init__.py") in _sources()
    assert len(_sources()) > 3


@pytest.mark.parametrize("check", [*arrows.CHECKS, *shapes.CHECKS, *habits.CHECKS])
def test_rule(check):
    found = [complaint for path, tree in _trees().items() for complaint in check(path, tree)]
    assert not found, "\n" + "\n".join(found)


def test_file_lengths():
    found = [c for path, text in _sources().items() for c in shapes.check_file_length(path, len(text.splitlines()))]
    assert not found, "\n" + "\n".join(found)


def test_most_files_are_short():
    lengths = [len(text.splitlines()) for path, text in _sources().items() if path.name != "__init__.py"]
    found = shapes.check_distribution(lengths)
    assert not found, "\n" + "\n".join(found)


def test_no_tracked_file_names_a_machine():
    found, read = [], 0
    for file in _tracked():
        data = file.read_bytes()
        if b"\0" in data:
            continue
        read += 1
        path = PurePosixPath(file.relative_to(ROOT).as_posix())
        found += habits.check_machine_paths(path, data.decode(errors="replace"))
    assert read > 3
    assert not found, "\n" + "\n".join(found)
