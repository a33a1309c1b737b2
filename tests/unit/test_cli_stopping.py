"""What ends a watch early: signals, a failure in mid-stream, a live source that is lost. Nothing that was seen is."""

from __future__ import annotations

import fcntl
import http.server
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace import video
from headrace.cli import watching
from headrace.cli.keeping import Keeping
from headrace.cli.output import Output
from headrace.video import VideoError
from headrace.video.synthetic import WorldReader
from unit.tiny import objects, run, save_tiny
from unit.video_clips import every, make_clip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("model"))


@contextmanager
def started(words: list[str], also: Callable[[], object] = lambda: None, **options: Any) -> Iterator[subprocess.Popen]:
    """A process that hears every signal, whoever runs the tests (``nohup``, a script's ``&``); ends with its test."""

    def prepare() -> None:
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        also()

    with subprocess.Popen(words, preexec_fn=prepare, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_process_of_these_tests_hears_signals_whoever_runs_them() -> None:
    tell = "import signal; print([signal.getsignal(n) is signal.SIG_IGN for n in (signal.SIGHUP, signal.SIGINT)])"
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        with started([sys.executable, "-c", tell], stdout=subprocess.PIPE, text=True) as process:
            assert process.communicate(timeout=60)[0] == "[False, False]\n"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_finishes_saves_and_says_how_to_go_on(model: str, tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    keep = ("--state", "s", "--checkpoint-every", "999")
    command = ["ask", "world:7", "hi", "--realtime", "--model", model, "--json", "--max-tokens", "2", *keep]
    with started(
        [sys.executable, "-m", "headrace", *command],
        cwd=tmp_path,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if json.loads(line)["event"] == "step")
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert [x["event"] for x in objects(stdout) if x["event"] != "step"] == ["saved", "answer", "summary"]
    assert objects(stdout)[-1]["interrupted"] is True
    assert (tmp_path / "s" / "stream.json").is_file()
    assert "--resume s --realtime" in stderr.splitlines()[-1]


def buffered(**more: str) -> dict[str, str]:
    """The environment of a process that keeps what it writes until there is enough of it, as Python usually does."""
    return {**{k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}, **more}


def test_a_terminal_that_is_closed_ends_a_watch_as_a_signal_does(model: str, tmp_path: Path) -> None:
    """Nothing can be written there any more; the stream is saved all the same."""
    words = [sys.executable, "-m", "headrace", "ask", "world:7", "hi", "--realtime", "--model", model, "--state", "s"]
    reader, writer = pty.openpty()
    with started(
        words,
        lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        cwd=tmp_path,
        env=buffered(OMP_NUM_THREADS="1", TERM="xterm"),
        stdin=writer,
        stdout=writer,
        stderr=writer,
        start_new_session=True,
    ) as process:
        os.close(writer)
        shown = b""
        while not re.search(rb"[2-9]/", shown):
            shown += os.read(reader, 65536)
        os.close(reader)
        assert process.wait(timeout=60) == 128 + signal.SIGHUP
    assert (tmp_path / "s" / "stream.json").is_file()


def test_a_signal_that_is_to_be_ignored_is_ignored() -> None:
    """``nohup`` starts a command with SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with video.open("world:7,seconds=1") as source, watching.graceful(source) as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
            signal.raise_signal(signal.SIGTERM)
            assert (stop.is_set(), stop.number) == (True, signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_same_signal_twice_in_a_moment_is_one(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A wrapper sends it to the command, and again to its group; the second may come when the frame is done."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with video.open("world:7,seconds=1") as source:
        try:
            with watching.graceful(source) as stop:
                threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pytest.fail("the second one ended the command before it had saved")
        assert stop.number == signal.SIGINT
        monkeypatch.setattr(watching, "ECHO_S", 0.0)
        with watching.graceful(source):
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


def test_a_signal_ends_a_watch_on_a_pipe_whose_writer_is_silent(model: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "c.ts", every(40, 55)).read_bytes()
    keep = ("--state", "s", "--checkpoint-every", "999")
    with subprocess.Popen(
        [sys.executable, "-m", "headrace", "ask", "-", "hi", "--model", model, "--json", "--max-tokens", "2", *keep],
        cwd=tmp_path,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(clip)
        process.stdin.flush()
        next(line for line in process.stdout if json.loads(line)["event"] == "step")
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(timeout=30) == 128 + signal.SIGTERM
        finally:
            process.kill()
        found = [json.loads(line)["event"] for line in process.stdout]
    assert [event for event in found if event != "step"] == ["saved", "answer", "summary"]


def test_two_streams_that_are_stopped_at_once_have_a_folder_each(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, kept = SimpleNamespace(name="camera"), Keeping()

    def stream(save: Callable[[Path], object]) -> Any:
        return SimpleNamespace(num_frames=1, state=SimpleNamespace(time_s=1.0), save=save)

    def interrupted(stream: Any) -> Path | None:
        return kept.interrupted(stream, Output(), source)  # type: ignore[arg-type]

    found: list[Path | None] = []
    other = stream(lambda folder: folder.mkdir(exist_ok=True))
    first = interrupted(stream(lambda _: found.append(interrupted(other))))  # while the first one is being written
    assert [str(first), *map(str, found)] == ["headrace-stream", "headrace-stream-2"]


def breaks(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Make the world a source that fails after so many frames."""
    whole = WorldReader.shots

    def shots(self: WorldReader, start_s: float) -> Iterator[Any]:
        for num, shot in enumerate(whole(self, start_s)):
            if num == after:
                raise VideoError("the cable was pulled")
            yield shot

    monkeypatch.setattr(WorldReader, "shots", shots)


ASK = ("ask", "world:7,seconds=9", "hi", "what", "--at", "1", "--at", "8", "--max-tokens", "2", "--json")


def test_a_failure_in_mid_stream_keeps_the_stream_for_the_questions_to_come(model: str, tmp_path: Path, monkeypatch):
    breaks(monkeypatch, 6)
    folder = str(tmp_path / "s")
    code, stdout, stderr = run(*ASK, "--model", model, "--state", folder)
    found = [x for x in objects(stdout) if x["event"] != "step"]
    assert [x["event"] for x in found] == ["start", "answer", "saved", "summary"]
    assert (code, found[-1]["frames"], found[-1]["interrupted"]) == (2, 5, False), "sampling holds one back"
    lines = stderr.splitlines()
    assert lines[0] == f"headrace: stopped at 2 s and saved to {folder}; to go on:"
    assert lines[1].split() == [
        *("headrace:", "headrace", "ask", "world:7,seconds=9", "what", "--at", "8", "--resume", folder),
        *("--model", model, "--max-tokens", "2", "--json"),
    ]
    assert lines[2:] == ["headrace: error: the cable was pulled"]
    monkeypatch.undo()
    args = lines[1].split()[2:]
    found = objects(run(*args)[1])
    assert [x["time_s"] for x in found if x["event"] == "answer"] == [8.0]


def test_a_failure_in_mid_stream_asks_what_can_never_be_asked_again(model: str, monkeypatch) -> None:
    breaks(monkeypatch, 6)
    code, stdout, stderr = run(*ASK, "--model", model)
    answers = [(x["question"], x["time_s"]) for x in objects(stdout) if x["event"] == "answer"]
    assert (code, answers) == (2, [("hi", 1.0), ("what", 2.0)])
    assert stderr.splitlines() == [
        "headrace: --at 8: the stream stopped at 2 s; asked there",
        "headrace: error: the cable was pulled",
    ]


def test_memory_that_runs_out_in_mid_stream_is_asked_all_the_same(model: str, tmp_path: Path) -> None:
    common = ("ask", "world:7,seconds=9", "hi", "--model", model, "--max-tokens", "2", "--memory-mb", "0.02")
    code, stdout, stderr = run(*common, "--json")
    found = [x for x in objects(stdout) if x["event"] != "step"]
    assert (code, [x["event"] for x in found]) == (2, ["start", "answer", "summary"])
    assert 0 < found[-1]["frames"] == found[1]["frames_seen"] < 18
    assert stderr.startswith("headrace: error: memory budget: ")
    assert run(*common, "--state", str(tmp_path / "s"))[0] == 2
    more = objects(run("ask", "world:7,seconds=9", "hi", "--resume", str(tmp_path / "s"), *common[3:7], "--json")[1])
    assert more[-1]["frames"] == 18 - found[-1]["frames"]


def test_the_demo_fails_after_its_summary(model: str, monkeypatch) -> None:
    breaks(monkeypatch, 6)
    code, stdout, stderr = run("demo", "--seconds", "6", "--every", "2", "--model", model, "--json")
    assert (code, objects(stdout)[-1]["frames"], stderr) == (2, 6, "headrace: error: the cable was pulled\n")


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[str]:
    """The address of a live source that breaks off and does not come back."""
    clip = make_clip(tmp_path / "c.ts", every(40, 50)).read_bytes()
    served: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.append(self.path)
            if len(served) > 1:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            self.wfile.write(clip)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/c.ts"
        server.shutdown()
        thread.join()


def test_a_lost_source_that_is_given_up_is_a_failure(model: str, tmp_path: Path, camera: str) -> None:
    common = ("hi", "--model", model, "--max-tokens", "2", "--json", "--state", str(tmp_path / "s"))
    code, stdout, stderr = run("ask", camera, *common, "--reconnect", "1")
    found = objects(stdout)
    assert [x["event"] for x in found if x["event"] != "step"] == ["start", "saved", "answer", "summary"]
    assert (code, found[-1]["given_up"]) == (2, True)
    *_, hint, last = stderr.splitlines()
    assert f"--resume {tmp_path / 's'} --reconnect 1" in hint
    assert last == (
        f"headrace: error: {camera} was lost and given up after 1 tries; --reconnect forever goes on trying"
    )


def test_a_lost_source_that_is_not_to_come_back_has_ended(model: str, camera: str) -> None:
    code, stdout, _ = run("ask", camera, "hi", "--model", model, "--max-tokens", "2", "--json", "--reconnect", "0")
    assert (code, objects(stdout)[-1]["given_up"]) == (0, False)


@pytest.mark.parametrize(
    ("args", "tries", "at_first"),
    [
        ((), 10, False),
        (("--reconnect", "3"), 3, True),
        (("--reconnect", "forever"), None, True),
        (("--watch", "x"), None, True),
        (("--state", "new"), None, True),
        (("--state", "new", "--reconnect", "3"), 3, True),
    ],
)
def test_how_often_a_lost_source_is_tried(tmp_path: Path, monkeypatch, args, tries: int | None, at_first: bool):
    asked: list[tuple[int | None, bool]] = []

    def opened(_: str, *, reconnect: video.Reconnect, **__: Any) -> None:
        asked.append((reconnect.tries, reconnect.at_first))
        raise VideoError("not here")

    monkeypatch.setattr(video, "open", opened)
    monkeypatch.chdir(tmp_path)
    assert run("ask", "rtsp://camera/1", "hi", *args) == (2, "", "headrace: error: not here\n")
    assert asked == [(tries, at_first)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_the_tries_for_a_camera_that_is_not_there(number: int, code: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/c.ts"  # bound, but nobody listens
        words = [sys.executable, "-m", "headrace", "ask", url, "--watch", "x"]
        with started(words, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            refused = f"headrace: cannot open {url}: the connection was refused; trying again in"
            assert process.stderr.readline() == f"{refused} 0.5 s\n"
            assert process.stderr.readline() == f"{refused} 1.0 s\n"
            process.send_signal(number)
            assert process.wait(timeout=30) == code
            assert process.stderr.read() in ("", "headrace: stopped\n")


def test_a_wrong_number_of_tries(model: str) -> None:
    for text in ("-1", "often", "1.5", ""):
        _, _, stderr = run("ask", "world:7,seconds=1", "hi", "--reconnect", text)
        says = f"--reconnect: must be a whole number of tries, or forever, not {text!r}"
        assert stderr == f"headrace: error: {says}\n"


def test_what_waits_for_a_reader_that_is_gone_does_not_fail_the_end() -> None:
    """Python flushes stdout when it ends, and would exit with 120."""
    words = "import sys; from headrace.cli.failing import let_go; sys.stdout.write('x'); let_go(); sys.exit(7)"
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen([sys.executable, "-c", words], stdout=writer, env=buffered()) as process:
        os.close(writer)
        assert process.wait(timeout=60) == 7


def test_a_full_disk_behind_stdout_is_named_and_loses_nothing(model: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "headrace", "ask", "world:7,seconds=2", "hi", "--model", model, "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*words, "--state", "s"], cwd=tmp_path, env=buffered(), stdout=full, stderr=subprocess.PIPE
        )
    says = b"headrace: error: standard output: cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (2, says)


@pytest.mark.parametrize("args", [("--json",), ()])
def test_a_command_without_stdout_works(model: str, tmp_path: Path, args: tuple[str, ...]) -> None:
    words = [
        sys.executable,
        "-m",
        "headrace",
        "ask",
        "world:7,seconds=2",
        "hi",
        "--model",
        model,
        "--state",
        "s",
        *args,
    ]
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *words]
    done = subprocess.run(shell, cwd=tmp_path, env=buffered(), stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "s" / "stream.json").is_file()
