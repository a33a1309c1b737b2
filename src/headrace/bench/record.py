"""A latency bench on disk: its runs as they come in, so that a stopped bench goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headrace.bench.files import write_whole
from headrace.bench.latency import DENSE, TRANSFORMERS, Cost, Run, Setting
from headrace.bench.machine import SAME
from headrace.bench.names import code_of
from headrace.bench.ratios import ALL, lines, summarise

ANEW = "give another file, or --restart to measure anew"


@dataclass
class Record:
    """What has been measured.

    Attributes:
        setting: What is measured.
        machine: Where (``bench.machine``), with the date of the last run.
        runs: Runs over the longest length.
        unfinished: Of the runs that were stopped or are going on, the one that reached most; its figures count until
            there is a whole one.
        costs: Operations and floors, as ``Bench.costs`` gives them.
        peak_bytes: The most memory held (``bench.space``).
        code: Hash of what the pipeline's methods do (``names.code_of``).
    """

    setting: Setting
    machine: Mapping[str, Any]
    runs: list[Run] = field(default_factory=list)
    unfinished: Run | None = None
    costs: dict[str, dict[str, Cost]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    code: str = field(init=False)

    def __post_init__(self) -> None:
        self.code = code_of(self.setting.pipeline)

    def result(self) -> dict[str, Any] | None:
        """What the runs come to, None before the first length is reached."""
        runs = self.runs or ([] if self.unfinished is None else [self.unfinished])
        found = summarise(self.setting, runs, self.costs)
        return None if found is None else {**found, "peak_memory_bytes": self.peak_bytes}

    def saw(self, run: Run) -> None:
        """Take note of a run that is going on, once it has reached no less than one that was stopped."""
        if self.unfinished is None or run.reached >= self.unfinished.reached:
            self.unfinished = run

    def saw_memory(self, peak: Mapping[str, int]) -> None:
        """Take note of memory held by this process; earlier ones may have held more."""
        self.peak_bytes = {key: max(value, self.peak_bytes.get(key, 0)) for key, value in peak.items()}

    def write(self, path: Path | None) -> None:
        """Write everything, in one piece: a reader never sees half a record."""
        if path is None:
            return
        found = {
            "bench": "latency",
            "setting": asdict(self.setting),
            "machine": dict(self.machine),
            "code": self.code,
            "result": self.result(),
            "costs": self.costs,
            "peak_bytes": self.peak_bytes,
            "runs": [asdict(run) for run in self.runs],
            "unfinished": None if self.unfinished is None else asdict(self.unfinished),
        }
        write_whole(path, json.dumps(found) + "\n")


def read(path: Path | None, setting: Setting, machine: Mapping[str, Any]) -> Record:
    """Go on with a record, or begin one where there is no file.

    Raises:
        ValueError: The file is damaged, is of an older layout, or holds another setting or machine.
    """
    fresh = Record(setting, machine)
    if path is None or not path.is_file():
        return fresh
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known, place = dict(found["setting"]), dict(found["machine"])
        fresh.runs = [Run(**run) for run in found["runs"]]
        fresh.unfinished = None if found["unfinished"] is None else Run(**found["unfinished"])
        fresh.costs, fresh.peak_bytes = found["costs"], found["peak_bytes"]
        code = found.get("code", fresh.code)  # older records do not say
    except (ValueError, KeyError, TypeError) as error:
        raise _no_record(path, error) from None
    wanted = json.loads(json.dumps(asdict(setting)))
    if lacks := [key for key in wanted if key not in known]:  # nobody knows what its figures were measured with
        raise ValueError(f"{path}: an older record, without {', '.join(lacks)}; {ANEW}")
    differs = [f"{key} {known[key]!r}, not {wanted[key]!r}" for key in wanted if known[key] != wanted[key]]
    differs += [
        f"{key} {place.get(key)!r}, not {machine.get(key)!r}" for key in SAME if place.get(key) != machine.get(key)
    ]
    differs += ["other code of its methods"] if code != fresh.code else []
    if differs:
        raise ValueError(f"{path}: was measured with {'; '.join(differs)}; {ANEW}")
    try:
        _check(fresh)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _no_record(path, error) from None
    return fresh


def _no_record(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: is no record of this bench ({type(error).__name__}: {error}); --restart measures anew")


def _check(record: Record) -> None:
    """Raise one of many errors where a run lacks figures, or where figures are no numbers."""
    lengths = record.setting.lengths
    for run in record.runs:
        _check_run(run, record.setting, lengths[-1])
    if record.unfinished is not None:
        known = record.unfinished.reached
        _check_run(record.unfinished, record.setting, max((n for n in lengths if n <= known), default=0))
    _check_numbers(record.peak_bytes)
    _check_numbers(record.costs)
    result = record.result()
    if result is not None:
        lines(record.setting, result)


def _check_run(run: Run, setting: Setting, length: int) -> None:
    """Check the first frames of a run."""
    for figures in (run.frames, run.kept, run.answers, run.memory_bytes):
        _check_numbers(figures)
    if not length:
        return
    lists: list[Sequence[Any]] = [run.frames[TRANSFORMERS]["prefill"]]
    for name in (DENSE, setting.pipeline):
        lists += [run.kinds[name], run.kept[name], *(run.frames[name][stage] for stage in ("pixels", *ALL))]
    if (least := min(map(len, lists))) < length:
        raise ValueError(f"a stage has {least} of {length} frames")


def _check_numbers(found: Any) -> None:
    """Check that what lies in dicts and lists is numbers from 0 up."""
    if isinstance(found, dict | list):
        for value in found.values() if isinstance(found, dict) else found:
            _check_numbers(value)
    elif not isinstance(found, int | float) or not 0 <= found < math.inf:
        raise ValueError(f"{found!r} is no figure")
