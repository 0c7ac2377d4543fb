"""Time and peak memory of preparing a log, by engine and number of events.

    python benchmarks/preparing.py [--events N,N] [--engines NAME,NAME] [--report FILE]

Random histories, the events of a day in a file. Each measurement is a process of its own, whose
memory, that of the processes it starts included, is looked at ten times a second. "memory" is what
training on the log itself does: reading and filtering in memory, and counting.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import tyro
from processes import environment
from publishing import publish

from rka_fast.commands import machine
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.filters import Filters, build_sequences
from rka_fast.data.preparing import Options, prepare
from rka_fast.data.readers import Log, read_interactions
from rka_fast.data.split_rules import leave_one_out

EVENTS_EACH, ITEMS, OF_DAY = 20, 50_000, 1_000_000
MEMORY = "memory"


@dataclass(frozen=True)
class Flags:
    """The command line."""

    # Numbers of events, with commas between.
    events: str = "1000000,4000000,16000000"
    # Engines, and "memory", with commas between.
    engines: str = "memory,polars,duckdb,spark"
    # Write the table to this file.
    report: str | None = None
    # Do this here: an engine, a log, and "counts" or "no", with commas between.
    one: str | None = None


def write_log(folder: Path, events: int) -> None:
    """Days of events; popular items are squares of uniform numbers."""
    rng, users = np.random.default_rng(0), events // EVENTS_EACH
    for day in range(-(-events // OF_DAY)):
        count = min(OF_DAY, events - day * OF_DAY)
        frame = pl.DataFrame(
            {
                "user_id": rng.integers(0, users, count),
                "item_id": (rng.random(count) ** 2 * ITEMS).astype(np.int64),
                "timestamp": 1_500_000_000 + 86_400 * day + rng.integers(0, 86_400, count),
            }
        )
        frame.write_parquet(folder / f"{day:04}.parquet")


def work(engine: str, log: str, counts: str) -> None:
    """One preparation, in this process."""
    if engine == MEMORY:
        sequences, _ = build_sequences(read_interactions(log), Filters())
        if counts == "counts":
            CoOccurrence.from_split(leave_one_out(sequences))
        return
    split = "leave-one-out" if counts == "counts" else None
    with tempfile.TemporaryDirectory(dir=Path(log).parent) as folder:
        options = Options(engine, None, split, 5000)
        prepare(Log(log), Path(folder) / "out", Filters(), options, {})


def tree(process: int) -> list[int]:
    """A process and all that it has started, by their numbers."""
    found = [process]
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += tree(int(child))
    return found


def resident(processes: list[int]) -> int:
    """Bytes of memory that processes have."""
    pages = 0
    for process in processes:
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measured(engine: str, log: Path, counts: str) -> tuple[float, int]:
    """Seconds and peak bytes of one preparation in a process of its own."""
    command = [sys.executable, __file__, "--one", f"{engine},{log},{counts}"]
    begin, peak = time.perf_counter(), 0
    running = subprocess.Popen(command, env=environment())
    while running.poll() is None:
        peak = max(peak, resident(tree(running.pid)))
        time.sleep(0.1)
    if running.returncode:
        raise RuntimeError(f"{engine} has failed on {log}")
    return time.perf_counter() - begin, peak


def main() -> None:
    flags = tyro.cli(Flags, description=__doc__)
    if flags.one:
        work(*flags.one.split(","))
        return
    lines = [
        "| events | log | engine | seconds | peak | with counts: seconds | peak |",
        "| --: | --: | --- | --: | --: | --: | --: |",
    ]
    for events in map(int, flags.events.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            log.mkdir()
            write_log(log, events)
            size = sum(path.stat().st_size for path in log.iterdir()) / 2**20
            for engine in flags.engines.split(","):
                found = {counts: measured(engine, log, counts) for counts in ("no", "counts")}
                cells = " | ".join(f"{s:,.0f} | {m / 2**20:,.0f} MiB" for s, m in found.values())
                lines.append(f"| {events:,} | {size:,.0f} MiB | {engine} | {cells} |")
                print(json.dumps({"events": events, "engine": engine, **found}), flush=True)
    table = "\n".join(lines)
    text = (
        f"# Preparing logs\n\n{machine()}. {ITEMS:,} items, {EVENTS_EACH} events a user, Parquet "
        f"of {OF_DAY:,} events a file;\nstarting the program is part of the time. `python "
        f"benchmarks/preparing.py --report FILE`\n\n{table}\n"
    )
    publish(text, flags.report)


if __name__ == "__main__":
    main()
