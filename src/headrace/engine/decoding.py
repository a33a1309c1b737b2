"""From logits to text: choosing tokens, and telling which text is certain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from headrace.types import Query


class Chooser:
    """Picks the next token, greedily or by sampling; the same seed picks the same tokens.

    Args:
        query: Temperature, top_p and seed.
        penalty: See ``Query.repetition_penalty``.
        used: Tokens that are there already.
    """

    def __init__(self, query: Query, *, penalty: float = 1.0, used: Iterable[int] = ()) -> None:
        self._query, self._penalty = query, penalty
        self._generator = torch.Generator().manual_seed(query.seed)
        self._used = set(used)

    def note(self, token: int) -> None:
        """Count a token among those that are there, whoever chose it."""
        self._used.add(token)

    def __call__(self, logits: Tensor) -> int:
        """Choose from (V,) logits."""
        token = self._choose(self.scores(logits))
        self.note(token)
        return token

    def scores(self, logits: Tensor) -> Tensor:
        """The (V,) logits with what was used punished."""
        if self._penalty == 1.0:
            return logits
        at = torch.tensor(sorted(self._used), dtype=torch.int64, device=logits.device)
        logits = logits.float()
        used = logits[at]
        return logits.index_copy(0, at, torch.where(used < 0, used * self._penalty, used / self._penalty))

    def _choose(self, logits: Tensor) -> int:
        if self._query.temperature == 0:
            return int(logits.argmax())
        odds = logits.cpu().double()  # the likeliest at 0, so that no temperature is too low to divide by
        probabilities = torch.softmax((odds - odds.max()) / self._query.temperature, dim=-1)
        if self._query.top_p < 1:
            ranked, order = probabilities.sort(descending=True, stable=True)
            outside = ranked.cumsum(0) - ranked >= self._query.top_p
            probabilities[order[outside]] = 0.0
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


class Detokenizer:
    """Turns a growing list of ids into text, giving out only what later tokens cannot change.

    Args:
        decode: Turns ids into text.
        stop: Strings that end the text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = [text for text in stop if text]
        self._ids: list[int] = []
        self._given = 0
        self.text = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Add an id; returns the text that became certain."""
        self._ids.append(token)
        self.text = self._decode(self._ids)
        found = [at for at in (self.text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            self.text = self.text[: min(found)]
            return self._give(len(self.text))
        sure = len(self.text.rstrip("\ufffd"))
        for stop in self._stop:
            for length in range(min(len(stop) - 1, sure), 0, -1):
                if self.text[:sure].endswith(stop[:length]):
                    sure -= length
                    break
        return self._give(sure)

    def finish(self) -> str:
        """The rest, once no more tokens come."""
        return self._give(len(self.text))

    def _give(self, until: int) -> str:
        part = self.text[self._given : until]
        self._given = max(self._given, until)
        return part
