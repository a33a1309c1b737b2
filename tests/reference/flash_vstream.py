"""Naive twin of ``flash_vstream``: all units in a list, k-means with loops; and the check of the golden files."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from headrace.types import ModelSpec, Segment, VisualTokens

VARIANTS: list[dict[str, Any]] = [
    {"synopsis": 5, "details": 3},
    {"synopsis": 3, "details": 2, "recent": 2, "start": "spread", "order": "time", "turn_rows": 9},
    {"synopsis": 4, "details": 4, "times": "released", "bank": "all", "positions": "original"},
    {"synopsis": 1, "details": 0, "show": "synopsis", "turn_rows": 0, "seed": 7},
]
IDENTITY: list[dict[str, Any]] = [
    {"synopsis": 1000, "details": 1000, "show": "details", "turn_rows": 100_000, "order": "time"},
    {"synopsis": 1000, "details": 1000, "show": "details", "turn_rows": 100_000},
]
REJECTS: dict[str, list[Any]] = {
    "synopsis": [0, -1],
    "details": [-1],
    "recent": [-1],
    "start": ["", "first"],
    "times": ["paper"],
    "order": ["Time"],
    "show": ["all"],
    "bank": ["none"],
    "seed": [-1],
    "turn_rows": [-1],
    "positions": ["", "gaps", "Repack"],
}
TUNED: dict[str, list[Any]] = {"synopsis": [1, 3, 40], "details": [0, 2, 1000], "recent": [0, 1, 5]}
WIDE = {torch.float32}  # centroids are means over any number of frames


class Twin:
    """Centroids as (features, weight, mean unit, mean index, mean seconds), units as (tokens, small picture)."""

    def __init__(self, method: Any, spec: ModelSpec) -> None:
        self.method, self.axes = method, spec.position_rows
        self.centroids: list[tuple[Tensor, float, float, float, float]] = []
        self.units: list[tuple[VisualTokens, Tensor]] = []
        self.kept: list[int] = []
        self.nearest: list[int] = []
        self.turns: list[tuple[int, Segment]] = []

    def write(self, item: VisualTokens | Segment) -> None:
        """Take in a step or a turn."""
        if isinstance(item, Segment):
            self.turns.append((len(self.units), item))
            while sum(len(rows) for _, rows in self.turns) > self.method.turn_rows:
                oldest = self.turns[0][0]
                self.turns = [turn for turn in self.turns if turn[0] != oldest]
            return
        rows = list(self.centroids)
        for tokens in item.split():
            small = self.pool(tokens)
            rows.append((small, 1.0, float(len(self.units)), float(tokens.frames[0]), tokens.times_s[0]))
            self.nearest.append(len(self.units))
            self.kept.append(len(self.units))
            self.units.append((tokens, small))
        self.centroids = rows
        if len(rows) > self.method.synopsis:
            self.cluster(rows)
        self.forget()

    def pool(self, tokens: VisualTokens) -> Tensor:
        """Average what is there of every 2x2 cell; an empty cell is as before, or as the whole frame."""
        rows, cols = ((size + 1) // 2 for size in tokens.grid)
        cells = []
        for cell in range(rows * cols):
            own = [
                tokens.features[i].double()
                for i in range(len(tokens))
                if (int(tokens.row[i]) // 2, int(tokens.col[i]) // 2) == divmod(cell, cols)
            ]
            if own:
                cells.append(torch.stack(own).mean(0))
            else:
                cells.append(self.units[-1][1][cell] if self.units else tokens.features.double().mean(0))
        return torch.stack(cells)

    def cluster(self, rows: list[tuple[Tensor, float, float, float, float]]) -> None:
        """K-means one row at a time; there are no equal rows and no empty clusters in the streams it is shown."""
        num = self.method.synopsis
        centres = [rows[i][0] for i in self.begin(rows)]
        for _ in range(10):
            labels = [min(range(num), key=lambda k: float((row[0] - centres[k]).square().sum())) for row in rows]
            moved = [
                mean([(row[0], row[1]) for row, label in zip(rows, labels, strict=True) if label == k])
                for k in range(num)
            ]
            shift = sum(float((a - b).norm()) for a, b in zip(moved, centres, strict=True))
            centres = moved
            if shift < 1e-4:
                break
        found = []
        for k in range(num):
            own = [(i, row) for i, row in enumerate(rows) if labels[i] == k]
            number, index, seconds = (mean([(row[at], row[1]) for _, row in own]) for at in (2, 3, 4))
            if self.method.times == "released":
                number = sum(i for i, _ in own) / len(own)
            found.append((centres[k], sum(row[1] for _, row in own), number, index, seconds))
        self.centroids = sorted(found, key=lambda row: round(row[2], 6))
        self.nearest = []
        for row in self.centroids:
            far = {i: float((self.units[i][1] - row[0]).square().sum()) for i in self.kept}
            self.nearest.append(next(i for i in self.kept if far[i] <= min(far.values()) * 1.0001))

    def begin(self, rows: list[Any]) -> list[int]:
        """Which rows are the first centroids."""
        num = self.method.synopsis
        if self.method.start == "random":
            dice = torch.Generator().manual_seed(self.method.seed * 1_000_003 + len(self.units))
            return torch.randperm(len(rows), generator=dice)[:num].tolist()
        chosen = [0]
        while len(chosen) < num:
            left = [i for i in range(len(rows)) if i not in chosen]
            chosen.append(max(left, key=lambda i: min(float((rows[i][0] - rows[j][0]).norm()) for j in chosen)))
        return sorted(chosen)

    def forget(self) -> None:
        """Keep what is needed, and the newest of the rest while there is room."""
        if self.method.bank == "all":
            return
        needed = set(self.nearest) | {i for i in self.kept if i in self.kept[len(self.kept) - self.method.recent :]}
        for i in sorted(self.kept, reverse=True):
            if len(needed) < self.method.synopsis + self.method.recent:
                needed.add(i)
        self.kept = sorted(needed)

    def recall(self) -> list[Any]:
        """Items as ("turn", rows, turn) and ("seen", index, seconds, grid, slots, features, ids, advance)."""
        details = [] if self.method.show == "synopsis" else self.details()
        small = [] if self.method.show == "details" else self.centroids
        grid = tuple((size + 1) // 2 for size in self.units[0][0].grid) if self.units else ()
        shown = []
        for i in details:
            tokens = self.units[i][0]
            slots = [(int(r), int(c)) for r, c in zip(tokens.row, tokens.col, strict=True)]
            shown.append((float(i), 1, tokens.frames[0], tokens.times_s[0], tokens.grid, slots, tokens.features))
        for row in small:
            slots = [divmod(cell, grid[1]) for cell in range(grid[0] * grid[1])]
            shown.append((row[2], 0, round(round(row[3], 6)), row[4], grid, slots, row[0]))
        own = self.axes == 3 and self.method.order == "published"
        if self.method.order == "time":
            shown = [x for i, x in enumerate(shown) if not x[1] or x[0] not in [y[0] for y in shown[:i] if y[1]]]
            shown.sort(key=lambda x: (x[0], x[1]))
        items: list[Any] = []
        for at, x in enumerate(shown):
            ids, advance = None, None
            if own:
                same = [y for y in shown if y[1] == x[1]]
                ids = [[round(round(x[0], 6)) for _ in x[5]], [r for r, _ in x[5]], [c for _, c in x[5]]]
                last = at + 1 == len(shown) or shown[at + 1][1] != x[1]
                advance = max(sum(y[4][0] * y[4][1] for y in same), *(round(round(y[0], 6)) + 1 for y in same))
                advance = advance if last else 0
            items.append(("seen", *x[2:], ids, advance))
        return self.with_turns(items, [x[0] for x in shown])

    def details(self) -> list[int]:
        """Units of the heaviest centroids, newer first on a tie, then the newest."""
        if len(self.units) <= self.method.details:
            return list(range(len(self.units)))
        order = sorted(range(len(self.centroids)), key=lambda k: (-self.centroids[k][1], -k))
        key = [self.nearest[k] for k in order[: self.method.details]]
        newest = [i for i in self.kept if i >= len(self.units) - self.method.recent and i not in key]
        return key + newest

    def with_turns(self, items: list[Any], times: list[float]) -> list[Any]:
        """Insert the turns from the last to the first, at least one picture between two that had pictures between."""
        limit, newer = len(items), None
        out = list(items)
        for after, rows in reversed(self.turns):
            if after != newer:
                wanted = sum(t < after for t in times) if self.method.order == "time" else len(items)
                limit, newer = min(wanted, limit if newer is None else limit - 1), after
            if limit < 1:
                break
            out.insert(limit, ("turn", len(rows), rows.turn))
        return out


def mean(pairs: list[tuple[Any, float]]) -> Any:
    """Weighted mean."""
    return sum(x * w for x, w in pairs) / sum(w for _, w in pairs)


def golden(tensors: dict[str, Tensor], settings: dict[str, str]) -> str:
    """Compare with the published memories of both generations; see ``tests/reference/golden.py``."""
    numbers = json.loads(settings["settings"])
    if "init_permutation" in tensors:
        return _golden_first(tensors, numbers)
    return _golden_live(tensors, numbers) if "step0.centroids" in tensors else _golden_second(tensors, numbers)


def _given(starts: list[Tensor], **values: Any) -> Any:
    """Our memory, with its first centroids given at every clustering."""
    from headrace.methods.memories.flash_vstream import FlashVStream

    class Given(FlashVStream):
        def _begin(self, rows: Tensor, num_units: int) -> Tensor:
            return starts.pop(0)

    return Given(**values)


def _units(small: Tensor, first: int) -> VisualTokens:
    """Units that pool to (T, S, D) small pictures: a grid of 2 x 2S tokens, four of a kind."""
    num, cells, _ = small.shape
    frame, row, col = (
        x.flatten() for x in torch.meshgrid(*(torch.arange(n) for n in (num, 2, 2 * cells)), indexing="ij")
    )
    frames = tuple(range(first, first + num))
    return VisualTokens(small[frame, col // 2], frame, row, col, (2, 2 * cells), frames, tuple(map(float, frames)))


def _remember(method: Any, parts: list[Tensor]) -> list[Any]:
    """States after each of the steps, for a model with three position rows."""
    from headrace.types import Span
    from reference.naive.decoder import spec

    state, states, first = method.init(spec(position_rows=3)), [], 0
    for part in parts:
        state = method.write(state, Span(segment=None, tokens=_units(part, first)))  # type: ignore[arg-type]
        first += len(part)
        states.append(state)
    return states


def _golden_second(tensors: dict[str, Tensor], numbers: dict[str, Any]) -> str:
    """One clip through the memory of the second generation: synopsis, key units, positions."""
    from headrace.types import Placed
    from reference.golden import close, equal

    most, details = numbers["temporal_length"] // 2, numbers["spatial_length"] // 2
    starts = [tensors["init_centroids"].flatten(1)] if "init_centroids" in tensors else []
    method = _given(starts, synopsis=most, details=details, bank="all", positions="original")
    small, full = tensors["small"], tensors["full"]
    state = _remember(method, [small])[0]
    csm = state.centroids[:, 0]
    found = [
        close("csm", csm, tensors["csm"]),
        close("csm_weights", state.weights.float(), tensors["csm_weights"]),
        close("csm_times", state.places[:, 0].float(), tensors["csm_times"]),
    ]
    if "csm_labels" in tensors:
        labels = torch.cdist(small.flatten(1).double(), csm.flatten(1).double()).argmin(1)
        found.append(equal("csm_labels", labels, tensors["csm_labels"]))
    items = method.recall(state)
    key = torch.tensor([x.tokens.frames[0] for x in items[: len(items) - len(csm)]])
    if not _ties(state.weights, details):
        found.append(equal("dam_units", key, tensors["dam_units"]))
    key = tensors["dam_units"]
    total = full[key].sum((0, 1)) + csm.sum((0, 1))
    found.append(close("memory_sum", total, tensors["memory_sum"]))
    start, ids = numbers["first_visual_position"], tensors["position_ids"]
    shown = [(int(i), _grid_tokens(numbers["grid_hw"])) for i in key]
    placed: list[Placed] = [*_am_rope(shown)]
    placed += _am_rope([(float(t), _grid_tokens(numbers["small_hw"])) for t in state.places[:, 0]])
    parts, at = [torch.arange(start).expand(3, -1)], start
    for item in placed:
        parts.append(item.ids + at)
        at += item.advance
    rest = ids.shape[1] - sum(part.shape[1] for part in parts)
    ours = torch.cat([*parts, (torch.arange(rest) + at).expand(3, -1)], 1)
    found.append(equal("position_ids", ours, ids))
    return ", ".join(found)


def _am_rope(units: list[tuple[float, VisualTokens]]) -> Any:
    from headrace.methods.memories.flash_vstream import am_rope

    return am_rope(units)


def _grid_tokens(size: list[int]) -> VisualTokens:
    """Tokens of a unit after the merger, which takes 2x2 rows of the tower for one."""
    rows, cols = size[0] // 2, size[1] // 2
    row, col = (x.flatten() for x in torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij"))
    return VisualTokens(torch.zeros(len(row), 1), torch.zeros_like(row), row, col, (rows, cols), (0,), (0.0,))


def _ties(weights: Tensor, num: int) -> bool:
    """True where equal weights leave it open which are the ``num`` heaviest, or in which order."""
    if len(weights) <= num and bool((weights == 1).all()):
        return False
    order = weights.sort(descending=True).values
    return bool((order[1 : num + 1] == order[: min(num, len(order) - 1)]).any())


def _golden_live(tensors: dict[str, Tensor], numbers: dict[str, Any]) -> str:
    """The live k-means of the second generation, fed step by step."""
    from reference.golden import close, equal

    steps = range(len(numbers["steps"]))
    starts = [tensors[f"step{i}.init_centroids"].flatten(1) for i in steps]
    method = _given(starts, synopsis=numbers["centroids"], times="released")
    parts = list(tensors["features"].split(numbers["steps"]))
    found, before = [], torch.empty(0, *parts[0].shape[1:])
    for i, state in zip(steps, _remember(method, parts), strict=True):
        centroids = state.centroids[:, 0]
        found += [
            close(f"step{i}.centroids", centroids, tensors[f"step{i}.centroids"]),
            close(f"step{i}.weights", state.weights.float(), tensors[f"step{i}.weights"]),
            close(f"step{i}.published_times", state.places[:, 0].float(), tensors[f"step{i}.published_times"]),
        ]
        rows = torch.cat((before, parts[i])).flatten(1).double()
        labels = torch.cdist(rows, centroids.flatten(1).double()).argmin(1)
        found.append(equal(f"step{i}.labels", labels, tensors[f"step{i}.labels"]))
        before = centroids
    return ", ".join(found)


def _golden_first(tensors: dict[str, Tensor], numbers: dict[str, Any]) -> str:
    """The memory of the first generation, from its operators."""
    from headrace.ops.cluster import weighted_kmeans
    from headrace.ops.star import key_frames, update_abstract
    from reference.golden import close, equal

    features, (rows, cols) = tensors["features"], numbers["grid"]
    picture = features.view(len(features), rows, cols, -1).permute(0, 3, 1, 2)

    def pooled(side: int) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(picture[: -numbers["current_frames"]], side).flatten(2).mT

    long = pooled(numbers["long_size"]).flatten(1)
    start = long[tensors["init_permutation"][: numbers["long_length"]]]
    clusters = weighted_kmeans(
        long, torch.ones(len(long)), start, max_iter=numbers["max_iter"], tolerance=numbers["tol"]
    )
    centroids = clusters.centroids.view_as(tensors["centroids"])
    key = key_frames(clusters.centroids, clusters.weights, long, numbers["key_frames"], rule="released")
    slots, size = pooled(numbers["turing_size"]).flatten(1), numbers["turing_length"]
    abstract = slots[:size]
    for new in slots[size:].split(size):
        asked = torch.nn.functional.linear(abstract, tensors["q.weight"], tensors["q.bias"])
        keys = torch.nn.functional.linear(new, tensors["k.weight"], tensors["k.bias"])
        abstract = update_abstract(abstract, new, asked, keys, rate=numbers["update_ratio"])
    now = features[-numbers["current_frames"] :]
    memory = torch.cat([x.flatten(0, -2) for x in (abstract, centroids, features[key], now)])
    return ", ".join(
        [
            equal("labels", clusters.labels, tensors["labels"]),
            close("centroids", centroids, tensors["centroids"]),
            close("weights", clusters.weights, tensors["weights"]),
            equal("heaviest_three", key, tensors["heaviest_three"]),
            close("memory", memory, tensors["memory"]),
        ]
    )
