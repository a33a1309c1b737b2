"""The command line, in process: what it prints, and how it fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unit.tiny import objects, run, save_tiny
from unit.video_clips import every, make_clip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random model in the real layout."""
    return save_tiny(tmp_path_factory.mktemp("model"))


def test_version() -> None:
    assert run("--version") == (0, "headrace 0.1.0\n", "")


def test_help_of_every_command_has_an_example() -> None:
    alone = (["ask"], ["demo"], ["world"], ["methods"], ["models"], ["doctor"])
    for command in (*alone, ["bench", "overhead"], ["bench", "weights"], ["train", "nano"]):
        code, stdout, _ = run(*command, "--help")
        assert code == 0
        assert "Example" in stdout, command


def test_ask_prints_one_object_per_line(model: str) -> None:
    code, stdout, stderr = run(
        *("ask", "world:7,seconds=4", "what digit is on the display", "how many things are there"),
        *("--at", "1", "--at", "3", "--model", model, "--max-tokens", "4", "--json"),
    )
    assert (code, stderr) == (0, "")
    found = objects(stdout)
    assert [x["event"] for x in found if x["event"] != "step"] == ["start", "answer", "answer", "summary"]
    steps = [x for x in found if x["event"] == "step"]
    assert [x["time_s"] for x in steps] == [i / 2 for i in range(8)]
    answers = [x for x in found if x["event"] == "answer"]
    assert [(x["time_s"], x["frames_seen"]) for x in answers] == [(1.0, 3), (3.0, 7)]
    assert answers[0]["question"] == "what digit is on the display"
    assert found[-1]["frames"] == 8


def test_an_answer_does_not_depend_on_what_comes_later(model: str) -> None:
    args = ("what colour is the circle", "--at", "2", "--model", model, "--max-tokens", "6", "--json")
    short = [x for x in objects(run("ask", "world:7,seconds=3", *args)[1]) if x["event"] == "answer"]
    long = [x for x in objects(run("ask", "world:7,seconds=6", *args)[1]) if x["event"] == "answer"]
    assert short[0]["tokens"] == long[0]["tokens"]
    assert short[0]["evidence"] == long[0]["evidence"]


def test_settings_reach_the_pipeline(model: str) -> None:
    _, stdout, _ = run(
        *("ask", "world:7,seconds=2", "hi", "--model", model, "--json", "--max-tokens", "2"),
        *("-p", "streamingllm:64+uniform", "--set", "compressor.keep=3", "--fps", "1"),
    )
    found = objects(stdout)
    assert "uniform(keep=3)" in found[0]["pipeline"]
    assert "streamingllm(window=64" in found[0]["pipeline"]
    assert [x["tokens_kept"] for x in found if x["event"] == "step"] == [3, 3]


def test_people_see_questions_answers_and_evidence(model: str) -> None:
    code, stdout, _ = run("ask", "world:7,seconds=2", "what colour is the star?", "--model", model, "--max-tokens", "3")
    assert code == 0
    assert "what colour is the star?" in stdout
    assert "most attention on" in stdout
    assert "4 frames" in stdout


def test_a_time_after_the_end_is_asked_at_the_end(model: str) -> None:
    code, stdout, stderr = run(
        "ask", "world:7,seconds=2", "hi", "--at", "9", "--model", model, "--max-tokens", "1", "--json"
    )
    assert code == 0
    assert "ended at 1.5 s" in stderr
    assert [x["time_s"] for x in objects(stdout) if x["event"] == "answer"] == [1.5]


def test_a_photo_and_a_folder(model: str, tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(np.full((20, 30, 3), 40 * index, dtype=np.uint8)).save(tmp_path / f"{index}.png")
    for source, frames in ((tmp_path / "1.png", 1), (tmp_path, 3)):
        code, stdout, _ = run("ask", str(source), "hi", "--model", model, "--max-tokens", "1", "--json")
        assert code == 0
        assert objects(stdout)[-1]["frames"] == frames


def test_two_frames_per_second_unless_told_otherwise(model: str, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", every(100, 30))
    for option, frames in (([], 6), (["--fps", "10"], 30), (["--fps", "1"], 3)):
        code, stdout, _ = run(
            "ask", str(tmp_path / "clip.mp4"), "hi", *option, "--model", model, "--max-tokens", "1", "--json"
        )
        assert code == 0
        assert objects(stdout)[-1]["frames"] == frames


def test_save_and_resume_go_on_exactly(model: str, tmp_path: Path) -> None:
    common = ("what colour is the circle", "--model", model, "--max-tokens", "6", "--json")
    whole = objects(run("ask", "world:7,seconds=6", *common)[1])
    run("ask", "world:7,seconds=3", *common, "--state", str(tmp_path / "s"))
    rest = objects(run("ask", "world:7,start=3,seconds=3", *common, "--resume", str(tmp_path / "s"))[1])

    def answer(found: list[dict]) -> dict:
        return next(x for x in found if x["event"] == "answer")

    assert answer(rest)["tokens"] == answer(whole)["tokens"]
    assert answer(rest)["frames_seen"] == 12
    assert answer(rest)["evidence"] == answer(whole)["evidence"]


def test_world_writes_video_and_questions(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    code, stdout, _ = run("world", "--seed", "7", "--seconds", "6", str(target), "--json")
    assert code == 0
    assert objects(stdout)[0]["video"] == str(target)
    sheet = json.loads((tmp_path / "out.json").read_text())
    assert sheet["seed"] == 7
    assert sheet["questions"]
    assert target.stat().st_size > 1000


def test_methods_lists_the_registry() -> None:
    found = objects(run("methods", "--json")[1])
    names = {x["name"] for x in found}
    assert {"dense", "keep_all", "uniform", "random", "full", "recent", "streamingllm", "on_request"} <= names
    code, stdout, _ = run("methods", "streamingllm")
    assert code == 0
    assert "2309.17453" in stdout
    assert "newest rows that are kept" in stdout


def test_doctor_reports_versions() -> None:
    found = objects(run("doctor", "--json")[1])[0]
    assert found["headrace"] == "0.1.0"
    assert found["cpu float32 GFLOP/s"] > 0


def test_demo_scores_itself(model: str) -> None:
    code, stdout, _ = run("demo", "--seconds", "4", "--every", "2", "--model", model, "--json")
    assert code == 0
    found = objects(stdout)
    answers = [x for x in found if x["event"] == "answer"]
    assert answers
    assert all(isinstance(x["right"], bool) and x["truth"] for x in answers)
    assert found[-1]["asked"] == len(answers)
    code, stdout, _ = run("demo", "--seconds", "4", "--every", "2", "--model", model)
    assert "(truth:" in stdout
    assert "answers are true" in stdout


def wrong_inputs(model: str, tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    """Command lines that must fail, with a word their message must hold."""
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    empty = tmp_path / "empty"
    empty.mkdir()
    no_weights = tmp_path / "no_weights"
    shutil.copytree(model, no_weights)
    (no_weights / "model.safetensors").unlink()
    ask = ["ask", "world:7,seconds=2", "hi", "--model", model]
    return {
        "missing file": (["ask", "nothing.mp4", "hi"], "nothing.mp4"),
        "not a video": (["ask", str(text), "hi"], "notes.mp4"),
        "no frames in the window": ([*ask, "--start", "5"], "start"),
        "empty folder": (["ask", str(empty), "hi"], "empty"),
        "folder without config": (["ask", "world:7,seconds=2", "hi", "--model", str(empty)], "config.json"),
        "weights missing": (["ask", "world:7,seconds=2", "hi", "--model", str(no_weights)], "weights"),
        "unknown hub name": (
            ["ask", "world:7,seconds=2", "hi", "--model", "no/such-model", "--offline"],
            "no/such-model",
        ),
        "unknown method": ([*ask, "-p", "recnt:4"], "did you mean recent"),
        "unknown parameter": ([*ask, "-p", "uniform", "--set", "compressor.kep=3"], "kep"),
        "unknown role": ([*ask, "--set", "compresor.keep=3"], "compresor"),
        "value out of range": ([*ask, "-p", "recent:0"], "frames"),
        "negative budget": ([*ask, "-p", "uniform:-5"], "keep"),
        "two of a role": ([*ask, "-p", "recent:4+full"], "recent"),
        "unreachable address": (["ask", "http://127.0.0.1:9/a.mp4", "hi"], "127.0.0.1"),
        "bad world": (["ask", "world:seven", "hi"], "seven"),
        "memory too small": ([*ask, "-p", "streamingllm:2048", "--memory-mb", "0.01"], "memory budget"),
        "memory runs out": ([*ask, "--memory-mb", "0.001"], "memory budget"),
        "memory is negative": ([*ask, "--memory-mb", "-1"], "memory_mb"),
        "empty question": (["ask", "world:7,seconds=2", " ", "--model", model], "question"),
        "control token": (["ask", "world:7,seconds=2", "a <video> b", "--model", model], "<video>"),
        "times and questions": ([*ask, "ho", "hu", "--at", "1", "--at", "2"], "--at"),
        "negative time": ([*ask, "--at", "-1"], "--at"),
        "bad dtype": ([*ask, "--dtype", "float8"], "float8"),
        "no device": ([*ask, "--device", "meta"], "meta"),
        "bad device": ([*ask, "--device", "gpu"], "gpu"),
        "bad fps": ([*ask, "--fps", "0"], "fps"),
        "bad temperature": ([*ask, "--temperature", "-1"], "temperature"),
        "another pipeline to resume": ([*ask, "--resume", str(empty), "-p", "recent:4"], "--resume"),
        "nothing to resume": ([*ask, "--resume", str(empty)], "stream.json"),
        "nowhere to save": ([*ask, "--checkpoint-every", "5"], "--state"),
        "no time to save": ([*ask, "--state", str(empty / "s"), "--checkpoint-every", "-5"], "--checkpoint-every"),
        "a file to save to": ([*ask, "--state", str(text)], "notes.mp4"),
        "soak too short": (["bench", "soak", "--frames", "20"], "frames"),
        "soak without questions": (["bench", "soak", "--frames", "50", "--ask-every", "11"], "ask_every"),
        "soak saves nowhere": (["bench", "soak", "--frames", "50", "--checkpoint-every", "5"], "--state"),
        "world into no folder": (["world", str(tmp_path / "no" / "out.mp4")], "folder"),
        "world of no size": (["world", str(tmp_path / "out.mp4"), "--size", "100"], "128"),
        "nothing to do": (["ask", "world:7,seconds=2"], "--watch"),
        "time without a question": (["ask", "world:7,seconds=2", "--watch", "x", "--at", "1"], "--at"),
        "empty instruction": ([*ask, "--watch", " "], "instruction"),
        "speaker that takes none": ([*ask, "--watch", "x", "-p", "on_request"], "eos_threshold"),
        "unknown method shown": (["methods", "nope"], "nope"),
        "unknown shape": (["bench", "overhead", "--model-shape", "gpt"], "gpt"),
        "bad training": (["train", "nano", str(tmp_path / "run"), "--minutes", "-1"], "minutes"),
    }


def test_wrong_input_is_one_clear_line(model: str, tmp_path: Path) -> None:
    problems = []
    for name, (args, word) in wrong_inputs(model, tmp_path).items():
        code, stdout, stderr = run(*args)
        line = stderr.strip()
        if code == 0 or stdout.strip() or "\n" in line or word not in line or not line.startswith("headrace: error:"):
            problems.append(f"{name}: exit {code}, stdout {stdout!r}, stderr {stderr!r}")
    assert not problems, "\n".join(problems)


def test_ctrl_c_finishes_saves_and_says_how_to_go_on(model: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headrace", "ask", "world:7", "hi", "--realtime", "--model", model, "--json"]
    env = dict(os.environ, OMP_NUM_THREADS="1")
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "step":
                break
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    events = [json.loads(line)["event"] for line in stdout.splitlines()]
    assert [event for event in events if event != "step"] == ["saved", "answer", "summary"]
    assert (tmp_path / "headrace-stream" / "stream.json").is_file()
    hint = stderr.strip().splitlines()[-1].removeprefix("headrace:").strip()
    assert hint == f"headrace ask world:7 hi --resume headrace-stream --realtime --model {model} --json"


def test_resuming_takes_every_frame_once(model: str, tmp_path: Path) -> None:
    common = ("what colour is the circle", "--model", model, "--max-tokens", "6", "--json")
    whole = objects(run("ask", "world:7,seconds=6", *common)[1])
    run("ask", "world:7,seconds=6", *common, "--end", "3", "--state", str(tmp_path / "s"))
    rest = objects(run("ask", "world:7,seconds=6", *common, "--resume", str(tmp_path / "s"))[1])
    times = [x["time_s"] for x in rest if x["event"] == "step"]
    assert times == [3.0, 3.5, 4.0, 4.5, 5.0, 5.5]
    for name in ("tokens", "evidence", "frames_seen"):
        first, second = (next(x[name] for x in found if x["event"] == "answer") for found in (whole, rest))
        assert first == second, name


def test_a_closed_pipe_is_no_error(model: str) -> None:
    command = [sys.executable, "-m", "headrace", "ask", "world:7,seconds=9", "hi", "--model", model, "--json"]
    env = dict(os.environ, OMP_NUM_THREADS="1")
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        stderr = process.stderr.read()
    assert stderr == ""
    assert process.returncode != 2


def test_threads_do_not_spin_unless_the_user_says_so() -> None:
    code = (
        "import os, sys\n"
        "from typer.testing import CliRunner\n"
        "from headrace.cli import app\n"
        "assert 'torch' not in sys.modules\n"
        "CliRunner().invoke(app, ['methods'])\n"
        "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    for given, seen in (({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")):
        env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")} | given
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout == f"{seen} True\n"


def test_a_kept_stream_is_saved_meanwhile_and_goes_on_in_its_folder(model: str, tmp_path: Path) -> None:
    folder, common = str(tmp_path / "s"), ("hi", "--model", model, "--max-tokens", "2", "--json")
    keep = ("--checkpoint-every", "0")
    whole = objects(run("ask", "world:7,seconds=6", *common)[1])
    first = objects(run("ask", "world:7,seconds=6", *common, "--end", "2", "--state", folder, *keep)[1])
    assert next(x for x in first if x["event"] == "saved") == {"event": "saved", "folder": folder, "time_s": 1.5}
    for end, frames in (("4", 4), ("6", 4)):
        found = objects(run("ask", "world:7,seconds=6", *common, "--end", end, "--resume", folder, *keep)[1])
        assert sum(x["event"] == "step" for x in found) == frames
    last, want = (next(x for x in found if x["event"] == "answer") for found in (found, whole))
    assert (last["tokens"], last["frames_seen"]) == (want["tokens"], want["frames_seen"])
    other = str(tmp_path / "other")
    run("ask", "world:7,seconds=8", *common, "--resume", folder, "--state", other)
    found = objects(run("ask", "world:7,seconds=6", *common, "--resume", folder)[1])
    assert sum(x["event"] == "step" for x in found) == 0
    code, stdout, stderr = run("ask", "world:7,seconds=6", *common, "--state", folder)
    assert (code, stdout) == (2, "")
    assert f"--resume {folder} goes on with it" in stderr


def test_a_stream_that_cannot_be_saved_is_watched_to_its_end(model: str, tmp_path: Path, monkeypatch) -> None:
    from headrace.engine import folder

    put = folder._put

    def full(path: Path, data: bytes) -> None:
        if path.name != folder.PROBE:  # the look at the start goes well
            raise OSError(28, "No space left on device")
        put(path, data)

    monkeypatch.setattr(folder, "_put", full)
    keep = ("--state", str(tmp_path / "s"), "--checkpoint-every", "0")
    code, stdout, stderr = run("ask", "world:7,seconds=2", "hi", "--model", model, "--max-tokens", "2", *keep, "--json")
    assert code == 2
    assert [x["event"] for x in objects(stdout)] == ["start", *4 * ["step"], "answer", "summary"]
    lines = stderr.splitlines()
    assert len(lines) == 2
    assert "the stream goes on" in lines[0]
    assert lines[1] == f"headrace: error: {tmp_path / 's'}: cannot be written to (No space left on device)"


def test_ctrl_c_does_not_save_over_another_stream(tmp_path: Path, monkeypatch) -> None:
    from headrace.cli.keeping import Keeping, _claimed

    monkeypatch.chdir(tmp_path)
    for name in ("headrace-stream", "headrace-stream-2"):
        assert str(_claimed()) == name
    assert Keeping(resume=Path("a"), state=Path("b")).home == Path("b")
