"""What `--sparse-adam` saves of a training step: `python benchmarks/sparse_adam.py`.

SASRec with sampled cross-entropy over 128 negatives on random histories. Both
optimisers change the same model in turn; processor time on one thread, medians over the steps.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from rka_fast.commands import exit_status, machine
from rka_fast.data.sequences import Sequences
from rka_fast.training.assemble import assemble
from rka_fast.training.config import Config
from rka_fast.training.optimiser import adam

USERS, EVENTS = 2_000, 20


@dataclass(frozen=True)
class Flags:
    """The command line."""

    # Sizes of the catalogue.
    items: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    # Width of the model.
    width: int = 64
    # Who shares negatives: none, sequence or batch.
    shared_negatives: str = "sequence"
    # Steps of each optimiser to measure, behind two that warm up.
    steps: int = 15


def histories(items: int) -> Sequences:
    """Random ones over so many items."""
    drawn = np.random.default_rng(0).integers(1, items + 1, USERS * EVENTS, dtype=np.int32)
    return Sequences(
        np.arange(0, USERS * EVENTS + 1, EVENTS, dtype=np.int64),
        drawn,
        [f"u{user}" for user in range(USERS)],
        [f"i{item}" for item in range(items)],
    )


def measure(items: int, flags: Flags) -> dict[bool, list[tuple[float, float]]]:
    """Seconds of every whole step and of the optimiser in it, with and without the setting."""
    loss = "sampled_ce"
    config = Config(
        model="sasrec", width=flags.width, loss=loss, shared_negatives=flags.shared_negatives,
        device="cpu",
    )  # fmt: skip
    _, model, batcher = assemble(config, histories(items))
    optimisers = {sparse: adam(model, 1e-3, 0.0, sparse) for sparse in (False, True)}
    users, size = batcher.epoch_order(0), config.batch_size or 1
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    model.train()
    for step in range(flags.steps + 2):
        for sparse, optimiser in optimisers.items():
            begin = time.process_time()
            part = step % (len(users) // size) * size
            batch = batcher.training(users[part : part + size], step)
            optimiser.zero_grad()
            model.use_sparse_gradients(sparse)
            model.training_loss(batch, loss)["loss"].backward()
            half = time.process_time()
            optimiser.step()
            end = time.process_time()
            if step >= 2:
                found[sparse].append((end - begin, end - half))
    return found


def report(flags: Flags) -> int:
    """Print the table."""
    torch.set_num_threads(1)
    print(machine())
    print(
        "| items | step | of it the optimiser | with --sparse-adam | of it the optimiser | ratio |"
    )
    print("| --: | --: | --: | --: | --: | --: |")
    for items in flags.items:
        found = measure(items, flags)
        ratio = statistics.median(
            ours[0] / plain[0] for plain, ours in zip(found[False], found[True], strict=True)
        )
        cells = [
            f"{1e3 * statistics.median(seconds):.0f} ms"
            for sparse in (False, True)
            for seconds in zip(*found[sparse], strict=True)
        ]
        print(f"| {items:,} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    flags = tyro.cli(Flags, args=argv, description=__doc__)
    return exit_status(lambda: report(flags))


if __name__ == "__main__":
    sys.exit(main())
