"""Time and peak memory of every stage from a log to a trained model, over the number of events.

    python benchmarks/scale.py [--millions 1,5,20] [--stages NAME,NAME] [--report FILE]

Users and items of a generated log follow Zipf's law, with the exponents .5 and 1: 50 events a user
and one for a thousand times as many as another, one item for every twenty events up to a million
items. Each stage is a process of its own, which begins with what the one before has made.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import tyro
from processes import figures, peak_memory
from publishing import publish

from rka_fast.commands import machine
from rka_fast.data.batches import sampled_candidates
from rka_fast.data.counting import Counts, counts_of
from rka_fast.data.filters import Filters, build_sequences
from rka_fast.data.readers import read_interactions
from rka_fast.data.sequences import Sequences
from rka_fast.data.split import STAGES, Split
from rka_fast.data.split_rules import SPLITS
from rka_fast.training.assemble import split_options
from rka_fast.training.config import Config
from rka_fast.training.memory import foreseen, resident
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.sizing import SAMPLED
from rka_fast.training.trainer import Trainer

PART = 5_000_000  # events generated together
USUAL = 50  # events of a user
STEPS = 5
ASKED = 1000  # users in the stage that evaluates
MIB = 2**20


@dataclass(frozen=True)
class Flags:
    """The command line."""

    # Millions of events of each log, with commas between.
    millions: str = "1,5,20"
    # Those to run, with commas between; the ones before must have run in the folder.
    stages: str = "read,split,count,candidates,train,evaluate"
    # Keep logs and sequences here, by default in a temporary folder.
    folder: str | None = None
    # Write the table to this file.
    report: str | None = None
    # Run one stage here and print its figures as JSON.
    one: str | None = None


class Found(NamedTuple):
    """What a stage made: its bytes, and a word on it."""

    size: int
    note: str


def generate(path: Path, events: int) -> None:
    """Write a log in the order of time."""
    rng, users = np.random.default_rng(0), events // USUAL
    items = min(1_000_000, events // 20)
    shares = [np.cumsum(np.arange(1, n + 1) ** -e) for n, e in ((users, 0.5), (items, 1.0))]
    names = [rng.permutation(len(share)) for share in shares]
    temporary = path.with_suffix(".part")
    with open(temporary, "wb") as file:
        for begin in range(0, events, PART):
            size = min(PART, events - begin)
            drawn = [
                name[np.searchsorted(share, rng.random(size) * share[-1])]
                for share, name in zip(shares, names, strict=True)
            ]
            seconds = 1_400_000_000 + np.arange(begin, begin + size) // 4
            columns = dict(zip(("user", "item", "timestamp"), (*drawn, seconds), strict=True))
            pl.DataFrame(columns).write_csv(file, include_header=begin == 0)
    temporary.rename(path)


def keep(sequences: Sequences, folder: Path) -> None:
    """Write sequences so that reading them takes no more memory than they do."""
    for name in ("indptr", "items", "timestamps"):
        np.save(folder / f"{name}.npy", getattr(sequences, name))
    (folder / "ids.json").write_text(json.dumps([sequences.user_ids, sequences.item_ids]))


def kept(folder: Path) -> Sequences:
    """What `keep` wrote."""
    indptr, items, timestamps = (
        np.load(folder / f"{name}.npy") for name in ("indptr", "items", "timestamps")
    )
    users, names = json.loads((folder / "ids.json").read_text())
    return Sequences(indptr, items, users, names, timestamps)


def config_of(folder: Path, **more: Any) -> Config:
    settings = {**SAMPLED, "data": str(folder / "log.csv"), "out": str(folder / "run"), **more}
    return Config(model="rksa", device="cpu", **settings)


def split_of(folder: Path) -> Split:
    config = config_of(folder)
    return SPLITS[config.split](kept(folder), split_options(config))


def size_of(sequences: Sequences) -> int:
    arrays = (sequences.indptr, sequences.items, sequences.timestamps)
    names = (sequences.user_ids, sequences.item_ids)
    texts = sum(8 * len(ids) + sum(map(sys.getsizeof, ids)) for ids in names)
    return texts + sum(array.nbytes for array in arrays if array is not None)


def counts_size(counts: Counts) -> int:
    return sum(getattr(counts, field.name).nbytes for field in fields(counts))


def read(folder: Path) -> tuple[Callable[[], Any], Callable[[Any], Found]]:
    log = folder / "log.csv"

    def told(sequences: Sequences) -> Found:
        keep(sequences, folder)
        note = f"{sequences.num_users:,} users, {sequences.num_items:,} items"
        return Found(size_of(sequences), f"file {log.stat().st_size / MIB:,.0f} MiB, {note}")

    return lambda: build_sequences(read_interactions(log), Filters(), consume=True)[0], told


def split(folder: Path) -> tuple[Callable[[], Any], Callable[[Any], Found]]:
    config, sequences = config_of(folder), kept(folder)

    def make() -> Split:
        made = SPLITS[config.split](sequences, split_options(config))
        _ = made.training_items, made.no_candidates("valid"), made.no_candidates("test")
        return made

    def told(made: Split) -> Found:
        return Found(made.training_items.nbytes, f"{len(made.valid.users):,} users evaluated")

    return make, told


def count(folder: Path) -> tuple[Callable[[], Any], Callable[[Any], Found]]:
    made = split_of(folder)
    return lambda: counts_of(made), lambda counts: Found(counts_size(counts), type(counts).__name__)


def candidates(folder: Path) -> tuple[Callable[[], Any], Callable[[Any], Found]]:
    made = split_of(folder)
    return lambda: [sampled_candidates(made, stage) for stage in STAGES], lambda drawn: Found(
        sum(array.nbytes for array in drawn), f"{len(drawn[0]):,} targets"
    )


def trainer_of(folder: Path, sequences: Sequences | None = None) -> Trainer:
    config = config_of(folder, eval_users=ASKED)
    description = {"source": config.data, "split": config.split}
    sequences = sequences or kept(folder)
    return Trainer(config, sequences, RunFolder(config.run_dir), description, quiet=True)


def train(folder: Path) -> tuple[Callable[[], Any], Callable[[Any], Found]]:
    config, sequences = config_of(folder, eval_users=ASKED), kept(folder)
    told_before = foreseen(config, SPLITS[config.split](sequences, split_options(config)))

    def make() -> tuple[Trainer, list[float]]:
        trainer, seconds = trainer_of(folder, sequences), []
        for _ in range(STEPS):
            begin = time.perf_counter()
            trainer._step([])
            trainer.progress.step += 1
            seconds.append(time.perf_counter() - begin)
        trainer.folder.path.mkdir(exist_ok=True)
        trainer._save(trainer.folder.last)
        return trainer, seconds

    def told(made: tuple[Trainer, list[float]]) -> Found:
        trainer, seconds = made
        weights = sum(p.nbytes for p in trainer.model.parameters())
        note = f"{np.median(seconds):.2f} s a step; {STEPS} steps and a checkpoint; foreseen "
        return Found(4 * weights, f"{note}{told_before.peak / MIB:,.0f} MiB in all")

    return make, told


def evaluate(folder: Path) -> tuple[Callable[[], Any], Callable[[Any], Found]]:
    trainer = trainer_of(folder)
    return lambda: trainer.evaluator.ranked(trainer.model, "valid"), lambda ranked: Found(
        ranked.ranks.nbytes + ranked.lists.nbytes, f"{len(ranked.lists):,} targets, full ranking"
    )


MADE = {f.__name__: f for f in (read, split, count, candidates, train, evaluate)}


def run_stage(name: str, folder: Path) -> dict[str, Any]:
    """Figures of a stage in this process, in bytes and seconds.

    The peak is that of the stage: what was there before is made anew first, and the operating
    system's mark of the peak reset where it can be.
    """
    make, told = MADE[name](folder)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before, begin = resident(), time.perf_counter()
    made = make()
    seconds, peak = time.perf_counter() - begin, peak_memory()
    size, note = told(made)
    return {"before": before, "peak": peak, "seconds": seconds, "size": size, "note": note}


def table(found: list[tuple[str, str, dict[str, Any]]]) -> str:
    """The figures in Markdown."""
    lines = [
        "| million events | stage | seconds | before | adds at its peak | leaves | |",
        "| --: | --- | --: | --: | --: | --: | --- |",
    ]
    for millions, stage, of in found:
        before, peak, size = (of[key] / MIB for key in ("before", "peak", "size"))
        lines.append(
            f"| {millions} | {stage} | {of['seconds']:,.1f} | {before:,.0f} MiB | "
            f"{peak - before:,.0f} MiB | {size:,.0f} MiB | {of['note']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    flags = tyro.cli(Flags, description=__doc__)
    if flags.one:
        print(json.dumps(run_stage(flags.one, Path(flags.folder or "."))))
        return
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for millions in flags.millions.split(","):
            folder = Path(flags.folder or temporary) / millions
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "log.csv").exists():
                generate(folder / "log.csv", int(float(millions) * 1e6))
            for stage in flags.stages.split(","):
                taken = figures(__file__, "--one", stage, "--folder", str(folder))
                found.append((millions, stage, taken))
                print(millions, stage, json.dumps(taken), file=sys.stderr, flush=True)
    text = (
        "# Time and memory of every stage, over the number of events\n\n"
        f"{machine()}. RKSA with its defaults, and {SAMPLED['loss']} with negatives shared by a\n"
        "sequence. "
        "Before is what the process has when the stage begins, with what it works on.\n"
        f"`python benchmarks/scale.py --report FILE`\n\n{table(found)}"
    )
    publish(text, flags.report)


if __name__ == "__main__":
    main()
