"""Search for the settings that validate best: rka-fast tune --data FILE --trials N.

Takes the flags of rka-fast train, which all trials share, and searches by --search or --space, or
what the model's default space has. Each trial is a run folder of its own under --out. Stopped or
killed at any point, the same command goes on to N finished trials.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import tyro

from rka_fast.commands import exit_status, machine
from rka_fast.errors import ConfigError
from rka_fast.files import (
    check_writable,
    locked,
    markdown_code,
    remove_leftovers,
    stem,
    to_json,
    write_atomically,
    write_output,
)
from rka_fast.training.assemble import load_data
from rka_fast.training.config import Config
from rka_fast.training.flags import parse_with
from rka_fast.training.report import result_table
from rka_fast.training.sizing import with_loss_for

if TYPE_CHECKING:
    import polars as pl
    from optuna.trial import FrozenTrial

    from rka_fast.data.readers import Interactions
    from rka_fast.tuning.study import Tuning

NEEDED = ("optuna", "sklearn")
Pruner = Literal["median", "hyperband", "none"]
STOPPED = "stopped, everything is kept; the same command goes on from here"


@dataclass(frozen=True)
class Flags:
    """The flags beside those of train."""

    # Trials to finish.
    trials: int = 20
    # What to search: NAME=A,B,C or NAME=LOW..HIGH or NAME=LOW..HIGH:log; may be repeated.
    search: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    # JSON file of what to search: {"NAME": [A, B], "NAME": {"low": A, "high": B, "log": true}}.
    space: str | None = None
    # Ends trials that validate badly: below the median of the others at the same epoch, by
    # Hyperband, or never.
    pruner: Pruner = "median"


def check_installed() -> None:
    """Raises ConfigError where what only tuning needs is not installed."""
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        raise ConfigError(
            "rka-fast tune needs optuna and scikit-learn; pip install optuna scikit-learn, or "
            "rka_fast with its extra: pip install '.[tune]'"
        )


def tune(
    config: Config,
    search: Mapping[str, Any],
    trials: int,
    pruner: str,
    command: str,
    chosen: bool = True,
    interactions: Mapping[str, Interactions] | None = None,
    features: pl.DataFrame | None = None,
) -> Tuning:
    """Run trials until so many have ended, write what came out, and return the study.

    config: what all trials share; its `out` is the folder. search, pruner: see `make_space` and
    `Tuning`. command: what the report says it was made with. chosen, interactions, features: see
    `train`. Raises ConfigError where optuna is missing or the search does not fit, and what
    `Tuning` raises.
    """
    check_installed()
    from rka_fast.tuning.space import make_space
    from rka_fast.tuning.study import Tuning

    if not isinstance(trials, Integral) or trials < 1:
        raise ConfigError(f"trials must be a whole number, at least 1, got {trials!r}")
    if pruner not in get_args(Pruner):
        raise ConfigError(f"pruner {pruner!r}: expected {', '.join(get_args(Pruner))}")
    for name in ("track", "from_run"):  # nothing would come of them
        if (value := getattr(config, name)) is not None:
            raise ConfigError(f"{name} {value!r} is of a single run, not of trials; leave it out")
    if config.split == "none":
        raise ConfigError("split 'none' holds nothing out to choose by; give another --split")
    space = make_space(config, search)
    out = Path(config.out or Path("runs") / f"tune-{stem(config.data)}-{config.model}")
    for path in (out / "table.md", config.json):
        if path:
            check_writable(path)
    sequences, description, lines = load_data(config, interactions, features)
    if not chosen and "loss" not in space:
        config, more = with_loss_for(config, sequences.num_items)
        lines += more
    print("\n".join(lines), flush=True)
    facts = {"command": markdown_code(command), "machine": machine()}
    with locked(out):
        remove_leftovers(out)
        tuning = Tuning(out, config, space, pruner, sequences, description)
        try:
            while len(tuning.done) < trials:
                _tell(tuning, tuning.next(), trials)
        finally:  # also when stopped
            write(tuning, facts)
    return tuning


def _tell(tuning: Tuning, trial: FrozenTrial, trials: int) -> None:
    from rka_fast.tuning.report import rows, short

    row = next(row for row in rows(tuning) if row["trial"] == trial.number)
    score = "" if row["score"] is None else f" {row['score']:.4f}"
    settings = ", ".join(f"{name} {short(value)}" for name, value in row["settings"].items())
    what = row.get("error") or f"best epoch {row['best_epoch']} of {row['epochs']}"
    print(
        f"trial {trial.number} of {trials}: {row['state']}{score} ({what}): {settings}", flush=True
    )


def write(tuning: Tuning, facts: dict[str, str]) -> None:
    """Write the table, its JSON, the picture, and the best settings as config.json."""
    from rka_fast.tuning import report

    found = report.importances(tuning)
    text = to_json({"trials": report.rows(tuning), "importances": found})
    write_atomically(tuning.out / "trials.json", text)
    if tuning.base.json:
        write_output(tuning.base.json, text)
    write_atomically(tuning.out / "table.md", report.markdown(tuning, found, facts))
    if (picture := report.png(tuning, found)) is not None:
        write_atomically(tuning.out / "importances.png", picture)
    if tuning.best is not None:
        best = dataclasses.replace(tuning.config(tuning.best), out=None)
        write_atomically(tuning.out / "config.json", to_json(best.to_json()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0; 1 if no trial was trained to its end; 2 for a mistake; 130."""
    given = list(sys.argv[1:] if argv is None else argv)
    command = shlex.join(["rka-fast", "tune", *given])

    def run() -> int:
        settings, flags = parse_with(Flags, given, "rka-fast tune", __doc__)
        for note in settings.notes:
            print(note, file=sys.stderr)
        check_installed()
        from rka_fast.tuning.space import asked

        search = asked(flags.space, flags.search)
        tuning = tune(settings.config, search, flags.trials, flags.pruner, command, settings.chosen)
        print("\n" + (tuning.out / "table.md").read_text(encoding="utf-8"), flush=True)
        if tuning.best is None:
            print("no trial was trained to its end", file=sys.stderr)
            return 1
        from rka_fast.reproduction.cells import Cell

        best = Cell("best", tuning.config(tuning.best))
        print(result_table(best.folder.read_json("result.json")))
        print(f"\nthe best settings: rka-fast train --config {tuning.out / 'config.json'}")
        return 0

    return exit_status(run, stopped=STOPPED)


if __name__ == "__main__":
    sys.exit(main())
