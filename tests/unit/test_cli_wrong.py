"""What people mistype at the benches and at ``methods``: one clear line that says what would be right."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from headrace.cli.failing import clean
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
        (("demo", "--every", "inf"), "--every: must be 0.5 to 3600 seconds, not inf"),
        (("demo", "--every", "0.1"), "--every: must be 0.5 to 3600 seconds, not 0.1"),
        (("demo", "--seconds", "nan"), "--seconds: must be 1 to 3600 seconds, not nan"),
        (("demo", "--seconds", "1e9"), "--seconds: must be 1 to 3600 seconds, not 1e+09"),
        (("world", "x.mp4", "--seconds", "1e12"), "--seconds: must be at most 86400, a day, not 1e+12"),
        (("world", "x.txt"), "cannot write x.txt: its name must end in .mp4, .m4v, .mov, .mkv, .avi, .ts, .flv"),
        (("world", "x.webm"), "cannot write x.webm: its name must end in .mp4"),
        (("world", "/dev/full"), "cannot write /dev/full: its name must end in .mp4"),
        (("train", "nano", "new", "--minutes", "nan"), "--minutes: must be a number above 0, not nan"),
        (("train", "nano", "new", "--minutes", "inf"), "--minutes: must be a number above 0, not inf"),
        (("ask", "world:7", "hi", "--stop", ""), "--stop: must be a text that ends the answer, not an empty one"),
        (("ask", "world:7", "hi", "--revision", "main"), "nano is embedded; leave it out"),
        (("ask", "world:7", "hi", "--revision", "main", "--model", "."), ". is a folder; leave it out"),
    ],
)
def test_wrong_input_is_one_clear_line(args: tuple[str, ...], says: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = run(*args)
    assert (code, stdout) == (2, "")
    assert says in stderr
    assert stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_preset_can_be_looked_up_too() -> None:
    assert run("methods", "stc") == (0, "preset stc = stc_cacher+stc_pruner\n", "")
    assert objects(run("methods", "stc", "--json")[1]) == [
        {"event": "preset", "name": "stc", "pipeline": "stc_cacher+stc_pruner"}
    ]


def test_a_method_that_is_asked_for_comes_alone() -> None:
    """Nobody asked for the presets; the whole list has them."""
    assert [(x["event"], x["name"]) for x in objects(run("methods", "uniform", "--json")[1])] == [("method", "uniform")]
    assert ("preset", "stc") in [(x["event"], x["name"]) for x in objects(run("methods", "--json")[1])]


def command(*args: str, env: dict[str, str] | None = None, **streams: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    words = [sys.executable, "-m", "headrace", *args]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    return subprocess.run(words, env=environ, text=True, timeout=120, **streams)  # type: ignore[call-overload]


def test_a_world_does_not_write_over_files(tmp_path: Path) -> None:
    """Least of all over the one that nobody named."""
    target, beside = tmp_path / "out.mp4", tmp_path / "out.json"
    beside.write_text("mine")
    args = ("world", "--seconds", "1", str(target))
    says = "there already; --force writes over it, or give another name"
    assert run(*args) == (2, "", f"headrace: error: {beside}: {says}\n")
    assert (beside.read_text(), target.exists()) == ("mine", False)
    assert run(*args, "--force")[0] == 0
    assert run(*args) == (2, "", f"headrace: error: {target} and {beside}: {says}\n")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a.bin"),
            "a.bin: cannot be written (No space left on device)",
        ),
        (OSError(errno.EACCES, "Permission denied", b"a.bin"), "a.bin: cannot be read or written (Permission denied)"),
        (OSError("odd"), "odd"),
    ],
)
def test_an_error_of_the_system_names_the_file_first(error: OSError, says: str, capsys) -> None:
    @clean
    def fails(context: typer.Context) -> None:
        raise error

    context = click.Context(click.Command("x"), obj=type("Common", (), {"verbosity": 0}))
    with pytest.raises(typer.Exit):
        fails(context)
    assert capsys.readouterr().err == f"headrace: error: {says}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_remarks_that_cannot_be_written_do_not_end_the_work() -> None:
    args = ("ask", "world:7,seconds=2", "hi", "--at", "9", "--json")
    with open("/dev/full", "w") as full:
        done = command(*args, stdout=subprocess.PIPE, stderr=full)
        assert (done.returncode, objects(done.stdout)[-1]["event"]) == (0, "summary")
        assert objects(done.stdout)[0]["model"] == "nano"
        assert command("ask", "nothing.mp4", "hi", stdout=subprocess.PIPE, stderr=full).returncode == 2


def test_progress_is_drawn_on_stderr_where_stdout_is_redirected(tmp_path: Path) -> None:
    args = ("world", "--seconds", "2", "--force", str(tmp_path / "x.mp4"))
    for more, drawn in (((), True), (("--json",), False)):
        reader, writer = pty.openpty()
        done = command(*args, *more, env={"TERM": "xterm"}, stdout=subprocess.PIPE, stderr=writer)
        os.write(writer, b"end")
        shown = os.read(reader, 100_000)
        os.close(reader)
        os.close(writer)
        assert done.returncode == 0
        assert (b"rendering" in shown) is drawn
        assert "x.json" in done.stdout
        assert "rendering" not in done.stdout


def test_a_question_is_read_as_utf8_whatever_the_locale() -> None:
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    question = "was ist da? \u00fc\u4e16"
    done = command("ask", "world:7,seconds=1", question, "--max-tokens", "1", "--json", env=env, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert next(x for x in objects(done.stdout) if x["event"] == "answer")["question"] == question


def test_a_hub_that_cannot_be_reached_is_asked_once(tmp_path: Path) -> None:
    env = {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    env |= {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = command("ask", "world:7,seconds=1", "hi", "--model", "no/such-model", env=env, capture_output=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "headrace: error: model 'no/such-model': not on this machine, and the hub cannot be reached ([Errno 111]"
        " Connection refused); give a folder, or --offline for what is cached\n"
    )
