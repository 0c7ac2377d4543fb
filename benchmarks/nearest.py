"""Approximate search in a large catalogue beside scoring every item: time, recall and memory.

python benchmarks/nearest.py [--items 1000000] [--width 64] [--report FILE]

Vectors in clusters, of different lengths, stand for a trained table, weighted sums of the last four
of 50 random items for what a model makes of a history; the 50 are hidden. `Ranker` is what
`recommend` and `serve` use.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from processes import peak_memory
from publishing import publish
from torch import Tensor

from rka_fast.commands import machine
from rka_fast.models.base import Recommender
from rka_fast.recommending.histories import Histories
from rka_fast.recommending.options import Options, Shown
from rka_fast.recommending.ranking import Ranker

HIDDEN, LAST, TOP, HELD = 50, 4, 10, 512


class Table(Recommender):
    """Item vectors, and states that are given."""

    title = "table"

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = vectors

    def item_vectors(self) -> Tensor:
        return self.vectors

    def last_states(self, batch) -> Tensor:
        return batch.states


class Given:
    """Gives histories their states by the number of the user."""

    def __init__(self, states: Tensor) -> None:
        self.of, self.states = states, states

    def histories(self, users: np.ndarray, *_) -> "Given":
        self.states = self.of[torch.from_numpy(users)]
        return self

    def to(self, _) -> "Given":
        return self


def table(items: int, width: int) -> Tensor:
    """(items + 1, width), in clusters of 1,000 items each."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(max(1, items // 1000), width, generator=generator)
    x = torch.randn(items + 1, width, generator=generator).mul_(0.7)
    for part in x.split(2**16):
        part += centres[torch.randint(len(centres), (len(part),), generator=generator)]
        part *= torch.empty(len(part), 1).uniform_(0.5, 1.5, generator=generator)
    return x


def asked(vectors: Tensor) -> tuple[Tensor, Histories]:
    """States between the last items of histories, which are of different clusters."""
    generator = torch.Generator().manual_seed(1)
    had = torch.randint(1, len(vectors), (HELD, HIDDEN), generator=generator)
    weights = torch.rand(HELD, LAST, generator=generator)
    states = (weights[:, :, None] * vectors[had[:, -LAST:]]).sum(1)
    states += 0.3 * torch.randn(states.shape, generator=generator)
    names = pl.Series([""] * HELD, dtype=pl.String)
    ends = np.arange(0, had.numel() + 1, HIDDEN)
    return states, Histories(names, np.arange(HELD), ends, had.flatten().numpy())


def milliseconds(ranker: Ranker, histories: Histories, batch: int) -> float:
    """For one history, the median over batches of this size."""
    taken, begin = [], time.perf_counter()
    for first in range(0, len(histories) - batch + 1, batch):
        start = time.perf_counter()
        ranker(histories.between(first, first + batch))
        taken.append(time.perf_counter() - start)
        if time.perf_counter() - begin > 20.0 and len(taken) > 2:
            break
    return 1000 * statistics.median(taken) / batch


def main(argv: Sequence[str] | None = None) -> float:
    """Measure, print the table, and return the recall."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--report", type=Path, help="write the table to this file (Markdown)")
    flags = parser.parse_args(argv)
    vectors = table(flags.items, flags.width)
    states, histories = asked(vectors)
    shown = Shown(np.arange(1, flags.items + 1), hide_seen=True)
    model, given = Table(vectors), Given(states)
    lines = ["| | a history alone, ms | in batches of 64, ms |", "|---|--:|--:|"]
    for ann in (False, True):
        begin = time.perf_counter()
        options = Options(TOP, ann=ann)
        ranker = Ranker(model, given, "cpu", options, shown, np.zeros(flags.items + 1), 0)
        built = time.perf_counter() - begin
        alone, together = (milliseconds(ranker, histories, batch) for batch in (1, 64))
        lines.append(f"| {'approximate' if ann else 'every item'} | {alone:.2f} | {together:.2f} |")
    recall = ranker.recall(histories)
    peak = peak_memory() / 2**30
    text = "\n".join(lines) + (
        f"\n\n{flags.items:,} items of width {flags.width}, top {TOP}, {HIDDEN} hidden. "
        f"Approximate search finds {recall:.1%} of the exact lists; "
        f"its index was built in {built:.1f} s; "
        f"the process held {peak:.2f} GiB at its peak; {machine()}\n"
    )
    publish(text, flags.report)
    return recall


if __name__ == "__main__":
    main()
