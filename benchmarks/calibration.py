"""What a distribution over attention tells: `python benchmarks/calibration.py RUN [RUN ...]`.

RUN: run folders of RKSA. On the test items, ranked among all unseen ones:
- does the standard deviation over draws of the top item's log-probability, or its probability,
  tell users whose item is among the first ten from the others? Area under the ROC curve, .5 is
  chance;
- expected calibration error of the top item's probability, and log-loss of the target, with the
  mean of the logits and with the mean of the probabilities over the draws;
- NDCG@10 with the mean of the logits and with the mean of 1, 8 and all draws.
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import rankdata

from rka_fast.commands import exit_status
from rka_fast.errors import ConfigError
from rka_fast.reproduction.significance import user_ndcg
from rka_fast.run import Run
from rka_fast.training.metrics import target_ranks

DRAWS, BINS, AT_ONCE = 32, 10, 128
FEWER = (1, 8)


def drawing_run(path: str) -> Run:
    """A run of RKSA, with the generator of its draws at a start. Raises ConfigError for others."""
    run = Run(path)
    if run.config.model != "rksa":
        raise ConfigError(f"{path} is a run of {run.config.model}; only rksa draws its logits")
    torch.manual_seed(0)
    return run


def area(score: np.ndarray, hit: np.ndarray) -> float:
    """Probability that a hit scores above a miss, ties counted half (Mann and Whitney)."""
    hits = hit.sum()
    below = rankdata(score)[hit].sum() - hits * (hits + 1) / 2
    return below / (hits * (len(hit) - hits))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean distance of confidence and accuracy over bins with as many users each."""
    parts = np.array_split(np.argsort(confidence, kind="stable"), BINS)
    gaps = [len(p) * abs(confidence[p].mean() - right[p].mean()) for p in parts]
    return sum(gaps) / len(confidence)


class Chunk:
    """Some test targets of a run, their targets and the items they may be ranked among."""

    def __init__(self, run: Run, rows: np.ndarray):
        split = run.batcher.split
        self.model, self.batch = run.model, run.batcher.evaluation(rows, "test")
        self.target = torch.from_numpy(split.target_items("test")[rows].astype(np.int64))[:, None]
        known = torch.from_numpy(split.no_candidates("test").mask(rows))
        self.known = known.scatter(1, self.target, False)
        missed = split.had("test")[rows] & (split.seen == "hide")  # such a target is never shown
        self.missed, self.last = torch.from_numpy(missed), split.sequences.num_items + 1

    def log_probabilities(self, mode: str) -> torch.Tensor:
        """(users, items + 1), of the logits' mean or of one draw of them."""
        for block in self.model.blocks:
            block.attention.eval_mode = mode
        scores = self.model.scores(self.batch).double()
        return scores.masked_fill(self.known, -torch.inf).log_softmax(1)

    def ranks(self, scores: torch.Tensor) -> torch.Tensor:
        ranks = target_ranks(scores, self.target[:, 0], self.known)
        return ranks.masked_fill(self.missed, self.last)

    def measure(self) -> dict[str, torch.Tensor]:
        """What `summary` needs of each user."""
        mean = self.log_probabilities("mean")
        draws = torch.stack([self.log_probabilities("sample") for _ in range(DRAWS)])
        averages = {n: draws[:n].exp().mean(0) for n in (*FEWER, DRAWS)}
        drawn, top = averages[DRAWS].log(), mean.argmax(1, keepdim=True)
        return {
            "rank": self.ranks(mean),
            **{f"rank_{n}": self.ranks(average) for n, average in averages.items()},
            "spread": draws.gather(2, top.expand(DRAWS, -1, -1)).std(0),
            "p_mean": mean.gather(1, top).exp(),
            "p_drawn": drawn.max(1).values.exp(),
            "right_mean": top == self.target,
            "right_drawn": drawn.argmax(1, keepdim=True) == self.target,
            "loss_mean": -mean.gather(1, self.target),
            "loss_drawn": -drawn.gather(1, self.target),
        }


@torch.no_grad()
def summary(path: str) -> dict[str, float]:
    """The lines that are printed, of one run."""
    run = drawing_run(path)
    rows = np.arange(len(run.batcher.split.targets("test").users))
    chunks = np.array_split(rows, -(-len(rows) // AT_ONCE))
    found = [Chunk(run, chunk).measure() for chunk in chunks]
    x = {name: torch.cat([part[name].flatten() for part in found]).numpy() for name in found[0]}
    hit = x["rank"] <= 10
    return {
        "AUC of -spread": area(-x["spread"], hit),
        "AUC of probability": area(x["p_mean"], hit),
        "ECE, mean logits": calibration_error(x["p_mean"], x["right_mean"]),
        f"ECE, {DRAWS} draws": calibration_error(x["p_drawn"], x["right_drawn"]),
        "log-loss, mean logits": x["loss_mean"].mean(),
        f"log-loss, {DRAWS} draws": x["loss_drawn"].mean(),
        "NDCG@10, mean logits": user_ndcg([x["rank"]]).mean(),
        **{f"NDCG@10, {n} draws": user_ndcg([x[f"rank_{n}"]]).mean() for n in (*FEWER, DRAWS)},
    }


def print_means(summary: Callable[[str], dict[str, float]], width: int) -> int:
    """The means over the runs on the command line, and each run's value."""
    found = [summary(path) for path in sys.argv[1:]]
    if not found:
        sys.exit(sys.modules["__main__"].__doc__)
    for name in found[0]:
        values = [x[name] for x in found]
        told = ", ".join(f"{v:.4f}" for v in values)
        print(f"{name:<{width}}{np.mean(values):>8.4f}  ({told})")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(lambda: print_means(summary, 24)))
