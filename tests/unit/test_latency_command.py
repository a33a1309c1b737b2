"""The latency command: records that go on, sources that end early, what it refuses before the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace import video
from headrace.backbones import plain
from headrace.bench.latency import DENSE, TRANSFORMERS, Bench
from headrace.cli import app
from unit.test_latency import OURS, frames


def command(tmp_path: Path, *more: str) -> list[str]:
    words = ["--threads", "1", "bench", "latency", "--model-shape", "tiny", "--dtype", "float32", "--frames", "2,4"]
    return [*words, "--save", str(tmp_path / "latency.json"), *more]


def test_the_command_goes_on_and_writes_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- bench:latency -->\n<!-- /bench:latency -->\nb\n")
    first = CliRunner().invoke(app, command(tmp_path, "--repeats", "1", "--pipeline", OURS, "--json"))
    assert first.exit_code == 0, first.output
    costs = json.loads((tmp_path / "latency.json").read_text())["costs"]
    *_, line = first.stdout.splitlines()
    result = json.loads(line)
    wanted = {"vision_ratio", "prefill_ratio", "prefill_ratio_own", "own_prefill_ratio", "end_to_end_ratio"}
    wanted |= {
        "vision_floor",
        "prefill_floor",
        "peak_memory_bytes",
        "pipeline",
        "machine",
        "stages",
        "vision_floor_flops",
    }
    assert wanted <= set(result)
    assert set(result["prefill_ratio"]) == set(result["prefill_floor"]) == {"2", "4"}
    assert {"median", "low", "high", "flops", "floor_ms"} == set(result["stages"][OURS]["tower_selective"])
    assert result["stages"][DENSE]["generate"]["flops"] > 0
    second = CliRunner().invoke(app, command(tmp_path, "--repeats", "2", "--pipeline", OURS, "--readme", str(page)))
    assert second.exit_code == 0, second.output
    assert "runs: 2" in second.stdout
    assert json.loads((tmp_path / "latency.json").read_text())["costs"] == costs, "floors are measured once"
    assert "| prefill / transformers dense, 4 frames |" in page.read_text()
    other = CliRunner().invoke(app, command(tmp_path, "--pipeline", "uniform:2"))
    assert other.exit_code == 2
    assert other.stderr.count("\n") == 1
    assert "--restart" in other.stderr
    anew = CliRunner().invoke(app, command(tmp_path, "--pipeline", "uniform:2", "--restart", "--repeats", "1"))
    assert anew.exit_code == 0, anew.output
    assert json.loads((tmp_path / "latency.json").read_text())["setting"]["pipeline"] == "uniform:2"


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push, count = Bench._push, 0

    def stopping(self: Bench, *args: Any) -> None:
        nonlocal count
        count += 1
        if count == 14:  # the first contender of frame 3 in the second run
            raise KeyboardInterrupt
        push(self, *args)

    monkeypatch.setattr(Bench, "_push", stopping)
    stopped = CliRunner().invoke(app, command(tmp_path, "--repeats", "2", "--pipeline", OURS))
    assert stopped.exit_code == 130
    assert "stopped after 1 of 2 runs" in stopped.stderr
    assert "the same command goes on" in stopped.stderr
    found = json.loads((tmp_path / "latency.json").read_text())
    assert len(found["runs"]) == 1
    assert found["unfinished"] is not None
    monkeypatch.setattr(Bench, "_push", push)
    again = CliRunner().invoke(app, command(tmp_path, "--repeats", "2", "--pipeline", OURS))
    assert again.exit_code == 0, again.output
    assert len(json.loads((tmp_path / "latency.json").read_text())["runs"]) == 2


def test_what_a_stopped_run_has_reached_is_kept_until_another_reached_as_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = Bench._push

    def stopped_in(frame: int) -> tuple[int, int]:
        """Frames of the result and of the unfinished run after a stop in that frame."""
        count = 0

        def stopping(self: Bench, *args: Any) -> None:
            nonlocal count
            count += 1
            if count == 2 * frame:  # its second contender
                raise KeyboardInterrupt
            push(self, *args)

        monkeypatch.setattr(Bench, "_push", stopping)
        words = command(tmp_path, "--repeats", "1", "--pipeline", OURS, "--frames", "2,4,8")
        assert CliRunner().invoke(app, words).exit_code == 130
        found = json.loads((tmp_path / "latency.json").read_text())
        return found["result"]["frames"], len(found["unfinished"]["frames"][TRANSFORMERS]["prefill"])

    assert [stopped_in(frame) for frame in (6, 1, 4, 7)] == [(4, 5), (4, 5), (4, 5), (4, 6)]


def test_a_length_is_on_disk_as_soon_as_it_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed has no time to write."""
    push, found = Bench._push, []

    def looking(self: Bench, *args: Any) -> None:
        path = tmp_path / "latency.json"
        found.append(json.loads(path.read_text())["result"]["frames"] if path.exists() else 0)
        push(self, *args)

    monkeypatch.setattr(Bench, "_push", looking)
    done = CliRunner().invoke(app, command(tmp_path, "--repeats", "1", "--pipeline", OURS))
    assert done.exit_code == 0, done.output
    assert found == [0] * 4 + [2] * 4, "two contenders a frame"


def test_a_page_without_marks_is_refused_before_the_work(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    found = CliRunner().invoke(app, command(tmp_path, "--readme", str(page)))
    assert found.exit_code == 2
    assert "bench:latency" in found.stderr
    assert not (tmp_path / "latency.json").exists()


def test_a_record_of_another_default_or_another_clip_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    """The pipeline's name is the same, or the file's; what they stand for is not."""
    from headrace.video.world import write_video

    clip = tmp_path / "clip.mp4"
    write_video(clip, 1, 4.0)
    words = command(tmp_path, "--pipeline", "uniform:2", "--repeats", "1", "--source", str(clip))
    for _ in "ab":
        found = CliRunner().invoke(app, words)
        assert found.exit_code == 0, found.output
    known = json.loads((tmp_path / "latency.json").read_text())["setting"]
    assert "compressor=uniform(keep=2" in known["text"]
    assert known["file"].startswith(f"{clip.stat().st_size} bytes")
    write_video(clip, 2, 4.0)
    other = CliRunner().invoke(app, words)
    assert (other.exit_code, other.stderr.count("\n")) == (2, 1)
    assert "was measured with file" in other.stderr
    assert CliRunner().invoke(app, [*words, "--restart"]).exit_code == 0
    monkeypatch.setattr("headrace.bench.names.full_text", lambda pipeline: f"{pipeline} new=1")
    other = CliRunner().invoke(app, words)
    assert (other.exit_code, other.stderr.count("\n")) == (2, 1)
    assert "was measured with text" in other.stderr
    monkeypatch.undo()
    assert CliRunner().invoke(app, words).exit_code == 0
    monkeypatch.setattr("headrace.registry.code_of", lambda method: f"new {method.__name__}")
    other = CliRunner().invoke(app, words)
    assert (other.exit_code, other.stderr.count("\n")) == (2, 1)
    assert "was measured with other code of its methods; give another file, or --restart" in other.stderr


def test_fields_are_set_in_the_name(tmp_path: Path) -> None:
    name = "stc_cacher+stc_pruner:2@encoder.refresh_interval=4"
    found = CliRunner().invoke(app, command(tmp_path, "--pipeline", name, "--repeats", "1"))
    assert found.exit_code == 0, found.output
    (run,) = json.loads((tmp_path / "latency.json").read_text())["runs"]
    assert run["kinds"][name] == ["refresh", "selective", "selective", "selective"]
    for more, says in (
        (("--pipeline", "stc@encoder.no=4"), "no"),
        (("--frames", ""), "--frames: '' is no list"),
        (("--fps", "0"), "fps"),
    ):
        wrong = CliRunner().invoke(app, command(tmp_path, *more))
        assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
        assert says in wrong.stderr


def test_a_short_clip_is_known_before_the_model_is_built(tmp_path: Path, monkeypatch: Any) -> None:
    """Lengths it does not reach are left out with a word; where there is none left, nothing is built."""
    from headrace.video.world import write_video

    clip = tmp_path / "clip.mp4"
    write_video(clip, 1, 1.5)
    build, built = plain.build_large, []

    def counting(*args: Any, **settings: Any) -> Any:
        if settings["device"].type != "meta":
            built.append(1)
        return build(*args, **settings)

    monkeypatch.setattr(plain, "build_large", counting)
    words = command(tmp_path, "--pipeline", OURS, "--repeats", "1", "--source", str(clip))
    found = CliRunner().invoke(app, [*words, "--fps", "0.5"])
    assert (found.exit_code, found.stderr.count("\n"), built) == (2, 1, [])
    assert "ends after 1 frames; the bench needs 2" in found.stderr
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    assert found.stderr.index("ends after 3 frames: --frames 4 cannot be reached") < found.stderr.index("building")
    assert json.loads((tmp_path / "latency.json").read_text())["result"]["frames"] == 2
    assert CliRunner().invoke(app, words).exit_code == 0, "and it goes on"


def test_a_source_that_breaks_off_leaves_the_lengths_it_reached(tmp_path: Path, monkeypatch: Any) -> None:
    """A live one, whose end nobody can know before."""
    opened = []

    class Live:
        live = True

        def __enter__(self) -> Any:
            opened.append(1)
            return self

        def __exit__(self, *args: object) -> None:
            pass

        def __iter__(self) -> Any:
            return iter(frames(8 if len(opened) < 3 else 3))

    monkeypatch.setattr(video, "open", lambda source, **settings: Live())
    found = CliRunner().invoke(app, command(tmp_path, "--pipeline", OURS, "--repeats", "2", "--source", "camera:9"))
    assert found.exit_code == 0, found.output
    assert found.stderr.count("ends after 3 frames: --frames 4 cannot be reached") == 1
    result = json.loads((tmp_path / "latency.json").read_text())
    assert (result["result"]["frames"], result["result"]["runs"]) == (2, 2)
    assert result["setting"]["lengths"] == [2]
