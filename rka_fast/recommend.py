"""Recommend items from a finished or interrupted run.

rka-fast recommend RUN --user ID --top 10
rka-fast recommend RUN --history ID,ID,...   (a person not seen in training)
rka-fast recommend RUN --history-file FILE --out recs.csv
rka-fast recommend RUN --all --out recs.parquet   (stopped, the same command goes on)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
import tyro

from rka_fast.commands import exit_status, parse
from rka_fast.errors import ConfigError, printable
from rka_fast.files import to_json
from rka_fast.recommending.asked import read_histories, read_ids
from rka_fast.recommending.histories import seconds
from rka_fast.recommending.output import form_of
from rka_fast.recommending.plan import Plan
from rka_fast.run import Run


@dataclass(frozen=True)
class Asked:
    """What is asked of a run about somebody, on any command line."""

    # Run folder of rka-fast train.
    run: tyro.conf.Positional[str]
    # Id of a user of the data.
    user: str | None = None
    # Item ids, oldest first, separated by commas, or as a JSON list: the history of anyone.
    history: str | None = None
    # When the events of the history happened, separated by commas, where the model reads times:
    # ISO dates or seconds since 1970.
    times: str | None = None
    # When it is asked, where the model reads times: ISO date or seconds since 1970; default now.
    at: str | None = None
    # Titles of items: a table with columns item,title, or MovieLens' movies.dat or u.item.
    titles: str | None = None


@dataclass(frozen=True)
class Flags(Asked):
    """The command line."""

    # Histories: CSV, TSV or Parquet with columns user,item[,timestamp], or JSON, or JSON lines.
    history_file: str | None = None
    # Everybody in the data.
    all: tyro.conf.FlagCreatePairsOff[bool] = False
    # Write to this file, whose ending says the form: .parquet .csv .tsv .jsonl .md .html.
    out: str | None = None
    # How many items to recommend to each.
    top: int = 10
    # Hide what somebody has had, or keep it; by default as the run was trained.
    seen: Literal["hide", "keep"] | None = None
    # Only the items of this file may be shown: ids, one a line or in a column item; with columns
    # user,item each to that user.
    items: str | None = None
    # The items of this file may not be shown; with columns user,item each to that user.
    exclude: str | None = None
    # Draw the attention so often: mean and standard deviation of the score over the draws.
    draws: int | None = None
    # Order by the mean, by one draw (Thompson sampling), or by the mean less one deviation.
    order: Literal["mean", "thompson", "lower"] = "mean"
    # Seed of the draws; by default the run's.
    seed: int | None = None
    # Find items by approximate search, for catalogues of hundreds of thousands; needs faiss.
    ann: tyro.conf.FlagCreatePairsOff[bool] = False
    # Items of histories that are not in the catalogue; by default refused in --history, skipped in
    # a file.
    unknown: Literal["skip", "refuse"] | None = None
    # Print JSON instead of a table.
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    # Device to compute on: auto, cpu, cuda, cuda:N or mps.
    device: str = "cpu"


def recommend(flags: Flags) -> str:
    """The text that the command prints."""
    _check(flags)
    run = Run(flags.run, flags.device)
    options: dict[str, Any] = {
        name: getattr(flags, name)
        for name in ("seen", "titles", "draws", "order", "seed", "ann", "unknown")
    }
    options["at"] = time_of(flags, run.model.uses_times)
    of, times = _asked(flags, run.model.uses_times)
    for name in ("items", "exclude"):
        if (path := getattr(flags, name)) is not None:
            items, users = read_ids(path)
            options[name] = items
            if users is not None:
                options[name] = pl.DataFrame({"user": users, "item": items})
    if flags.history_file is not None and options["unknown"] is None:
        options["unknown"] = "skip"
    plan = run.plan(of, flags.top, times=times, **options)
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)
    if flags.out is not None:
        path, lists = run.write(plan, flags.out, at_given=flags.at is not None)
        return f"recommendations for {_people(lists, len(plan))}: {printable(path, 500)}"
    return _text(flags, run, plan)


def _check(flags: Flags) -> None:
    """Raise ConfigError for flags that do not go together, before anything is read."""
    named = [flags.user is not None, flags.history is not None, flags.history_file is not None]
    if sum([*named, flags.all]) != 1:
        raise ConfigError(
            "give either --user ID, for someone in the data, or --history ID,ID,..., or "
            "--history-file FILE, or --all"
        )
    if flags.all and flags.out is None:
        raise ConfigError("--all needs --out FILE: lists for everybody are too many to print")
    if flags.out is not None:
        form_of(flags.out)
        if flags.json:
            raise ConfigError("--json prints; leave it out, or --out, which may end in .jsonl")
    check_times(flags)


def _asked(flags: Flags, reads_times: bool) -> tuple[Any, Any]:
    """Who is asked for, in the words of `Run.recommend`, and their times."""
    if flags.all:
        return None, None
    if flags.user is not None:
        return flags.user, None
    if flags.history_file is not None:
        lists, times = read_histories(flags.history_file)
        return lists, times if reads_times else None
    items, times = history_of(flags, reads_times)
    return {HISTORY: items}, times and {HISTORY: times}


HISTORY = "this history"


def check_times(flags: Asked) -> None:
    """Raise ConfigError for --times without --history."""
    if flags.times is not None and flags.history is None:
        raise ConfigError("--times goes with --history: users of the data and files have times")


def time_of(flags: Asked, reads_times: bool) -> float | None:
    """--at in seconds since 1970. Raises ConfigError for times that the run does not read."""
    for name in ("times", "at"):
        if getattr(flags, name) is not None and not reads_times:
            raise ConfigError(f"--{name} has no meaning: this run was trained without --time-bias")
    return None if flags.at is None else seconds(flags.at, "--at")


def history_of(flags: Asked, reads_times: bool) -> tuple[list[Any], list[float] | None]:
    """The items of --history and its --times. Raises ConfigError or DataError."""
    items = ids_of(flags.history or "")
    if not items:
        raise ConfigError("--history is empty: give at least one item")
    if flags.times is not None:
        return items, [seconds(when, "--times") for when in flags.times.split(",")]
    if reads_times:
        raise ConfigError("--history: this run reads times; give --times TIME,TIME,... too")
    return items, None


def ids_of(text: str) -> list[Any]:
    """Ids between commas without the blanks around them, or those of a JSON list as they are."""
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"--history: {error}; expected a JSON list of ids") from None
        return found
    return [item.strip() for item in text.split(",") if item.strip()]


def _people(lists: int, count: int) -> str:
    people = "1 person" if count == 1 else f"{count:,} people"
    if lists == count:
        return people
    return f"{lists:,} of {people} (no item is left that may be shown to the others)"


def _text(flags: Flags, run: Run, plan: Plan) -> str:
    """The lists as JSON or as tables, an empty one where no item may be shown."""
    table = plan.table()
    lists = table.partition_by("user", maintain_order=True, as_dict=True)
    parts = [(name, lists.get((name,), table.clear())) for name in plan.histories.names]
    if flags.json:
        found = [_json(flags, run, user, part) for user, part in parts]
        return to_json(found if flags.history_file is not None else found[0]).rstrip()
    note = " (synthetic data)" if run.description.get("synthetic") else ""
    lines = []
    for user, part in parts:
        name = user if flags.history is not None else f"user {printable(user)}"
        lines.append(f"{run.config.model} recommends for {name}{note}:")
        lines += table_lines(part.drop("user")) if len(part) else [NOTHING]
    return "\n".join(lines)


NOTHING = "nothing: no item is left that may be shown"


def _json(flags: Flags, run: Run, user: str, part: pl.DataFrame) -> dict[str, Any]:
    return {
        **({"history": ids_of(flags.history)} if flags.history is not None else {"user": user}),
        "model": run.config.model,
        "synthetic": bool(run.description.get("synthetic")),
        "recommendations": part.drop("user").to_dicts(),
    }


def table_lines(part: pl.DataFrame) -> list[str]:
    """Header and rows; numbers to the right, text to the left."""
    columns = []
    for column in part:
        text = column.dtype == pl.String
        cells = [_cell(value) for value in column]
        width = max(4 if text or column.name == "rank" else 9, *map(len, cells))
        sign = "<" if text else ">"
        columns.append([f"{cell:{sign}{width}}" for cell in (column.name, *cells)])
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else printable(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for a user's mistake."""

    def run() -> int:
        flags = parse(
            Flags, argv, "rka-fast recommend", __doc__, "did you mean --user {0}, or --history {0}?"
        )
        print(recommend(flags))
        return 0

    return exit_status(run, "stopped; with --out the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
