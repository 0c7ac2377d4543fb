"""What a distribution over attention tells: `python benchmarks/spread.py RUN [RUN ...]`.

RUN: run folders of RKSA. On the test items, ranked among all unseen ones:
- does the standard deviation over draws of the top item's score, or its probability, tell users
  whose item is among the first ten from the others? Area under the ROC curve, .5 is chance;
- expected calibration error of the top item's probability, and log-loss of the target, with the
  mean of the logits and with the mean of the probabilities over the draws.
"""

import sys

import numpy as np
import torch
from scipy.stats import rankdata

from rka_fast.recommend import Recommendations

DRAWS, BINS, AT_ONCE = 32, 10, 128


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


def scores(run: Recommendations, users: np.ndarray, mode: str) -> torch.Tensor:
    """(B, items + 1) log-probabilities of the unseen items, for the test event of `users`."""
    for block in run.model.blocks:
        block.attention.eval_mode = mode
    result = run.model.scores(run.batcher.evaluation(users, "test")).double()
    for row, user in zip(result, users, strict=True):
        row[run.sequences.sequence(user)[:-1]] = -torch.inf  # the last event is the target
    return result.log_softmax(1)


@torch.no_grad()
def measure(path: str) -> dict[str, float]:
    run = Recommendations(path)
    torch.manual_seed(0)
    every = np.arange(run.sequences.num_users)
    columns = []
    for users in np.array_split(every, -(-len(every) // AT_ONCE)):
        target = torch.tensor([run.sequences.sequence(user)[-1] for user in users])[:, None]
        mean = scores(run, users, "mean")
        draws = torch.stack([scores(run, users, "sample") for _ in range(DRAWS)])
        drawn = draws.exp().mean(0)
        top = mean.argmax(1, keepdim=True)
        rank = 1 + (mean > mean.gather(1, target)).sum(1)
        columns.append(
            torch.stack(
                (
                    rank <= 10,
                    draws.gather(2, top.expand(DRAWS, -1, -1)).std(0)[:, 0],
                    mean.exp().gather(1, top)[:, 0],
                    drawn.max(1).values,
                    (top == target)[:, 0],
                    (drawn.argmax(1, keepdim=True) == target)[:, 0],
                    -mean.gather(1, target)[:, 0],
                    -drawn.gather(1, target)[:, 0].log(),
                )
            )
        )
    hit, spread, p_mean, p_drawn, top_mean, top_drawn, loss_mean, loss_drawn = torch.cat(
        columns, 1
    ).numpy()
    hit = hit.astype(bool)
    return {
        "AUC of -spread": area(-spread, hit),
        "AUC of probability": area(p_mean, hit),
        "ECE, mean logits": calibration_error(p_mean, top_mean),
        f"ECE, {DRAWS} draws": calibration_error(p_drawn, top_drawn),
        "log-loss, mean logits": loss_mean.mean(),
        f"log-loss, {DRAWS} draws": loss_drawn.mean(),
    }


def main() -> None:
    found = [measure(path) for path in sys.argv[1:]]
    if not found:
        sys.exit(__doc__)
    for name in found[0]:
        values = [x[name] for x in found]
        print(f"{name:<24}{np.mean(values):>8.4f}  ({', '.join(f'{v:.4f}' for v in values)})")


if __name__ == "__main__":
    main()
