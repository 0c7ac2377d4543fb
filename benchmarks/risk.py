"""Whether uncertainty helps a decision: `python benchmarks/risk.py RUN [RUN ...]`.

RUN: run folders of RKSA. On the test items, ranked among the candidates:
- risk and coverage: if only the users of whom the model is surest are served, how often does their
  list of ten miss? The area under that curve (AURC, Geifman and El-Yaniv, NeurIPS 2017) by the
  top item's probability, by minus its spread over the draws, and by the mean of its probability
  over them; beside no order (every user alike) and the best one (all misses last);
- conformal sets (Vovk et al.; Angelopoulos and Bates, arXiv 2107.07511): calibrated on half of the
  users, how many items must the others be shown for the target to be among them with probability
  1 - a? Sets of the same size for all, of the items above a probability, and of the first items up
  to a cumulative probability, with the mean logits and with the mean of probabilities over draws;
- NDCG@10 of the mean over 8 draws against the mean logits, paired over the users.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
import torch
from calibration import Chunk, drawing_run, print_means

from rka_fast.commands import exit_status
from rka_fast.reproduction.significance import compare

DRAWS, AT_ONCE, HALVES = 8, 128, 20
MISSED = (0.5, 0.2)  # a: the share of users whose set may lack the target
LARGEST = 2**27  # probabilities held; of more users only the first are asked


def aurc(confidence: np.ndarray, missed: np.ndarray) -> float:
    """Mean over all coverages of the share of misses among the surest users.

    confidence, missed: (users,). Users as sure as one another are in no order: each counts with the
    share of misses of all of them.
    """
    _, of, count = np.unique(-confidence, return_inverse=True, return_counts=True)
    risk = (np.bincount(of, missed) / count)[of]
    risk = risk[np.argsort(-confidence, kind="stable")]
    return float((risk.cumsum() / np.arange(1, len(risk) + 1)).mean())


class Sorted(NamedTuple):
    """Probabilities of the candidates, the largest first, and the place of the target from 0.

    ordered (users, items): 0 behind the candidates. place (users,); the width where the target is
    never shown.
    """

    ordered: np.ndarray
    place: np.ndarray

    def at_target(self, values: np.ndarray) -> np.ndarray:
        """Of (users, items) values those at the place of the target, infinite where it has none."""
        inside = np.minimum(self.place, values.shape[1] - 1)[:, None]
        found = np.take_along_axis(values, inside, 1)[:, 0]
        return np.where(self.place < values.shape[1], found, np.inf)


def set_scores(x: Sorted) -> dict[str, np.ndarray]:
    """How far down a set must reach for every item, (users, items) ascending along a row."""
    places = np.broadcast_to(np.arange(1.0, x.ordered.shape[1] + 1), x.ordered.shape)
    return {
        "same size": places,
        "by probability": -x.ordered,
        "by cumulative probability": x.ordered.cumsum(1),
    }


def quantile(scores: np.ndarray, a: float) -> float:
    """The ceil((n + 1)(1 - a))-th smallest of n scores, infinite where there is none."""
    place = int(np.ceil((len(scores) + 1) * (1 - a)))
    return np.inf if place > len(scores) else float(np.sort(scores)[place - 1])


def set_sizes(x: Sorted, a: float, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Mean size of the sets of half of the users, and how many hold the target.

    Means over halves at random, whose other half calibrates.
    """
    users, candidates = len(x.place), (x.ordered > 0).sum(1)
    found: dict[str, tuple[float, float]] = {}
    halves = [np.array_split(rng.permutation(users), 2) for _ in range(HALVES)]
    for name, scores in set_scores(x).items():
        target = x.at_target(scores)
        sizes, held = [], []
        for known, asked in halves:
            threshold = quantile(target[known], a)
            size = np.minimum((scores[asked] <= threshold).sum(1), candidates[asked])
            sizes.append(size.mean())
            held.append((np.isfinite(target[asked]) & (target[asked] <= threshold)).mean())
        found[name] = float(np.mean(sizes)), float(np.mean(held))
    return found


def _sorted(probabilities: torch.Tensor, target: torch.Tensor, missed: torch.Tensor) -> Sorted:
    ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
    place = (order == target).int().argmax(1)
    place = place.masked_fill(missed, order.shape[1])
    return Sorted(ordered.float().numpy(), place.numpy())


@torch.no_grad()
def summary(path: str) -> dict[str, float]:
    """The lines that are printed, of one run."""
    run = drawing_run(path)
    users = len(run.batcher.split.targets("test").users)
    rows = np.arange(min(users, LARGEST // run.sequences.num_items))
    parts: dict[str, list[np.ndarray]] = {}
    kinds: dict[str, list[Sorted]] = {"mean logits": [], f"{DRAWS} draws": []}
    for some in np.array_split(rows, -(-len(rows) // AT_ONCE)):
        chunk = Chunk(run, some)
        mean = chunk.log_probabilities("mean").exp()
        draws = torch.stack([chunk.log_probabilities("sample").exp() for _ in range(DRAWS)])
        drawn, top = draws.mean(0), mean.argmax(1, keepdim=True)
        at_top = draws.gather(2, top.expand(DRAWS, -1, -1))[..., 0]
        found = {
            "rank": chunk.ranks(mean),
            "rank of draws": chunk.ranks(drawn),
            "probability": mean.gather(1, top)[:, 0],
            "minus spread of its logarithm": -at_top.log().std(0),
            "minus spread": -at_top.std(0),
            "mean over draws": at_top.mean(0),
        }
        for name, values in found.items():
            parts.setdefault(name, []).append(values.numpy())
        for kind, of in zip(kinds, (mean, drawn), strict=True):
            kinds[kind].append(_sorted(of, chunk.target, chunk.missed))
    x = {name: np.concatenate(values) for name, values in parts.items()}
    missed = (x["rank"] > 10).astype(float)
    lines = {"misses": missed.mean(), "AURC, no order": aurc(np.zeros(len(missed)), missed)}
    for name in list(x)[2:]:
        lines[f"AURC, {name}"] = aurc(x[name], missed)
    lines["AURC, misses last"] = aurc(-missed, missed)
    for a in MISSED:
        for kind, of in kinds.items():
            whole = Sorted(*(np.concatenate(arrays) for arrays in zip(*of, strict=True)))
            for name, (size, held) in set_sizes(whole, a, np.random.default_rng(0)).items():
                lines[f"items for {1 - a:.0%}, {kind}, {name}"] = size
                lines[f"- held by, for {1 - a:.0%}, {kind}, {name}"] = held
    ensemble = compare([x["rank of draws"]], [x["rank"]])
    lines[f"NDCG@10, {DRAWS} draws less mean logits"] = ensemble.difference
    lines["- from"], lines["- to"] = ensemble.low, ensemble.high
    return lines


if __name__ == "__main__":
    sys.exit(exit_status(lambda: print_means(summary, 62)))
