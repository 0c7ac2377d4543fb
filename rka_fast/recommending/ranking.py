"""The best items of many histories at once: states, scores, what may be shown, the top.

Memory is bounded whatever the catalogue: items are scored in chunks, and each chunk leaves only
its best.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rka_fast.context import use_draws
from rka_fast.data.batches import Batch, Batcher
from rka_fast.data.sequences import lookup
from rka_fast.errors import ConfigError
from rka_fast.models import Recommender
from rka_fast.recommending.histories import Histories
from rka_fast.recommending.nearest import Nearest, check_model
from rka_fast.recommending.options import Options, Shown
from rka_fast.training.devices import seed_torch
from rka_fast.training.metrics import SCORES_AT_ONCE

ENCODED = 256  # histories at a time, of similar length: what they leave fits a processor's cache
RANKED = 2048  # at a time, by the vectors that they leave

SAMPLED = 200
"""Histories that the recall of approximate search is measured over."""
Hidden = tuple[np.ndarray, np.ndarray]
"""Rows, and places among the candidates, of what may not be shown there, or that alone."""


class Top(NamedTuple):
    """The best items of B histories, the best first.

    items: int64 (B, k), 0 where there are fewer. scores: float32 (B, k), what they are ordered by.
    mean, std: float32 (B, k) over the draws, NaN where popularity stands in; None without draws.
    """

    items: np.ndarray
    scores: np.ndarray
    mean: np.ndarray | None = None
    std: np.ndarray | None = None


class Ranker:
    """Ranks the catalogue of a model for histories.

    model: in evaluation, on `device`. batcher: of its run. shown: which items may be shown.
    popularity: (num_items + 1,), the scores where a history has no known item. seed: of the draws.
    Raises ConfigError where the options want draws of a model that has none.
    """

    def __init__(
        self,
        model: Recommender,
        batcher: Batcher,
        device: str,
        options: Options,
        shown: Shown,
        popularity: np.ndarray,
        seed: int,
    ) -> None:
        self.model, self.batcher, self.device = model, batcher, device
        self.options, self.shown, self.seed = options, shown, seed
        self.candidates = torch.from_numpy(shown.candidates)
        self.popularity = torch.from_numpy(popularity.astype(np.float32))[self.candidates]
        self.draws = draws_needed(model, options)
        self.vectors = None
        if model.has_vectors:
            with torch.no_grad():
                self.vectors = model.item_vectors()[self.candidates.to(device)]
        self.nearest = None
        if options.ann:
            check_model(model)
            self.nearest = Nearest(self.vectors.float().cpu())

    @torch.no_grad()
    def __call__(self, histories: Histories, first: int = 0) -> Top:
        """The best items of each history; `first` is the number of the first one.

        Draws are a function of the seed and that number, so a part that is made again is the same.
        """
        warm = np.flatnonzero(histories.lengths)
        cold = torch.from_numpy(histories.lengths == 0)
        states = []
        for draw in range(max(1, self.draws)):
            seed_torch(self.seed, "recommend", first, draw)
            with use_draws(self.model) if self.draws else nullcontext():
                states.append(self._states(histories, warm))
        hidden = self.shown.hidden(histories, first)
        if self.nearest is None:
            best = self._exact(states, cold, hidden, self.shown.only(len(histories), first))
        else:
            best = self._approximate(states, cold, hidden)
        items = self.candidates[best.pop("items")].masked_fill(best["scores"] == -torch.inf, 0)
        return Top(items.numpy(), **{name: x.numpy() for name, x in best.items()})

    @property
    def at_once(self) -> int:
        """Histories to rank in a call: without vectors each leaves a score of every item."""
        return ENCODED if self.vectors is None else RANKED

    def recall(self, histories: Histories) -> float:
        """The share of the exact lists that approximate search finds, over these histories."""
        exact = copy.copy(self)
        exact.nearest = None
        pairs = zip(self(histories).items, exact(histories).items, strict=True)
        both = [(set(found) - {0}, set(wanted) - {0}) for found, wanted in pairs]
        found = sum(len(found & wanted) for found, wanted in both)
        total = sum(len(wanted) for _, wanted in both)
        return found / total if total else 1.0  # nothing may be shown, and nothing is missed

    def recall_note(self, histories: Histories) -> str:
        """What a person should know of approximate search: its recall over some histories."""
        warm = np.flatnonzero(histories.lengths)
        some = histories.rows(warm[:: max(1, len(warm) // SAMPLED)][:SAMPLED])
        if not len(some):
            return "approximate search: no history to measure it with"
        over = "1 history" if len(some) == 1 else f"{len(some):,} histories"
        return (
            f"approximate search finds {self.recall(some):.1%} of the exact top "
            f"{self.options.top} (measured over {over})"
        )

    def _approximate(self, states: list[Tensor], cold: Tensor, hidden: Hidden) -> dict[str, Tensor]:
        """As `_exact`, which is asked where there is no history or too little was found."""
        assert self.nearest is not None
        best, full = self.nearest.best(states[0], hidden, self.options.top)
        again = np.flatnonzero(cold.numpy() | ~full)
        if len(again):
            row, inside = lookup(again, hidden[0])
            few = row[inside], hidden[1][inside]
            which = torch.from_numpy(again)
            found = self._exact([states[0][which.to(self.device)]], cold[which], few)
            for name, x in found.items():
                best[name][which] = x
        return best

    def _exact(
        self, states: list[Tensor], cold: Tensor, hidden: Hidden, only: Hidden | None = None
    ) -> dict[str, Tensor]:
        """Places among the candidates of the best, their scores, and more with draws."""
        count = len(self.candidates)
        width = max(1, SCORES_AT_ONCE // (len(cold) * (1 + 2 * (self.draws > 0))))
        best = None
        for start in range(0, count, width):
            part = slice(start, min(start + width, count))
            found = self._chunk(states, part, cold, hidden, only)
            best = found if best is None else _merged(best, found, self.options.top)
        assert best is not None  # there are candidates
        return best

    def _states(self, histories: Histories, warm: np.ndarray) -> Tensor:
        """(B, width), or of a model without vectors the scores; 0 where there is no history."""
        width = len(self.candidates) if self.vectors is None else self.vectors.shape[1]
        states = torch.zeros(len(histories), width, device=self.device)
        # Those of similar length together, which need little padding.
        read = np.minimum(histories.lengths, self.batcher.max_length)[warm]
        ordered = warm[np.argsort(read, kind="stable")]
        for start in range(0, len(ordered), ENCODED):
            rows = ordered[start : start + ENCODED]
            of = histories.rows(rows)
            batch = self.batcher.histories(of.users, of.indptr, of.items, of.times, of.at)
            states[torch.from_numpy(rows)] = self._encoded(batch.to(self.device))
        return states

    def _encoded(self, batch: Batch) -> Tensor:
        if self.vectors is None:
            return self.model.scores(batch)[:, self.candidates.to(self.device)]
        return self.model.last_states(batch)

    def _chunk(
        self,
        states: list[Tensor],
        part: slice,
        cold: Tensor,
        hidden: Hidden,
        only: Hidden | None,
    ) -> dict[str, Tensor]:
        """The best of some candidates: their places among all, scores, and more with draws."""
        scores = self._match(states[0], part)
        more: dict[str, Tensor] = {}
        if self.draws:
            first, mean, squares = scores, scores.clone(), torch.zeros_like(scores)
            for number, state in enumerate(states[1:], start=2):  # Welford, without cancellation
                step = (drawn := self._match(state, part)) - mean
                mean += step / number
                squares += step * (drawn - mean)
            if self.draws > 1:
                more = {"mean": mean, "std": squares.div_(self.draws - 1).sqrt_()}
            scores = self._order(first, more)
        if cold.any():
            scores[cold] = self.popularity[part]
            more = {
                name: x.index_fill(0, cold.nonzero()[:, 0], torch.nan) for name, x in more.items()
            }
        # NaN and infinities compare with nothing: such items are never shown.
        scores.nan_to_num_(-torch.inf, -torch.inf, -torch.inf)
        scores[_inside(hidden, part)] = -torch.inf
        if only is not None:
            where = _inside(only, part)
            scores = torch.full_like(scores, -torch.inf).index_put(where, scores[where])
        found = top_items(scores, self.options.top)
        best = {name: x.gather(1, found) for name, x in {"scores": scores, **more}.items()}
        return {"items": found + part.start, **best}

    def _order(self, first: Tensor, more: dict[str, Tensor]) -> Tensor:
        if self.options.order == "thompson":
            return first
        if self.options.order == "lower":
            return more["mean"] - more["std"]
        return more["mean"].clone()

    def _match(self, state: Tensor, part: slice) -> Tensor:
        if self.vectors is None:
            return state[:, part].float().cpu()
        return self.model.match(state, self.vectors[part]).float().cpu()


def _inside(pairs: Hidden, part: slice) -> tuple[Tensor, Tensor]:
    """Rows and columns of those that are in a part of the candidates."""
    rows, places = pairs
    inside = (places >= part.start) & (places < part.stop)
    return torch.from_numpy(rows[inside]), torch.from_numpy(places[inside] - part.start)


def draws_needed(model: Recommender, options: Options) -> int:
    """How often the attention is drawn. Raises ConfigError for a model that cannot."""
    least = {"mean": 0, "thompson": 1, "lower": LOWER_DRAWS}[options.order]
    draws = options.draws or least
    if draws and not any(getattr(m, "takes_relations", False) for m in model.modules()):
        asked = "draws" if options.draws else f"order {options.order!r}"
        raise ConfigError(
            f"{asked} cannot be had of {model.title}, whose attention is not drawn; leave it out "
            "or use a run of rksa"
        )
    return draws


LOWER_DRAWS = 16
"""Draws behind a spread where their number was not given."""


def top_items(scores: Tensor, top: int) -> Tensor:
    """Columns of the best of every row, (B, min(top, C)), the best first.

    Of equal scores the lower column comes first, which `topk` alone does not promise.
    """
    count = scores.shape[1]
    if 8 * top >= count:
        return scores.argsort(dim=1, descending=True, stable=True)[:, :top]
    values, columns = scores.topk(top + 1, dim=1)
    last, columns = values[:, top - 1], columns[:, :top]
    tied = (last == values[:, top]) & (last > -torch.inf)
    for row in tied.nonzero()[:, 0].tolist():
        above = (scores[row] > last[row]).nonzero()[:, 0]
        equal = (scores[row] == last[row]).nonzero()[:, 0]
        columns[row] = torch.cat([above, equal])[:top]
    columns = columns.sort(dim=1).values
    order = scores.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    return columns.gather(1, order)


def _merged(best: dict[str, Tensor], found: dict[str, Tensor], top: int) -> dict[str, Tensor]:
    """The best of both; of equal scores what was found first comes first."""
    joined = {name: torch.cat([best[name], found[name]], dim=1) for name in best}
    order = joined["scores"].argsort(dim=1, descending=True, stable=True)[:, :top]
    return {name: x.gather(1, order) for name, x in joined.items()}
