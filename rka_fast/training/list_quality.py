"""What lists of recommendations are like beyond their hits, and how sure the averages are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rka_fast.data.counting import Counts, counts_of
from rka_fast.training.metrics import LISTED, METRICS, RANKINGS, gains

if TYPE_CHECKING:
    from rka_fast.data.split import Split

RESAMPLES = 1000
CONFIDENCE = 0.95
MANY_USERS = 100_000  # with as many users a mean is normal, and resampling takes long
AT_ONCE = 2**22  # resampled users held at a time (32 MiB)

QUALITIES = {
    f"coverage@{LISTED}": "coverage",
    f"gini@{LISTED}": "Gini",
    f"novelty@{LISTED}": "novelty",
    f"popularity@{LISTED}": "popularity",
    f"similarity@{LISTED}": "similarity",
    f"hit@{LISTED}-items": f"Hit@{LISTED}/item",
    f"ndcg@{LISTED}-items": f"NDCG@{LISTED}/item",
}
"""Titles of what `list_qualities` tells, by name."""


def list_qualities(
    lists: np.ndarray, ranks: np.ndarray, split: Split, counts: Counts | None = None
) -> dict[str, float]:
    """Of the test lists (targets, LISTED), 0 = none, and the full ranks (targets,) of a model.

    coverage: share of the catalogue that is shown to anybody. Gini: inequality of how often the
    items of the catalogue are shown, 0 if all are equally often. novelty: mean of -log2 of the
    share of users that trained on a shown item, at least one (Vargas and Castells, RecSys 2011).
    popularity: mean training events of the shown, its bias (Abdollahpouri et al., 2019).
    similarity: mean cosine in the co-occurrence counts of the pairs of a list (Ziegler et al.,
    WWW 2005). Hit and NDCG by item: the mean over the items that are targets of each one's mean,
    so that every item counts the same; that is inverse-propensity weighting by the popularity
    among the targets (Schnabel et al., ICML 2016; Yang et al., RecSys 2018).
    """
    shown = lists[lists > 0]
    exposure = np.bincount(shown, minlength=split.sequences.num_items + 1)[1:]
    events = split.train_counts()
    share = np.maximum(split.holders, 1) / max(split.trained_users, 1)
    items = split.target_items("test")
    return {
        f"coverage@{LISTED}": float((exposure > 0).mean()),
        f"gini@{LISTED}": gini(exposure),
        f"novelty@{LISTED}": float(np.abs(np.log2(share[shown])).mean()) if len(shown) else 0.0,
        f"popularity@{LISTED}": float(events[shown].mean()) if len(shown) else 0.0,
        f"similarity@{LISTED}": similarity(lists, counts or counts_of(split)),
        f"hit@{LISTED}-items": mean_by(items, gains(ranks, f"hit@{LISTED}")),
        f"ndcg@{LISTED}-items": mean_by(items, gains(ranks, f"ndcg@{LISTED}")),
    }


def gini(amounts: np.ndarray) -> float:
    """Inequality of amounts (N,) that are not negative: 0 if all are equal, to 1 - 1 / N."""
    total, count = amounts.sum(), len(amounts)
    if total == 0:
        return 0.0
    ordered = np.sort(amounts).astype(np.float64)
    weights = 2.0 * np.arange(1, count + 1) - count - 1
    return float((weights * ordered).sum() / (count * total))


def similarity(lists: np.ndarray, counts: Counts) -> float:
    """Mean over the lists of the mean cosine c_ij / sqrt(c_ii c_jj) of their pairs of items."""
    means = []
    for part in np.array_split(lists, max(1, -(-len(lists) // 4096))):
        block = counts.block(part.astype(np.int64), None).astype(np.float64)
        own = np.sqrt(np.einsum("bii->bi", block))
        norm = own[:, :, None] * own[:, None, :]
        cosine = np.divide(block, norm, out=np.zeros_like(block), where=norm > 0)
        pairs = (part > 0)[:, :, None] & (part > 0)[:, None, :]
        pairs &= ~np.eye(part.shape[1], dtype=bool)
        number = pairs.sum((1, 2))
        total = np.where(pairs, cosine, 0.0).sum((1, 2))
        means.append(total[number > 0] / number[number > 0])
    found = np.concatenate(means)
    return float(found.mean()) if len(found) else 0.0


def mean_by(groups: np.ndarray, values: np.ndarray) -> float:
    """The mean over the groups of the mean of each."""
    _, group = np.unique(groups, return_inverse=True)
    return float((np.bincount(group, values) / np.bincount(group)).mean())


def intervals(ranks: np.ndarray, users: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """The 95 % interval of every mean metric of ranks (2, targets): [low, high] by ranking.

    The percentile bootstrap over users, who bring all their targets; beyond MANY_USERS of them the
    normal interval of the same mean.
    """
    _, owner = np.unique(users, return_inverse=True)
    values = np.stack([gains(row, name) for row in ranks for name in METRICS])
    targets = np.bincount(owner).astype(np.float64)
    sums = np.stack([np.bincount(owner, row) for row in values], axis=1)  # (users, metrics)
    bounds = _normal(sums, targets) if len(targets) > MANY_USERS else _bootstrap(sums, targets)
    pairs = iter(np.stack(bounds, axis=1).tolist())
    return {ranking: {name: next(pairs) for name in METRICS} for ranking in RANKINGS}


def _bootstrap(sums: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rng, users, means = np.random.default_rng(0), len(targets), []
    step = max(1, AT_ONCE // users)
    for begin in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - begin)
        drawn = rng.integers(0, users, (rows, users))
        drawn += users * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users)
        means.append((weights @ sums) / (weights @ targets)[:, None])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail), axis=0)
    return low, high


def _normal(sums: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = sums.sum(0) / targets.sum()
    residual = sums - targets[:, None] * mean  # of a ratio of sums (the delta method)
    half = 1.959964 * np.sqrt(np.square(residual).sum(0)) / targets.sum()
    return mean - half, mean + half
