"""What latency runs come to: ratios, medians and spreads, floors; for programs, for people, and as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from headrace.bench.latency import DENSE, TRANSFORMERS, Cost, Run, Setting
from headrace.bench.machine import hardware
from headrace.bench.table import table
from headrace.engine import Pipeline

VISION = ("tower", "project")
ALL = (*VISION, "compress", "prefill")

Costs = Mapping[str, Mapping[str, Cost]]


def summarise(setting: Setting, runs: Sequence[Run], costs: Costs) -> dict[str, Any] | None:
    """Turn runs into what is reported.

    Args:
        setting: What is measured.
        runs: Runs; lengths that not all of them reached are left out.
        costs: What ``Bench.costs`` counted and measured; may be empty.

    Returns:
        Ratios are medians over runs of ratios of sums over frames: ``vision_ratio`` (tower, projector and pooling, at
        the largest length), ``prefill_ratio`` (against transformers dense, by length), ``prefill_ratio_own`` (against
        our dense), ``own_prefill_ratio`` (our dense against transformers), ``end_to_end_ratio`` (everything but pixels,
        against dense tower and transformers' prefill, at the largest length), ``end_to_end_ratio_own``. Floors are the
        same ratios of nothing but matrix products, by the time these take on their own, and by operations (``_flops``);
        None where the costs are not known. Ratios of ours with prefill in them are None where ``postponed`` is true: a
        memory of tokens, such as ``recent``, runs its frames when it is asked. ``stages`` has per contender and stage
        median and middle half in ms, operations and floor. None where no run has reached the first length.
    """
    done = [n for n in setting.lengths if runs and all(run.reached >= n for run in runs)]
    if not done:
        return None
    ours, most = setting.pipeline, done[-1]
    postponed = Pipeline.parse(ours).memory.kind == "tokens"

    def ratio(pair: Callable[[Run], tuple[float, float]]) -> float:
        return median(a / b for a, b in map(pair, runs))

    def prefills(a: str, b: str) -> dict[str, float]:
        def at(n: int) -> float:
            return ratio(lambda run: (spent(run, a, ["prefill"], n), spent(run, b, ["prefill"], n)))

        return {str(n): at(n) for n in done}

    def whole(run: Run) -> tuple[float, float]:
        base = spent(run, DENSE, VISION, most) + spent(run, TRANSFORMERS, ["prefill"], most)
        return spent(run, ours, ALL, most), base

    return {
        "vision_ratio": ratio(lambda run: (spent(run, ours, VISION, most), spent(run, DENSE, VISION, most))),
        "postponed": postponed,
        "prefill_ratio": None if postponed else prefills(ours, TRANSFORMERS),
        "prefill_ratio_own": None if postponed else prefills(ours, DENSE),
        "own_prefill_ratio": prefills(DENSE, TRANSFORMERS),
        "end_to_end_ratio": None if postponed else ratio(whole),
        "end_to_end_ratio_own": None
        if postponed
        else ratio(lambda run: (spent(run, ours, ALL, most), spent(run, DENSE, ALL, most))),
        **_floors(setting, runs, costs, done),
        "tokens_per_frame": {
            name: sum(sum(run.kept[name][:most]) for run in runs) / most / len(runs) for name in runs[0].kept
        },
        "past_bytes": dict(runs[0].memory_bytes),
        "stages": stages(runs, costs, most),
        "frames": most,
        "runs": len(runs),
        "by_run": {
            "vision_ratio": [spent(run, ours, VISION, most) / spent(run, DENSE, VISION, most) for run in runs],
            "end_to_end_ratio": None if postponed else [a / b for a, b in map(whole, runs)],
        },
    }


def spent(run: Run, contender: str, stages: Iterable[str], length: int) -> float:
    """Milliseconds of some stages over the first frames of a run."""
    return sum(sum(run.frames[contender][stage][:length]) for stage in stages)


def stages(runs: Sequence[Run], costs: Costs, length: int) -> dict[str, dict[str, dict[str, float | None]]]:
    """Median and middle half of every stage in ms, its operations and its floor, over the first frames of all runs.

    A tower's frames are told apart by what it did: ``tower_dense``, ``tower_refresh``, ``tower_selective``.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for name, timed in run.frames.items():
            own = found.setdefault(name, {})
            for stage, values in timed.items():
                for i, ms in enumerate(values[:length]):
                    own.setdefault(f"tower_{run.kinds[name][i]}" if stage == "tower" else stage, []).append(ms)
        for name, by_length in run.answers.items():
            if str(length) in by_length:
                first, further = by_length[str(length)]
                found[name].setdefault("first_token", []).append(first)
                found[name].setdefault("generate", []).append(further)
    return {
        name: {stage: _spread(ms) | _cost(costs.get(name, {}).get(stage), length) for stage, ms in own.items()}
        for name, own in found.items()
    }


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Median and the middle half, in ms."""
    ranked = sorted(values)
    quarter = len(ranked) // 4
    return {"median": median(ranked), "low": ranked[quarter], "high": ranked[-1 - quarter]}


def _cost(cost: Cost | None, length: int) -> dict[str, float | None]:
    """Operations and floor of a frame, mean over the first frames where they differ."""
    if cost is None:
        return {"flops": None, "floor_ms": None}
    return {
        key: sum(value[:length]) / length if isinstance(value, list) else value
        for key, value in cost.items()
        if key in ("flops", "floor_ms")
    }


def _floors(setting: Setting, runs: Sequence[Run], costs: Costs, lengths: Sequence[int]) -> dict[str, Any]:
    """The ratios of matrix products alone, by measured time and by operations."""
    ours, most = setting.pipeline, lengths[-1]
    found: dict[str, Any] = {}

    def vision(name: str, key: str) -> float | None:
        known = costs.get(name, {})
        kinds = [f"tower_{kind}" for run in runs for kind in run.kinds[name][:most]]
        if "project" not in known or not all(kind in known for kind in kinds):
            return None
        return float(sum(known[kind][key] + known["project"][key] for kind in kinds)) / len(runs)

    def prefill(name: str, key: str, length: int) -> float | None:
        known = costs.get(name, {})
        return float(sum(known["prefill"][key][:length])) if "prefill" in known else None

    def by_length(key: str) -> dict[str, float] | None:
        pairs = {str(n): (prefill(ours, key, n), prefill(TRANSFORMERS, key, n)) for n in lengths}
        return {n: a / b for n, (a, b) in pairs.items() if a is not None and b is not None} or None

    for key, ending in (("floor_ms", ""), ("flops", "_flops")):
        a, b = vision(ours, key), vision(DENSE, key)
        c, d = prefill(ours, key, most), prefill(TRANSFORMERS, key, most)
        found["vision_floor" + ending] = None if a is None or b is None else a / b
        found["prefill_floor" + ending] = by_length(key)
        found["end_to_end_floor" + ending] = None
        if c is not None and d is not None and a is not None and b is not None:
            found["end_to_end_floor" + ending] = (a + c) / (b + d)
    return found


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """The result as rows of what, ratio, floor, and milliseconds per frame."""
    stages, most = result["stages"], str(result["frames"])
    ours = next(name for name in stages if name not in (DENSE, TRANSFORMERS))

    def shown(floor: Any, length: str | None = None) -> str:
        value = floor if length is None or floor is None else floor[length]
        return "" if value is None else f"{value:.3f}"

    def ms(name: str, *chosen: str) -> str:
        return " + ".join(f"{stages[name][stage]['median']:.0f}" for stage in chosen if stage in stages[name])

    kinds = ("tower_dense", "tower_refresh", "tower_selective")
    own = " or ".join(ms(ours, kind) for kind in kinds if kind in stages[ours])
    found = [
        [
            "vision (tower, projector, pooling) / dense",
            f"{result['vision_ratio']:.3f}",
            shown(result["vision_floor"]),
            f"{own} + {ms(ours, 'project')} / {ms(DENSE, 'tower_dense', 'project')}",
        ]
    ]
    for key, what, floor, a, b in (
        ("prefill_ratio", "prefill / transformers dense", result["prefill_floor"], ours, TRANSFORMERS),
        ("prefill_ratio_own", "prefill / own dense", None, ours, DENSE),
        ("own_prefill_ratio", "own dense prefill / transformers", None, DENSE, TRANSFORMERS),
    ):
        for length, value in (result[key] or {}).items():
            times = f"{ms(a, 'prefill')} / {ms(b, 'prefill')}" if length == most else ""
            found.append([f"{what}, {length} frames", f"{value:.3f}", shown(floor, length), times])
    if (whole := result["end_to_end_ratio"]) is not None:
        what = f"end to end / dense with transformers, {most} frames"
        found.append([what, f"{whole:.3f}", shown(result["end_to_end_floor"]), ""])
    return found


def _together(setting: Setting) -> str:
    return f" (a frame is {setting.chunk_frames} taken in together)" if setting.chunk_frames > 1 else ""


def _notice(setting: Setting, result: Mapping[str, Any]) -> str:
    """Why there is no ratio of prefill, where there is none."""
    if not result["postponed"]:
        return ""
    return f"`{setting.pipeline}` runs its frames when it is asked, so there is no ratio of prefill or end to end"


def lines(setting: Setting, result: Mapping[str, Any]) -> list[str]:
    """The result for people: ratios with floors, then milliseconds per stage with middle half and floor."""
    text = [
        f"{setting.pipeline} at the {setting.shape} shape, {setting.dtype} on {setting.device}, {setting.threads}"
        f" threads, runs: {result['runs']}, frames: {result['frames']}{_together(setting)}"
    ]
    for what, value, floor, _ in rows(result):
        text.append(f"  {what:50s} {value}" + (f"   floor {floor}" if floor else ""))
    if notice := _notice(setting, result):
        text.append(f"  {notice}; see first_token")
    for contender, known in result["stages"].items():
        text.append(f"  {contender}, ms per frame:")
        for stage, ms in known.items():
            line = f"    {stage:16s} {ms['median']:9.1f}   ({ms['low']:.1f} to {ms['high']:.1f})"
            if ms["floor_ms"] is not None:
                line += f"   {ms['flops'] / 1e9:9.1f} GFLOP, floor {ms['floor_ms']:.1f}"
            text.append(line)
    return text


def page(setting: Setting, result: Mapping[str, Any], at: Mapping[str, Any]) -> str:
    """The result as a Markdown table with a line on where it comes from."""
    notice = f"{notice}; " if (notice := _notice(setting, result)) else ""
    where = (
        f"`headrace bench latency`: `{setting.pipeline}` at the shape of {setting.shape} (random weights),"
        f" {setting.dtype} on {setting.device}, {result['tokens_per_frame'][setting.pipeline]:.0f} of"
        f" {result['tokens_per_frame'][DENSE]:.0f} tokens{_together(setting)}, runs: {result['runs']}, median; floor:"
        f" the matrix products alone; {notice}{hardware(at)}, {setting.threads} threads, torch"
        f" {at['torch']}, transformers {at['transformers']}, {at['date']}."
    )
    return table(["what", "ratio", "floor", "ms per frame (median)"], rows(result)) + "\n\n" + where
