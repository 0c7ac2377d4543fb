"""Whether RKSA and the best baseline differ: paired over the users of the test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from rka_fast.training.metrics import gains

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """Mean difference in NDCG@10, its bootstrap interval, and the p value of no difference."""

    difference: float
    low: float
    high: float
    p: float
    users: int


def user_ndcg(ranks: list[np.ndarray]) -> np.ndarray:
    """NDCG@10 of every user, float64 (users,): the mean over seeds of its ranks (users,)."""
    return gains(np.stack(ranks), "ndcg@10").mean(axis=0)


def compare(first: list[np.ndarray], second: list[np.ndarray]) -> Comparison:
    """How much better `first` ranks than `second`; each holds one array of ranks (users,) a seed.

    The unit is the user, whose value is its mean over the seeds: seeds of one user are no
    independent observations. p is of the two-sided paired t test, which agrees with the
    randomisation test on such measures, where Wilcoxon's and the sign test ask another question
    (Smucker, Allan and Carterette, CIKM 2007). The interval is the percentile bootstrap's, over
    users. Differences between seeds are not in either: see the deviations for them.
    """
    difference = user_ndcg(first) - user_ndcg(second)
    mean, users = float(difference.mean()), len(difference)
    if users < 2 or np.ptp(difference) == 0:  # one user says nothing; else t is 0 or infinite
        p = 1.0 if users < 2 or mean == 0 else 0.0
        return Comparison(mean, mean, mean, p, users)
    interval = scipy.stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        batch=max(1, 2**22 // users),  # at most 32 MiB of resamples at a time
        rng=np.random.default_rng(0),
    ).confidence_interval
    test: Any = scipy.stats.ttest_1samp(difference, 0.0)
    return Comparison(mean, float(interval.low), float(interval.high), float(test.pvalue), users)
