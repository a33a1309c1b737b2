"""``--target-ms`` and ``--keep-up`` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import headrace
from headrace.engine.saving import load as load_saved
from unit.test_cli import model, objects, run  # noqa: F401 model is a fixture

PIPELINE = "streamingllm:40+stc_cacher:1.0+uniform:1.0"


def governed(model: str, *args: str, source: str = "world:7,seconds=10") -> tuple[list[dict], str]:  # noqa: F811
    code, stdout, stderr = run("ask", source, "what", "--model", model, "--max-tokens", "2", "--json", *args)
    assert code == 0, stderr
    return objects(stdout), stderr


def test_with_time_nothing_changes(model: str) -> None:  # noqa: F811
    told, stderr = governed(model, "--pipeline", PIPELINE, "--target-ms", "1000000")
    assert [x for x in told if x["event"] == "governor"] == []
    (total,) = (x for x in told if x["event"] == "governed")
    assert total["frames"] == {"full": 20}
    assert total["p95_ms"] < 1000000
    assert stderr == ""


def test_without_time_every_choice_is_told_and_the_saved_stream_is_as_opened(model: str, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "stream"
    told, _ = governed(model, "--pipeline", PIPELINE, "--target-ms", "0.001", "--state", str(folder))
    (total,) = (x for x in told if x["event"] == "governed")
    choices = [x for x in told if x["event"] == "governor"]
    skipped = {x["frame"] for x in choices if x["why"] == "skip"}
    seen = {frame for x in told if x["event"] == "step" for frame in x["frames"]}
    assert skipped | seen == set(range(20))
    assert not skipped & seen
    assert total["skipped"] == len(skipped)
    assert set(total["frames"]) - {"full"}, "something was turned down"
    assert next(x for x in told if x["event"] == "summary")["frames"] == len(seen)
    engine = headrace.load(model)
    pipeline, _ = load_saved(folder, lambda view: engine.looking(view).spec)
    assert (pipeline.encoder.update_ratio, pipeline.compressor.keep) == (1.0, 1.0)


def test_a_pipeline_with_nothing_to_turn_says_so(model: str) -> None:  # noqa: F811
    _, stderr = governed(model, "--target-ms", "1000000")
    assert "frames can only be skipped" in stderr


@pytest.mark.parametrize(("args", "target"), [((), 500.0), (("--fps", "0.5"), 2000.0)])
def test_keeping_up_takes_the_time_between_frames(model: str, args: tuple[str, ...], target: float) -> None:  # noqa: F811
    told, _ = governed(model, "--keep-up", *args)
    assert next(x for x in told if x["event"] == "governed")["target_ms"] == target


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--target-ms", "0"), "--target-ms: must be above 0 milliseconds"),
        (("--target-ms", "nan"), "--target-ms: must be above 0 milliseconds"),
        (("--target-ms", "5", "--keep-up"), "leave out --target-ms"),
    ],
)
def test_wrong_targets_are_one_clear_line(args: tuple[str, ...], says: str) -> None:
    code, stdout, stderr = run("ask", "world:7", "what", *args)
    assert code == 2
    assert stdout == ""
    assert says in stderr
    assert stderr.count("\n") == 1


def test_people_see_one_line_on_it(model: str) -> None:  # noqa: F811
    code, stdout, _ = run("demo", "--seconds", "4", "--model", model, "--pipeline", PIPELINE, "--target-ms", "1000000")
    assert code == 0
    assert "governor: 8 frames at full; p95 " in stdout
