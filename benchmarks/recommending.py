"""How many people a second are recommended to, beside what evaluation ranks in the same run.

    python benchmarks/recommending.py [--data LOG] [--items N] [--users N] [--model NAME]

Without a log: random histories of 50 out of N items. Weights are as they start, since the time does
not depend on them. Rounds alternate, so that a busy machine hits both; of each the fastest is told.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from rka_fast.data.batches import sampled_candidates
from rka_fast.data.sequences import Sequences
from rka_fast.recommending.histories import everybody
from rka_fast.recommending.lists import Lister
from rka_fast.recommending.options import Options, Shown
from rka_fast.recommending.plan import Plan
from rka_fast.recommending.ranking import Ranker
from rka_fast.training.assemble import assemble, load_data
from rka_fast.training.config import Config
from rka_fast.training.metrics import Evaluation


@dataclass(frozen=True)
class Flags:
    """The command line."""

    data: str | None = None
    items: int = 100_000
    users: int = 2048
    model: str = "rksa"
    rounds: int = 3


def random_sequences(users: int, items: int, length: int = 52) -> Sequences:
    """Histories of 50 and two targets; popular items are squares of uniform numbers."""
    rng = np.random.default_rng(0)
    drawn = (rng.random((users, length)) ** 2 * items).astype(np.int32) + 1
    ids = [f"i{n}" for n in range(items)], [f"u{n}" for n in range(users)]
    indptr = np.arange(users + 1, dtype=np.int64) * length
    return Sequences(indptr, drawn.ravel(), ids[1], ids[0])


def clocked(function) -> tuple[float, float]:
    """Seconds on the clock, and of all processors."""
    wall, used = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - used


def main() -> dict[str, float]:
    flags = tyro.cli(Flags, description=__doc__)
    config = Config(data=flags.data or "random", model=flags.model, device="cpu")
    if flags.data is None:
        sequences = random_sequences(flags.users, flags.items)
    else:
        sequences = load_data(config)[0]
    torch.manual_seed(0)
    split, model, batcher = assemble(config, sequences)
    model.fit(split)
    model.eval()
    evaluation = Evaluation(split, batcher, "test", sampled_candidates(split, "test"))
    shown = Shown.of(sequences, "hide")
    ranker = Ranker(model, batcher, "cpu", Options(), shown, split.train_counts(), 0)
    plan = Plan(everybody(sequences), ranker, Lister(sequences, None, False, flags.model))
    found = {"evaluation": [], "recommending": []}
    for _ in range(flags.rounds):
        found["evaluation"].append(clocked(lambda: evaluation(model)))
        found["recommending"].append(clocked(plan.table))
    print(
        f"{sequences.num_users:,} users, {sequences.num_items:,} items, {flags.model}, "
        f"{torch.get_num_threads()} threads"
    )
    rates = {}
    for name, times in found.items():
        wall, used = (sequences.num_users / min(column) for column in zip(*times, strict=True))
        print(f"{name:<13}{wall:9,.0f} a second{used:9,.0f} a second of one processor")
        rates[name] = used
    return rates


if __name__ == "__main__":
    main()
