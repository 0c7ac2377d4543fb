"""Peak memory of training over sizes of the data, as foreseen and as measured.

    python benchmarks/memory.py [--sizes NAME,NAME] [--report FILE]

Each size is trained for one epoch on random histories in a process of its own, whose peak the
operating system tells.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from processes import figures, peak_memory
from publishing import publish

from rka_fast.commands import machine
from rka_fast.data.sequences import Sequences
from rka_fast.data.split_rules import leave_one_out
from rka_fast.training.config import Config
from rka_fast.training.memory import foreseen
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.trainer import Trainer


@dataclass(frozen=True)
class Size:
    """users with so many events each, out of items; settings: of the run."""

    users: int
    events: int
    items: int
    settings: dict[str, Any]


SIZES = {
    "small": Size(1000, 12, 1000, {"model": "sasrec"}),
    "logits": Size(500, 22, 20_000, {"model": "sasrec", "loss": "ce"}),
    "table": Size(
        500, 12, 200_000,
        {"model": "sasrec", "loss": "sampled_ce", "shared_negatives": "sequence", "width": 64},
    ),
    "counts": Size(500, 400, 20_000, {"model": "rksa", "loss": "bce"}),
    "long": Size(
        300, 202, 2000,
        {"model": "sasrec", "loss": "bce", "max_length": 200, "heads": 2},
    ),
    "recurrent": Size(500, 52, 2000, {"model": "gru4rec"}),
    "topics": Size(500, 52, 2000, {"model": "hcrnn"}),
    "wide": Size(300, 102, 5000, {"model": "rksa", "max_length": 100, "width": 128, "heads": 4}),
}  # fmt: skip
"""Each has another part of the memory that is large."""


@dataclass(frozen=True)
class Flags:
    """The command line."""

    # Those to train, with commas between.
    sizes: str = ",".join(SIZES)
    # Write the table to this file.
    report: str | None = None
    # Train this one here and print its figures as JSON.
    one: str | None = None


def histories(size: Size) -> Sequences:
    """Random ones; popular items are squares of uniform numbers."""
    drawn = (np.random.default_rng(0).random(size.users * size.events) ** 2) * size.items
    indptr = np.arange(size.users + 1, dtype=np.int64) * size.events
    users, items = ([f"{n}" for n in range(number)] for number in (size.users, size.items))
    return Sequences(indptr, drawn.astype(np.int32) + 1, users, items)


def train(size: Size) -> dict[str, Any]:
    """Figures of an epoch in this process, in bytes and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        config = Config(data="random", out=folder, device="cpu", epochs=1, **size.settings)
        sequences, run = histories(size), RunFolder(folder)
        memory = foreseen(config, leave_one_out(sequences))
        begin = time.perf_counter()
        description = {"source": "random", "split": config.split}
        Trainer(config, sequences, run, description, quiet=True).run()
        peak = peak_memory()
        seconds = time.perf_counter() - begin
    return {**memory._asdict(), "foreseen": memory.peak, "peak": peak, "seconds": seconds}


def measured(name: str) -> dict[str, Any]:
    """The figures of a size, in a process of its own."""
    return figures(__file__, "--one", name)


def table(found: dict[str, dict[str, Any]]) -> str:
    """The figures in Markdown."""
    lines = [
        "| size | model | users | events each | items | before | foreseen | measured | ratio |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, of in found.items():
        size = SIZES[name]
        now, foreseen_, peak = (of[key] / 2**20 for key in ("now", "foreseen", "peak"))
        lines.append(
            f"| {name} | {size.settings['model']} | {size.users:,} | {size.events} | "
            f"{size.items:,} | {now:,.0f} MiB | {foreseen_:,.0f} MiB | {peak:,.0f} MiB | "
            f"{foreseen_ / peak:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    flags = tyro.cli(Flags, description=__doc__)
    if flags.one:
        print(json.dumps(train(SIZES[flags.one])))
        return
    found = {}
    for name in flags.sizes.split(","):
        found[name] = measured(name)
        print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    text = (
        "# Memory of training, as foreseen and as measured\n\n"
        f"{machine()}. One epoch of random histories, each size in a process of its own; before is "
        "what\nthe process has when the memory is foreseen. `python benchmarks/memory.py --report "
        f"FILE`\n\n{table(found)}"
    )
    publish(text, flags.report)


if __name__ == "__main__":
    main()
