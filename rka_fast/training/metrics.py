"""Ranking metrics: the target against sampled negatives and against every unseen item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rka_fast.training.trial import seconds_of

if TYPE_CHECKING:
    from rka_fast.data.batches import Batcher
    from rka_fast.data.split import Split
    from rka_fast.models.base import Recommender

RANKINGS = {"sampled": "100 negatives", "full": "full ranking"}
"""Title of a ranking by its name: against sampled negatives, against every unseen item."""

LISTED = 10  # items of a list of recommendations
SCORES_AT_ONCE = 2**23  # at most this many scores of the catalogue are held at a time (32 MiB)


class Metric(NamedTuple):
    """title: for people. gain: of every rank, float64 in 0..1; the metric is its mean."""

    title: str
    gain: Callable[[np.ndarray], np.ndarray]


def _at(cutoff: int, gain: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """The gain of ranks up to the cut-off, 0 behind it."""
    return lambda ranks: np.where(ranks <= cutoff, gain(ranks), 0.0)


METRICS = {
    f"{title.lower()}@{cutoff}": Metric(f"{title}@{cutoff}", _at(cutoff, gain))
    for cutoff in (5, 10)
    for title, gain in (
        ("Hit", np.ones_like),
        ("NDCG", lambda ranks: 1 / np.log2(ranks + 1)),
        ("MRR", lambda ranks: 1 / ranks),
    )
}
"""The metrics by name, each a function of the target's rank, 1 for the best."""


def metrics_of(scores: Iterable[Mapping[str, Mapping[str, float]]]) -> list[str]:
    """The metrics that all of these {ranking: metrics} have: a saved run may lack later ones."""
    scores = list(scores)
    return [name for name in METRICS if all(name in s[ranking] for s in scores for ranking in s)]


def gains(ranks: np.ndarray | Tensor, metric: str) -> np.ndarray:
    """What every rank is worth by a metric, float64 of the shape of the ranks."""
    return METRICS[metric].gain(np.asarray(ranks, dtype=np.float64))


def target_ranks(scores: Tensor, targets: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Rank of the target among its row's candidates, 1 for the best.

    The rank is 1 + the number of other candidates that do not score below the target: ties
    count against it wherever it stands, and a target whose score is NaN comes last.

    scores: (B, C). targets: (B,) column of the target. ignored: (B, C) bool, columns that are
    no candidates. Returns (B,) int64.
    """
    targets = targets[:, None]
    ahead = (scores < scores.gather(1, targets)).logical_not_()  # true where either is NaN
    if ignored is not None:
        ahead.masked_fill_(ignored, False)
    return 1 + ahead.scatter_(1, targets, False).sum(1)


def rank_metrics(ranks: np.ndarray | Tensor) -> dict[str, float]:
    """Mean of every metric over the ranks (N,)."""
    if not len(ranks):
        raise ValueError("no ranks to average")
    return {name: float(gains(ranks, name).mean()) for name in METRICS}


def both_metrics(ranks: np.ndarray | Tensor) -> dict[str, dict[str, float]]:
    """{"sampled": metrics, "full": metrics} of what `Evaluation` returns."""
    return {name: rank_metrics(row) for name, row in zip(RANKINGS, ranks, strict=True)}


class Ranked(NamedTuple):
    """What an evaluation found, one column a target.

    ranks: int64 (2, targets) in the order of RANKINGS, 1 for the best; a target that may not be
    shown, since its user had it before, comes after everything. lists: int64 (targets, LISTED),
    the best items of the full ranking, 0 where there are fewer.
    """

    ranks: Tensor
    lists: Tensor


class Evaluation:
    """Ranks of the targets of one stage ("valid" or "test") of a split, and the lists they are in.

    split: the data. batcher: makes the inputs. negatives: (targets, count) int, row i for the
    i-th target of the stage, the items that it is ranked against; 0 is none.
    """

    def __init__(self, split: Split, batcher: Batcher, stage: str, negatives: np.ndarray) -> None:
        self.batcher, self.stage, self.negatives = batcher, stage, negatives
        self.targets = split.target_items(stage).astype(np.int64)
        self.taken = split.no_candidates(stage)
        self.missed = split.had(stage) & (split.seen == "hide")
        self.last = split.sequences.num_items + 1
        self.chunk = max(1, min(256, SCORES_AT_ONCE // self.last))
        # Histories of similar length together, which need little padding.
        users, at = split.targets(stage)
        read = np.minimum(at - split.sequences.indptr[users], batcher.max_length)
        self.order = np.argsort(read, kind="stable")

    @torch.no_grad()
    def __call__(
        self,
        model: Recommender,
        device: torch.device | str = "cpu",
        *,
        rank: int = 0,
        world: int = 1,
        reduce: Callable[[Tensor], Tensor] = lambda ranks: ranks,
        seed: Callable[[int], object] = lambda chunk: None,
    ) -> Ranked:
        """Ranks and lists of every target by a model, which is left in evaluation mode.

        Targets are scored in chunks, those of similar length together, process `rank` of `world`
        taking every world-th, and `reduce` sums a tensor over the processes: since chunks do not
        depend on the number of processes, neither does what is found. `seed` is called with each
        chunk's number.
        """
        model.eval()
        shape = (2 + LISTED, len(self.targets))
        found = torch.zeros(shape, dtype=torch.int64, device=device)
        starts = range(0, len(self.targets), self.chunk)
        for number in range(rank, len(starts), world):
            rows = self.order[starts[number] : starts[number] + self.chunk]
            seed(number)
            found[:, torch.from_numpy(rows).to(device)] = self._chunk(model, rows, device)
        found = reduce(found).cpu()
        return Ranked(found[:2], found[2:].T)

    @torch.no_grad()
    def seconds(self, model: Recommender, device: torch.device | str = "cpu") -> float:
        """What ranking all targets will take here, from a chunk of the first ones."""
        model.eval()
        first = np.arange(min(self.chunk, len(self.targets)))
        took = seconds_of(lambda: self._chunk(model, first, device), device)
        return took * len(self.targets) / len(first)

    def _chunk(self, model: Recommender, rows: np.ndarray, device: torch.device | str) -> Tensor:
        batch = self.batcher.evaluation(rows, self.stage).to(device)
        targets = torch.from_numpy(self.targets[rows]).to(device)
        scores = model.scores(batch).float()
        negatives = torch.from_numpy(self.negatives[rows].astype(np.int64)).to(device)
        sampled = scores.gather(1, torch.cat([targets[:, None], negatives], dim=1))
        taken = torch.from_numpy(self.taken.mask(rows)).to(device)
        ranks = torch.stack(
            [
                target_ranks(sampled, torch.zeros_like(targets)),
                target_ranks(scores, targets, ignored=taken),
            ]
        )
        missed = torch.from_numpy(self.missed[rows]).to(device)
        return torch.cat(
            [ranks.masked_fill(missed, self.last), self._lists(scores, targets, taken, missed)]
        )

    def _lists(self, scores: Tensor, targets: Tensor, taken: Tensor, missed: Tensor) -> Tensor:
        """The best candidates (LISTED, B), the target among them where it may be shown."""
        shown = ~taken
        shown.scatter_(1, targets[:, None], ~missed[:, None])
        scores = scores.nan_to_num(-torch.inf).masked_fill_(~shown, -torch.inf)
        best = scores.topk(min(LISTED, scores.shape[1]), dim=1)
        lists = best.indices.masked_fill(best.values == -torch.inf, 0)
        return torch.nn.functional.pad(lists, (0, LISTED - lists.shape[1])).T
