"""Make the paper's table from data files: every model on every data set, over several seeds.

rka-fast reproduce --datasets citeulike,games --models all --seeds 3 --data-dir DIR
rka-fast reproduce --data FILE   (the same table for your own log)

Each model, data set and seed is a cell with a run folder of its own under --out. Stopped at any
point, the same command goes on: finished cells are kept, the one in progress is resumed.
"""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from rka_fast.commands import choose, exit_status, machine, parse
from rka_fast.data.split_rules import SPLITS, SplitName
from rka_fast.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FolderError,
    TrainingError,
)
from rka_fast.files import (
    check_writable,
    locked,
    markdown_code,
    remove_leftovers,
    to_json,
    write_atomically,
    write_output,
)
from rka_fast.models import MODELS
from rka_fast.reproduction import figure, paper, tables
from rka_fast.reproduction.cells import Cell, parse_overrides, plan, run_cell
from rka_fast.reproduction.datasets import DATASETS, Dataset, own_log
from rka_fast.reproduction.results import Outcome
from rka_fast.training.assemble import load_data


@dataclass(frozen=True)
class Flags:
    """The command line."""

    # Comma-separated data sets, or all; by default all, and none beside --data.
    datasets: str | None = None
    # Comma-separated models, or all.
    models: str = "all"
    # Seeds 0, 1, ... of every model; a seed decides the sampled negatives too.
    seeds: int = 3
    # Folder with the files of the data sets.
    data_dir: str = "data"
    # Your own log, in any form that rka-fast train reads.
    data: str | None = None
    # Folder of the run folders and of table.md, table.csv, figure.png and result.json.
    out: str = "runs/reproduce"
    # Write result.json to this file too.
    json: str | None = None
    # Hold out every user's last two events, or what came after two points in time.
    split: SplitName = "leave-one-out"
    # A user's events at one time: as in rka-fast train.
    ties: Literal["file", "shuffle", "drop"] = "file"
    # Hide what a person has had, or keep every item a candidate: as in rka-fast train.
    seen: Literal["hide", "keep"] = "hide"
    # At most this many epochs, unless the model's own default is lower; default 200.
    epochs: int | None = None
    # A setting of rka-fast train for the models that read it, or MODEL.NAME=VALUE for one; may be
    # repeated.
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()


@dataclass
class Study:
    """One run of the command: where it writes, and what has come out so far."""

    out: Path
    json: str | None
    facts: dict[str, str]
    not_run: dict[str, str]
    outcomes: list[Outcome]
    damaged: bool = False  # whether a cell's folder could not be used

    def write(self) -> None:
        """Write the tables, the figure and the JSON of what is finished."""
        result = to_json({o.dataset.name: o.to_json() for o in self.outcomes if o.scores})
        write_atomically(self.out / "result.json", result)
        if self.json:
            write_output(self.json, result)
        text = tables.markdown(self.outcomes, self.not_run, self.facts)
        write_atomically(self.out / "table.md", text)
        write_atomically(self.out / "table.csv", tables.csv_text(self.outcomes))
        if any(outcome.scores for outcome in self.outcomes):
            write_atomically(self.out / "figure.png", figure.png(self.outcomes))


def reproduce(flags: Flags, command: str) -> Study:
    """Run every cell that is not finished, write the outputs, and return what came out.

    command: what the report says it was made with. Raises ConfigError, DataError and FolderError
    for what cannot be run, before anything is (but for folders with runs on other data, which are
    found when it is their turn), and Interrupted or KeyboardInterrupt when stopped.
    """
    if flags.seeds < 1:
        raise ConfigError(f"seeds must be at least 1, got {flags.seeds}")
    order = [*paper.PAPER_MODELS, *MODELS]
    models = sorted(choose(flags.models, MODELS, "model"), key=order.index)
    overrides = parse_overrides(flags.set, models)
    overrides[""] = {"ties": flags.ties, "seen": flags.seen, **overrides.get("", {})}
    found, not_run = _find(flags)
    out, seeds, split = Path(flags.out), flags.seeds, flags.split
    plans = [
        (
            dataset,
            plan(dataset, source, models, seeds, split, out, overrides, flags.epochs),
        )
        for dataset, source in found
    ]
    for path in (out / "table.md", flags.json):
        if path:
            check_writable(path)
    study = Study(out, flags.json, _facts(flags, command), not_run, [])
    with (
        locked(out),
        tqdm(total=sum(len(c) for _, c in plans), unit="cell", dynamic_ncols=True) as bar,
    ):
        remove_leftovers(out)
        for dataset, cells in plans:
            try:
                _run_dataset(study, dataset, cells, bar)
            finally:  # also when stopped
                study.write()
    return study


def _find(flags: Flags) -> tuple[list[tuple[Dataset, str]], dict[str, str]]:
    """The data sets asked for with their files, and by name why the others are not run."""
    wanted = "all" if flags.datasets is None else flags.datasets
    own_only = flags.data and flags.datasets is None
    names = [] if own_only else choose(wanted, DATASETS, "data set")
    found, not_run = [], {}
    for dataset in (DATASETS[name] for name in names):
        if files := dataset.find(Path(flags.data_dir)):
            found.append((dataset, ",".join(map(str, files))))
        else:
            not_run[dataset.name] = (
                f"{', '.join(dataset.files)} not found in {flags.data_dir}; "
                f"get it from {dataset.source}"
            )
            print(f"not run: {dataset.name}: {not_run[dataset.name]}", flush=True)
    if flags.data:
        found.append((own_log(flags.data), flags.data))
    if not found:
        raise DataError(f"no data set found in {flags.data_dir}; give --data-dir, or --data FILE")
    return found, not_run


def _run_dataset(study: Study, dataset: Dataset, cells: list[Cell], bar: tqdm) -> None:
    """Run the cells of one data set, whose data is loaded once."""
    try:
        sequences, description, lines = load_data(cells[0].config)
    except DataError as error:
        study.not_run[dataset.name] = str(error)
        _say(f"not run: {dataset.name}: {error}")
        bar.update(len(cells))
        return
    cells = [cell.sized(sequences.num_items) for cell in cells]
    if sampled := {c.config.model for c in cells if not c.chosen and c.config.loss == "sampled_ce"}:
        lines.append(
            f"loss: sampled_ce for {', '.join(sorted(sampled))}, chosen for "
            f"{sequences.num_items:,} items; --set loss=ce compares with all of them"
        )
    _say("\n".join(lines))
    outcome = Outcome(dataset, description, planned=len(cells))
    study.outcomes.append(outcome)
    popularity: dict[int, dict] = {}
    for cell in cells:
        bar.set_description(cell.name)
        kept = cell.finished
        try:
            result = run_cell(cell, sequences, description, popularity=popularity)
            ranks = cell.folder.read_ranks()
        except (DataError, TrainingError, FolderError, CheckpointError) as error:
            outcome.failures[cell.name] = str(error)  # the other cells are still wanted
            study.damaged |= isinstance(error, (FolderError, CheckpointError))
            _say(f"failed: {cell.name}: {error}")
        else:
            outcome.add(cell.config.model, cell.config.seed, result, ranks)
            scores, seconds = result["test"], result["seconds"]
            _say(
                f"{cell.name}: NDCG@10 {scores['sampled']['ndcg@10']:.4f} sampled "
                f"{scores['full']['ndcg@10']:.4f} full, best epoch {result['best_epoch']}, "
                f"{seconds['train'] + seconds['eval']:.1f} s" + (" (kept)" if kept else "")
            )
        bar.update()


def _say(text: str) -> None:
    with tqdm.external_write_mode():
        print(text, flush=True)


_TIES = {
    "file": "in the order of the file",
    "shuffle": "shuffled, the same for all seeds",
    "drop": "the first of each",
}


def _facts(flags: Flags, command: str) -> dict[str, str]:
    return {
        "command": markdown_code(command),
        "split": SPLITS[flags.split].rule,
        "candidates": "every item" if flags.seen == "keep" else "what a person has not had",
        "ties in time": _TIES[flags.ties],
        "seeds": ", ".join(map(str, range(flags.seeds))),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit status.

    0; 1 if a cell failed; 2 for a user's mistake or a damaged run folder; 130 if stopped.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    command = shlex.join(["python", "-m", "rka_fast.reproduce", *given])

    def run() -> int:
        flags = parse(Flags, given, "rka-fast reproduce", __doc__, "did you mean --data {0}?")
        study = reproduce(flags, command)
        print((study.out / "table.md").read_text(encoding="utf-8"), flush=True)
        if not study.outcomes:
            raise DataError("no data set could be run")
        failed = any(outcome.failures for outcome in study.outcomes)
        return 2 if study.damaged else 1 if failed else 0

    return exit_status(
        run, stopped="stopped, everything is kept; the same command goes on from here"
    )


if __name__ == "__main__":
    sys.exit(main())
