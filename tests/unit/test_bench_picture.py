"""The picture of an accuracy bench."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from headrace.bench import picture
from headrace.bench.picture import COLOURS, check, draw, family, spread
from headrace.cli import app


def row(pipeline: str, accuracy: float, ms: float) -> dict[str, Any]:
    return {"pipeline": pipeline, "accuracy": accuracy, "ci95": 0.02, "ms_per_frame": ms}


ROWS = [row("dense", 0.7, 30.0), row("recent:4", 0.8, 11.0), row("recent:16", 0.81, 12.0), row("majority", 0.3, 0.0)]


def ink(path: Path, colour: str) -> np.ndarray:
    """Where a picture has a colour of its own marks, roughly."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.abs(pixels - wanted).max(-1) < 24


def test_every_family_has_its_colour_and_every_mark_its_place(tmp_path: Path) -> None:
    path = tmp_path / "new" / "picture.png"
    draw(ROWS, path, title="a title")
    dense, recent = ink(path, COLOURS[0]), ink(path, COLOURS[1])
    assert not ink(path, COLOURS[2]).any()
    width = dense.shape[1]
    axes = slice(0, int(0.54 * width))  # the list begins right of it
    dense_at, recent_at = (np.argwhere(found[:, axes]).mean(0) for found in (dense, recent))
    assert dense_at[1] > recent_at[1]  # dearer: further right
    assert dense_at[0] > recent_at[0]  # worse: further down
    assert ink(path, COLOURS[1])[:, int(0.54 * width) :].sum() > 1.5 * dense[:, int(0.54 * width) :].sum()


def test_many_rows_stay_on_the_page(tmp_path: Path) -> None:
    rows = [row(f"recent:{i}+uniform:0.{i}", 0.5 + 0.001 * i, 10.0 + i) for i in range(30)]
    draw([*rows, ROWS[-1]], tmp_path / "picture.png", title="")
    page = np.asarray(Image.open(tmp_path / "picture.png").convert("L"))
    assert page.shape[0] > 30 * 120 * picture.LABEL_INCHES
    assert (page[:6] == 255).all()
    assert (page[-6:] == 255).all()
    draw([ROWS[1]], tmp_path / "one.svg", title="")
    assert "recent:4" in (tmp_path / "one.svg").read_text() or (tmp_path / "one.svg").stat().st_size > 5000


def test_what_cannot_be_drawn_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"picture.txt: a picture ends in \.png"):
        check(tmp_path / "picture.txt")
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(ROWS[-1:], tmp_path / "picture.png", title="")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"headrace\[bench\]"):
        check(tmp_path / "picture.png")


def test_the_command_refuses_before_the_work(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["bench", "accuracy", "--model", "none", "--picture", str(tmp_path / "a.txt")])
    assert found.exit_code == 2
    assert found.stderr == f"headrace: error: {tmp_path / 'a.txt'}: a picture ends in .png, .svg, .pdf\n"


def test_the_command_draws(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    words = ["--pipelines", "recent:1,majority", "--seeds", "1", "--seconds", "4", "--watches", "0", "--exact"]
    found = CliRunner().invoke(app, ["bench", "accuracy", *words, "--picture", str(path)])
    assert found.exit_code == 0, found.output
    assert ink(path, COLOURS[0]).any()


def test_families() -> None:
    assert family("recent:16+uniform:0.3") == family("recent:4+uniform:10") == "recent+uniform"
    assert family("dense") == "dense"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30).map(sorted), st.floats(0.01, 0.3))
def test_labels_are_apart_in_order_and_stay_where_they_may(wanted: list[float], gap: float) -> None:
    places = spread(wanted, gap)
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(places))
    assert sum(places) == pytest.approx(sum(wanted), abs=1e-6)
    if all(b - a >= gap for a, b in itertools.pairwise(wanted)):
        assert places == pytest.approx(wanted)
