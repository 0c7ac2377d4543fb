"""Peak memory of training over sizes of the data, as foreseen and as measured.

    python benchmarks/memory.py [--sizes NAME,NAME] [--report FILE]

Each size is trained for one epoch on random histories in a process of its own, whose peak the
operating system tells; one with shards is prepared and streamed.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tyro
from processes import figures, peak_memory
from publishing import publish

from rka_fast.commands import machine
from rka_fast.data.filters import Filters
from rka_fast.data.preparing import Options, prepare
from rka_fast.data.readers import Log
from rka_fast.data.sequences import Sequences
from rka_fast.data.shards import Prepared
from rka_fast.data.split import MAX_COUNTED
from rka_fast.data.split_rules import leave_one_out
from rka_fast.training.config import Config
from rka_fast.training.memory import foreseen, foreseen_streamed
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.streaming import catalogue_of
from rka_fast.training.trainer import Trainer


@dataclass(frozen=True)
class Size:
    """users with so many events each, out of items.

    settings: of the run. shards: of the data, prepared and streamed; 0 where it is in memory.
    """

    users: int
    events: int
    items: int
    settings: dict[str, Any]
    shards: int = 0


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
    "shards": Size(
        200_000, 20, 2000,
        {
            "model": "sasrec", "loss": "bce", "max_length": 20, "batch_size": 1024,
            "eval_users": 100000,
        },
        shards=2,
    ),
    "pairs": Size(
        30_000, 22, 20_000,
        {
            "model": "rksa", "loss": "bce", "max_length": 20, "batch_size": 256, "width": 32,
            "eval_users": 3000,
        },
        shards=3,
    ),
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
    # What it trains on: prepared data, where it is streamed.
    data: str = "random"


def histories(size: Size) -> Sequences:
    """Random ones; popular items are squares of uniform numbers."""
    drawn = (np.random.default_rng(0).random(size.users * size.events) ** 2) * size.items
    indptr = np.arange(size.users + 1, dtype=np.int64) * size.events
    users, items = ([f"{n}" for n in range(number)] for number in (size.users, size.items))
    return Sequences(indptr, drawn.astype(np.int32) + 1, users, items)


def write_prepared(size: Size, folder: Path) -> None:
    """Random histories as prepared data."""
    of = histories(size)
    users = np.repeat(np.arange(size.users), size.events)
    frame = pl.DataFrame({"user": users, "item": of.items}).select(pl.all().cast(pl.String))
    frame.write_parquet(log := folder / "log.parquet")
    options = Options("polars", size.shards, "leave-one-out", MAX_COUNTED)
    prepare(Log(log, ("user", "item")), folder / "in", Filters(), options, {})


def train(size: Size, data: str) -> dict[str, Any]:
    """Figures of an epoch in this process, in bytes and seconds. data: prepared, or "random"."""
    with tempfile.TemporaryDirectory() as folder:
        config = Config(data=data, out=folder, device="cpu", epochs=1, **size.settings)
        run, description = RunFolder(folder), {"source": "random", "split": config.split}
        if size.shards:
            config = dataclasses.replace(config, stream=True)
            prepared = Prepared.open(data)
            sequences = catalogue_of(prepared)
            memory = foreseen_streamed(config, prepared, sequences)
        else:
            prepared, sequences = None, histories(size)
            memory = foreseen(config, leave_one_out(sequences))
        begin = time.perf_counter()
        Trainer(config, sequences, run, description, quiet=True, prepared=prepared).run()
        peak = peak_memory()
        seconds = time.perf_counter() - begin
    return {**memory._asdict(), "foreseen": memory.peak, "peak": peak, "seconds": seconds}


def measured(name: str) -> dict[str, Any]:
    """The figures of a size, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        data = "random"
        if SIZES[name].shards:
            write_prepared(SIZES[name], Path(folder))
            data = f"{folder}/in"
        return figures(__file__, "--one", name, "--data", data)


def table(found: dict[str, dict[str, Any]]) -> str:
    """The figures in Markdown."""
    lines = [
        "| size | model | users | events each | items | shards | before | foreseen | measured | "
        "ratio |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, of in found.items():
        size = SIZES[name]
        now, foreseen_, peak = (of[key] / 2**20 for key in ("now", "foreseen", "peak"))
        lines.append(
            f"| {name} | {size.settings['model']} | {size.users:,} | {size.events} | "
            f"{size.items:,} | {size.shards or ''} | {now:,.0f} MiB | {foreseen_:,.0f} MiB | "
            f"{peak:,.0f} MiB | {foreseen_ / peak:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    flags = tyro.cli(Flags, description=__doc__)
    if flags.one:
        print(json.dumps(train(SIZES[flags.one], flags.data)))
        return
    found = {}
    for name in flags.sizes.split(","):
        found[name] = measured(name)
        print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    text = (
        "# Memory of training, as foreseen and as measured\n\n"
        f"{machine()}. One epoch of random histories, each size in a process of its own, prepared "
        "and\nstreamed where it has shards; before is what the process has when the memory is "
        f"foreseen.\n`python benchmarks/memory.py --report FILE`\n\n{table(found)}"
    )
    publish(text, flags.report)


if __name__ == "__main__":
    main()
