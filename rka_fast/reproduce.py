"""Make the paper's table from data files: every model on every data set, over several seeds.

python -m rka_fast.reproduce --datasets citeulike,games --models all --seeds 3 --data-dir DIR
python -m rka_fast.reproduce --data FILE   (the same table for your own log)

Each model, data set and seed is a cell with a run folder of its own under --out. Stopped at any
point, the same command goes on: finished cells are kept, the one in progress is resumed.
"""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from tqdm import tqdm

from rka_fast.errors import ConfigError, DataError, Interrupted, TrainingError, UserError
from rka_fast.models import MODELS
from rka_fast.reproduction import cells as cells_
from rka_fast.reproduction import figure, paper, tables
from rka_fast.reproduction.cells import Cell
from rka_fast.reproduction.datasets import DATASETS, Dataset, own_log
from rka_fast.reproduction.names import choose
from rka_fast.reproduction.outcome import Outcome
from rka_fast.training.checkpoint import write_atomically
from rka_fast.training.run_folder import check_writable, to_json
from rka_fast.training.source import load_data


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    # Comma-separated data sets, or all; by default all, and none beside --data.
    datasets: str | None = None
    # Comma-separated models, or all.
    models: str = "all"
    # Seeds 0, 1, ... of every model; a seed decides the sampled negatives too.
    seeds: int = 3
    # Folder with the files of the data sets.
    data_dir: str = "data"
    # Your own log, in any form that rka_fast.train reads.
    data: str | None = None
    # Folder of the run folders and of table.md, table.csv, figure.png and result.json.
    out: str = "runs/reproduce"
    # Write result.json to this file too.
    json: str | None = None
    # Hold out every user's last two events, or what came after two points in time.
    split: Literal["leave-one-out", "time"] = "leave-one-out"
    # At most this many epochs, where a model has not fewer of its own; default 200.
    epochs: int | None = None
    # A setting of rka_fast.train for all models, or MODEL.NAME=VALUE for one; may be repeated.
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()


@dataclass
class Study:
    """One run of the command: where it writes, and what has come out so far."""

    out: Path
    json: str | None
    facts: dict[str, str]
    not_run: dict[str, str]
    outcomes: list[Outcome]

    def write(self) -> None:
        """Write the tables, the figure and the JSON of what is finished."""
        result = to_json({o.dataset.name: o.to_json() for o in self.outcomes if o.models})
        write_atomically(self.out / "result.json", result)
        if self.json:
            Path(self.json).write_text(result, encoding="utf-8")
        text = tables.markdown(self.outcomes, self.not_run, self.facts)
        write_atomically(self.out / "table.md", text)
        write_atomically(self.out / "table.csv", tables.csv_text(self.outcomes))
        if any(outcome.models for outcome in self.outcomes):
            write_atomically(self.out / "figure.png", figure.png(self.outcomes))


def reproduce(arguments: Arguments, command: str) -> Study:
    """Run every cell that is not finished, write the outputs, and return what came out.

    command: what the report says it was made with. Raises ConfigError, DataError and FolderError
    for what cannot be run, before anything is (but for folders with runs on other data, which are
    found when it is their turn), and Interrupted or KeyboardInterrupt when stopped.
    """
    if arguments.seeds < 1:
        raise ConfigError(f"seeds must be at least 1, got {arguments.seeds}")
    order = [*paper.MODELS, *MODELS]
    models = sorted(choose(arguments.models, MODELS, "model"), key=order.index)
    overrides = cells_.parse_overrides(arguments.set)
    found, not_run = _find(arguments)
    out, seeds, split = Path(arguments.out), arguments.seeds, arguments.split
    plans = [
        (
            dataset,
            cells_.plan(dataset, data, models, seeds, split, out, overrides, arguments.epochs),
        )
        for dataset, data in found
    ]
    for path in (out / "table.md", arguments.json):
        if path:
            check_writable(path)
    study = Study(out, arguments.json, _facts(arguments, command), not_run, [])
    with tqdm(total=sum(len(c) for _, c in plans), unit="cell", dynamic_ncols=True) as bar:
        for dataset, cells in plans:
            try:
                _run_dataset(study, dataset, cells, bar)
            finally:  # also when stopped
                study.write()
    return study


def _find(arguments: Arguments) -> tuple[list[tuple[Dataset, str]], dict[str, str]]:
    """The data sets asked for with their files, and by name why the others are not run."""
    wanted = "all" if arguments.datasets is None else arguments.datasets
    own_only = arguments.data and arguments.datasets is None
    names = [] if own_only else choose(wanted, DATASETS, "data set")
    found, not_run = [], {}
    for dataset in (DATASETS[name] for name in names):
        if files := dataset.find(Path(arguments.data_dir)):
            found.append((dataset, ",".join(map(str, files))))
        else:
            not_run[dataset.name] = (
                f"{', '.join(dataset.files)} not found in {arguments.data_dir}; "
                f"get it from {dataset.source}"
            )
            print(f"not run: {dataset.name}: {not_run[dataset.name]}", flush=True)
    if arguments.data:
        found.append((own_log(arguments.data), arguments.data))
    if not found:
        raise DataError(
            f"no data set found in {arguments.data_dir}; give --data-dir, or --data FILE"
        )
    return found, not_run


def _run_dataset(study: Study, dataset: Dataset, cells: list[Cell], bar: tqdm) -> None:
    """Run the cells of one data set, whose data is loaded once."""
    try:
        sequences, data, lines = load_data(cells[0].config)
    except DataError as error:
        study.not_run[dataset.name] = str(error)
        _say(f"not run: {dataset.name}: {error}")
        bar.update(len(cells))
        return
    _say("\n".join(lines))
    outcome = Outcome(dataset, data, planned=len(cells))
    study.outcomes.append(outcome)
    for cell in cells:
        bar.set_description(cell.name)
        kept = cell.finished
        try:
            result = cells_.run(cell, sequences, data)
        except (DataError, TrainingError) as error:  # the other cells are still wanted
            outcome.failures[cell.name] = str(error)
            _say(f"failed: {cell.name}: {error}")
        else:
            ranks = cell.folder.read_ranks()
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


def _facts(arguments: Arguments, command: str) -> dict[str, str]:
    split = {
        "leave-one-out": "leave-one-out: a user's last event tests, the one before validates",
        "time": "by time: events before one point train, each user's next after it and after a "
        "second point validate and test",
    }[arguments.split]
    return {
        "command": f"`{command}`",
        "split": split,
        "seeds": ", ".join(map(str, range(arguments.seeds))),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }


def machine() -> str:
    """Processor, threads, GPU if there is one, and the version of torch."""
    name = platform.processor()
    info = Path("/proc/cpuinfo")  # where Linux has the name that `platform` does not know
    if info.is_file():
        lines = info.read_text().splitlines()
        name = next((x.partition(":")[2].strip() for x in lines if "model name" in x), name)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    threads = f"{torch.get_num_threads()} threads"
    return f"{name or platform.machine()}, {threads}{gpu}, torch {torch.__version__}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0; 1 if a cell failed; 2 for a user's mistake; 130 if stopped."""
    given = list(sys.argv[1:] if argv is None else argv)
    command = shlex.join(["python", "-m", "rka_fast.reproduce", *given])
    arguments = tyro.cli(
        Arguments, args=given, prog="python -m rka_fast.reproduce", description=__doc__
    )

    def run() -> int:
        study = reproduce(arguments, command)
        print((study.out / "table.md").read_text(encoding="utf-8"), flush=True)
        if not study.outcomes:
            raise DataError("no data set could be run")
        return 1 if any(outcome.failures for outcome in study.outcomes) else 0

    return without_traceback(run)


def without_traceback(run: Callable[[], int]) -> int:
    """The exit status of a command; a user's mistakes are told in one line."""
    try:
        return run()
    except (UserError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt):
        print("\nstopped, everything is kept; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
