"""One history put to a model in many ways: as it is, with an event left out, by draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rka_fast.context import use_draws
from rka_fast.data.batches import Batch, Batcher
from rka_fast.data.sequences import Sequences
from rka_fast.errors import DataError, printable
from rka_fast.explaining.attending import draws_logits
from rka_fast.models import Recommender
from rka_fast.recommending.histories import Histories
from rka_fast.recommending.ranking import top_items
from rka_fast.training.config import Config
from rka_fast.training.devices import seed_torch
from rka_fast.training.metrics import SCORES_AT_ONCE

ROWS = 64  # histories that are encoded at a time


class Trained(Protocol):
    """What a run brings: `rka_fast.Run` is one."""

    config: Config
    model: Recommender
    batcher: Batcher
    sequences: Sequences
    device: str


@dataclass(frozen=True)
class History:
    """items: int64 (events,), oldest first. user: index, -1 for nobody of the data. times: of the
    events, in seconds since 1970, or None. at: when it is asked, where the model reads times.
    """

    items: np.ndarray
    user: int
    times: np.ndarray | None
    at: float | None

    @classmethod
    def of(cls, histories: Histories) -> History:
        """The only one of some histories. Raises DataError where there are more, and none in it."""
        if len(histories) != 1:
            raise DataError(f"expected one history to explain, got {len(histories)}")
        if not len(histories.items):
            raise DataError(
                f"{printable(histories.names[0])} has no item of this run's catalogue: the most "
                "popular items are shown then, and there is nothing to explain"
            )
        items, user = histories.items.astype(np.int64), int(histories.users[0])
        return cls(items, user, histories.times, histories.at)

    def without(self, event: int) -> History:
        """The history with an event left out."""
        times = None if self.times is None else np.delete(self.times, event)
        return History(np.delete(self.items, event), self.user, times, self.at)


class Asking:
    """Scores of a run's model after variants of one history, what is never shown at -inf.

    history: as it is. draws: whether the attention draws its logits. hidden: bool (num_items + 1,),
    what is never shown; where the run hides what was seen, all of it stays hidden in the variants.
    """

    def __init__(self, run: Trained, history: History) -> None:
        self.run, self.history = run, history
        self.mode = mode_of(run)
        # Of a run that was trained by the location alone, scales and shapes are as they began.
        self.draws = draws_logits(run.model) and run.config.train_mode != "location"
        self.hidden = np.zeros(run.sequences.num_items + 1, bool)
        self.hidden[0] = True
        if run.config.seen == "hide":
            self.hidden[history.items] = True

    def batch(self, histories: Sequence[History]) -> Batch:
        """They as one batch, on the run's device."""
        users = np.array([h.user for h in histories])
        indptr = np.cumsum([0, *(len(h.items) for h in histories)])
        items = np.concatenate([h.items for h in histories])
        times = [h.times for h in histories if h.times is not None]
        when = np.concatenate(times) if times else None
        batch = self.run.batcher.histories(users, indptr, items, when, self.history.at)
        return batch.to(self.run.device)

    def scores(self, histories: Sequence[History]) -> Iterator[Tensor]:
        """(b, num_items + 1) float32 of some histories at a time."""
        step = max(1, min(ROWS, SCORES_AT_ONCE // len(self.hidden)))
        for start in range(0, len(histories), step):
            yield self._scores(self.batch(histories[start : start + step]), self.mode)

    def drawn(self, draws: int) -> Iterator[Tensor]:
        """(b, num_items + 1) float32 of some draws of the attention logits at a time."""
        step = max(1, min(ROWS, SCORES_AT_ONCE // len(self.hidden)))
        for start in range(0, draws, step):
            batch = self.batch([self.history] * min(step, draws - start))
            seed_torch(self.run.config.seed, "explain", start)
            yield self._scores(batch, "sample")

    @torch.no_grad()
    def _scores(self, batch: Batch, mode: str | None) -> Tensor:
        with nullcontext() if mode is None else use_draws(self.run.model, mode):
            scores = self.run.model.scores(batch).float().cpu()
        scores[:, torch.from_numpy(self.hidden)] = -torch.inf
        return scores


def mode_of(run: Trained) -> str | None:
    """How the attention of a run answers here: as it evaluates; by its mean where that draws."""
    if not draws_logits(run.model):
        return None
    return "mean" if run.config.eval_mode == "sample" else run.config.eval_mode


def best(scores: Tensor | np.ndarray, top: int) -> list[int]:
    """Items of a row (num_items + 1,) of scores, the best first, the lower index where they tie.

    Those at -inf are left out.
    """
    scores = torch.as_tensor(scores)
    items = top_items(scores[None], top)[0]
    return items[scores[items] > -torch.inf].tolist()


def ranks(scores: Tensor, items: Sequence[int]) -> Tensor:
    """Rank of each item in each row of scores (B, num_items + 1), int64 (B, items)."""
    return torch.stack([1 + (scores > scores[:, item, None]).sum(1) for item in items], dim=1)
