"""Folders that cannot be used, as a user meets them: one clear line, nothing lost, and a live stream goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.backbones import plain
from headrace.engine import folder
from unit.tiny import objects, run, save_tiny

ASK = ("ask", "world:7,seconds=3", "hi", "--max-tokens", "2", "--json")
TIERED = ("-p", "rekv:2", "--set", "memory.ram_blocks=2", "--set", "memory.window=4")
PATH_OPEN = Path.open


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def saved(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream that was kept."""
    path = tmp_path_factory.mktemp("saved") / "stream"
    assert run(*ASK, "--model", model, "--state", str(path))[0] == 0
    return path


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def refused(*args: str) -> str:
    """The one line of a command that had to fail before its first step."""
    code, stdout, stderr = run(*args)
    assert (code, [x["event"] for x in objects(stdout) if x["event"] != "start"]) == (2, [])
    assert stderr.count("\n") == 1
    assert stderr.startswith("headrace: error: ")
    return stderr.strip().removeprefix("headrace: error: ")


def newer(path: Path) -> str:
    manifest = json.loads((path / "stream.json").read_text())
    (path / "stream.json").write_text(json.dumps({**manifest, "format": 99}))
    return f"{path}/stream.json: has format 99 of a newer headrace; this version reads formats 1 to {folder.FORMAT}"


def damaged(path: Path) -> str:
    state = next(path.glob("state-*"))
    state.write_bytes(state.read_bytes()[:-9])
    return f"{state}: is damaged, its checksum does not match stream.json"


def emptied(path: Path) -> str:
    state = next(path.glob("state-*"))
    state.unlink()
    return f"{state}: cannot be read (No such file or directory)"


@pytest.mark.parametrize("spoil", [newer, damaged, emptied])
def test_a_folder_that_cannot_be_gone_on_with(
    model: str, saved: Path, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    """Of a newer format, damaged, or with a file gone: named, and left as it is."""
    path = Path(shutil.copytree(saved, tmp_path / "s"))
    says = spoil(path)
    before = files(path)
    assert refused(*ASK, "--model", model, "--resume", str(path)) == says
    assert files(path) == before


def test_a_folder_of_another_model(model: str, saved: Path, tmp_path: Path) -> None:
    """Also of the same family and shape: other weights would understand nothing of what is kept."""
    plain.save(*plain.tiny("qwen2_5_vl", ["hi"]), tmp_path / "qwen")
    shutil.copytree(model, tmp_path / "twin")
    tokenizer = plain.load(model)[1]
    plain.save(plain.build(plain.tiny_config(len(tokenizer), clip="frame"), seed=5), tokenizer, tmp_path / "twin")
    before = files(saved)
    for other in (tmp_path / "qwen", tmp_path / "twin"):
        says = refused(*ASK, "--model", str(other), "--resume", str(saved))
        assert says == f"{saved}/stream.json: was saved with the model '{model}', not with the weights of '{other}'"
    assert files(saved) == before


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_a_folder_that_may_not_be_written_to(model: str, saved: Path, tmp_path: Path, monkeypatch, error: OSError):
    """Found out before the first frame, for a new folder, one to go on with, and one for blocks of the past."""

    def put(path: Path, data: bytes) -> None:
        raise error

    def mkdtemp(**_: Any) -> str:
        raise error

    monkeypatch.setattr(folder, "_put", put)
    monkeypatch.setattr("tempfile.mkdtemp", mkdtemp)
    before = files(saved)
    for option, path in (("--state", tmp_path / "new"), ("--resume", saved)):
        assert refused(*ASK, "--model", model, option, str(path)) == f"{path}: cannot be written to ({error.strerror})"
    assert files(saved) == before
    says = refused(*ASK, "--model", model, *TIERED, "--disk", str(tmp_path))
    assert says == f"disk: {tmp_path} cannot be written to ({error.strerror})"


def full(self: Path, mode: str = "r", *args: Any, **values: Any) -> Any:
    """A disk with no room for blocks."""
    if self.suffix == ".kv":
        raise OSError(28, "No space left on device")
    return PATH_OPEN(self, mode, *args, **values)


@pytest.mark.parametrize("command", ["ask", "soak"])
def test_a_disk_that_is_full_is_told_once_and_the_stream_goes_on(model: str, tmp_path: Path, monkeypatch, command: str):
    """Blocks of the past that find no room are forgotten; every frame is seen and the question answered."""
    monkeypatch.setattr(Path, "open", full)
    args = [*ASK, "--model", model]
    if command == "soak":
        args = ["bench", "soak", "--frames", "50", "--model", model, "--json"]
    code, stdout, stderr = run(*args, *TIERED, "--disk", str(tmp_path))
    assert code == 0
    (line,) = [line for line in stderr.splitlines() if "of anonymous memory" not in line]
    assert line.startswith(f"headrace: disk: {tmp_path}/stream-")
    assert line.endswith("takes no more (No space left on device); the stream goes on and forgets what does not fit")
    events = [x["event"] for x in objects(stdout)]
    assert events == (["start", *6 * ["step"], "answer", "summary"] if command == "ask" else ["result"])


def test_a_soak_that_cannot_be_saved_says_so_and_goes_on(model: str, tmp_path: Path, monkeypatch) -> None:
    put = folder._put

    def full(path: Path, data: bytes) -> None:
        if path.name != folder.PROBE:  # the look at the start goes well
            raise OSError(28, "No space left on device")
        put(path, data)

    monkeypatch.setattr(folder, "_put", full)
    keep = ("--state", str(tmp_path / "s"), "--checkpoint-every", "0.001")
    code, _, stderr = run("bench", "soak", "--frames", "50", "--model", model, *keep, "--json")
    assert code == 2
    first, last = (line for line in stderr.splitlines() if "of anonymous memory" not in line)
    why = f"{tmp_path / 's'}: cannot be written to (No space left on device)"
    assert first == f"headrace: {why}; the stream goes on, and the next checkpoint will try again"
    assert last == f"headrace: error: {why}"
