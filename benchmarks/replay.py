"""A replay, week by week: a run that goes on with each week's events, beside training anew.

    python benchmarks/replay.py --data LOG [--out FILE.md] [--epochs N] [--update-epochs N] [...]

Both arms train on everything up to a moment and are asked for each event of the period after it;
they know the same items, so that targets and candidates are the same. Nothing is held out: the
epochs are given. Time is that of the processor, which other programs on the machine do not use up.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
import tyro

from rka_fast import Run, fit
from rka_fast.data.filters import seconds
from rka_fast.data.readers import read_interactions

METRIC = "ndcg@10"


@dataclass(frozen=True)
class Flags:
    """The command line."""

    data: str
    out: str | None = None
    share: float = 0.8  # of the time span, before the first week
    days: float = 7.0  # of a period
    model: str = "rksa"
    width: int = 32
    blocks: int = 1
    max_length: int = 30
    batch_size: int = 64
    learning_rate: float = 3e-3
    epochs: int = 20  # of training anew
    update_epochs: int = 4  # of going on
    seed: int = 0


class Arm(NamedTuple):
    """One arm in one period: full-ranking NDCG@10 on the period after it, processor seconds."""

    score: float
    seconds: float


class Week(NamedTuple):
    """What came new in a period, what was asked after it, and both arms."""

    events: int
    users: int
    items: int
    asked: int
    updated: Arm
    anew: Arm


def periods(log: pl.DataFrame, share: float, days: float) -> list[pl.DataFrame]:
    """The events up to `share` of the time span, and then of each period; in order of time.

    log: with a column timestamp, in seconds. An empty period is joined to the next.
    """
    log = log.sort("timestamp", maintain_order=True)
    first, last = log["timestamp"].min(), log["timestamp"].max()
    begin = first + share * (last - first)
    number = np.floor((log["timestamp"].to_numpy() - begin) / (days * 86_400)) + 1
    return log.with_columns(period=np.maximum(number, 0)).partition_by(
        "period", maintain_order=True, include_key=False
    )


def replayed(
    parts: list[pl.DataFrame], settings: dict[str, Any], update_epochs: int, folder: Path
) -> Iterator[Week]:
    """Yields a Week for each period that has one after it."""
    run = clocked(parts[0], settings, folder / "first")[0]
    for number in range(1, len(parts) - 1):
        seen, new, later = pl.concat(parts[: number + 1]), parts[number], parts[number + 1]
        before = run.sequences
        more = {"from_run": run, "epochs": update_epochs}
        run, of_update = clocked(new, more, folder / f"updated{number}")
        anew, of_anew = clocked(seen, settings, folder / f"anew{number}")
        assert set(run.sequences.item_ids) == set(anew.sequences.item_ids)
        yield Week(
            len(new),
            run.sequences.num_users - before.num_users,
            run.sequences.num_items - before.num_items,
            asked(later, run),
            Arm(score(run, later), of_update),
            Arm(score(anew, later), of_anew),
        )


def clocked(log: pl.DataFrame, settings: dict[str, Any], out: Path) -> tuple[Run, float]:
    """A run and the processor's seconds that it took, reading and writing included."""
    begin = time.process_time()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        run = fit(log, out=str(out), **settings)
    return run, time.process_time() - begin


def score(run: Run, later: pl.DataFrame) -> float:
    return run.evaluate(later)["full"][METRIC]


def asked(later: pl.DataFrame, run: Run) -> int:
    """How many events are asked for: of known items, after one that their user had."""
    known = later.filter(pl.col("item").is_in(run.sequences.item_ids))
    new = known.filter(~pl.col("user").is_in(run.sequences.user_ids))
    return len(known) - new["user"].n_unique()


def report(weeks: list[Week], flags: Flags, facts: str) -> str:
    """The table, with the mean of the paired differences and its standard error over the weeks."""
    lines = [
        "# Going on from a run, beside training anew",
        "",
        facts,
        "",
        "| week | new events | new users | new items | asked | NDCG@10 going on | anew "
        "| difference | seconds going on | anew |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for number, week in enumerate(weeks, start=1):
        up, anew = week.updated, week.anew
        lines.append(
            f"| {number} | {week.events:,} | {week.users:,} | {week.items:,} | {week.asked:,} "
            f"| {up.score:.4f} | {anew.score:.4f} | {up.score - anew.score:+.4f} "
            f"| {up.seconds:.1f} | {anew.seconds:.1f} |"
        )
    differences = np.array([week.updated.score - week.anew.score for week in weeks])
    error = differences.std(ddof=1) / len(weeks) ** 0.5 if len(weeks) > 1 else np.nan
    up, anew = (sum(getattr(w, arm).seconds for w in weeks) for arm in ("updated", "anew"))
    lines += [
        "",
        f"Going on less anew: {differences.mean():+.4f} NDCG@10 on average over the weeks, "
        f"standard error {error:.4f}; better in {(differences > 0).sum()} of {len(weeks)} weeks. "
        f"Processor seconds of all weeks: {up:.0f} and {anew:.0f}, a ratio of {up / anew:.2f}.",
        "",
        f"Settings: {', '.join(f'{f.name} {getattr(flags, f.name)}' for f in fields(flags)[2:])}.",
        "",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    flags = tyro.cli(Flags, args=argv, description=__doc__)
    read = read_interactions(flags.data)
    time = seconds(read.frame["timestamp"].to_numpy(), read.dated)
    log = read.frame.select(pl.col("user", "item").cast(pl.String))
    log = log.with_columns(timestamp=pl.Series(time))
    parts = periods(log, flags.share, flags.days)
    names = ("width", "blocks", "max_length", "batch_size", "learning_rate", "epochs", "seed")
    settings = {name: getattr(flags, name) for name in names}
    settings |= {"model": flags.model, "split": "none", "device": "cpu"}
    weeks = []
    with tempfile.TemporaryDirectory() as folder:
        for week in replayed(parts, settings, flags.update_epochs, Path(folder)):
            weeks.append(week)
            print(week, flush=True)
    facts = (
        f"{Path(flags.data).name}: {len(log):,} events; the first {len(parts[0]):,}, "
        f"{flags.share:.0%} of the time, are the first run's. Every event of the week after is "
        f"asked for, ranked against the whole catalogue. {torch.get_num_threads()} threads."
    )
    text = report(weeks, flags, facts)
    print("\n" + text)
    if flags.out:
        Path(flags.out).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
