"""Write the sequences of a log to a folder, from which to train: rka-fast prepare LOG --out DIR.

For logs that are too large to be read again for every run, or by every process. The folder has the
sequences in shards (Parquet), ids, co-occurrence counts and checksums; train on it with --data DIR.
Stopped or killed, the same command begins anew.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rka_fast.commands import exit_status, parse
from rka_fast.data.engines import ENGINES
from rka_fast.data.filters import Filters
from rka_fast.data.preparing import SHARD_EVENTS, Options, prepare
from rka_fast.data.readers import Log
from rka_fast.data.shards import Prepared
from rka_fast.data.split import MAX_COUNTED
from rka_fast.errors import ConfigError
from rka_fast.training.assemble import filters_of, reading
from rka_fast.training.config import Config

SETTINGS = (
    "columns", "form", "time_format", "where", "max_missing", "max_unpacked", "min_rating",
    "min_user_events", "min_item_events", "core", "duplicates", "ties", "repeats",
)  # fmt: skip
"""The settings of train that say what the data is: they are given when it is prepared."""

COUNTED = ("leave-one-out", "none", "no")


def _flags() -> type:
    """The flags: the log, the folder, how it is made, and the settings of the data."""
    hints = typing.get_type_hints(Config)
    own: list[tuple[str, Any, str, Any]] = [
        ("log", tyro.conf.Positional[str], "Log file, folder, pattern or archive, or several with "
         "commas between; read a file at a time.", dataclasses.MISSING),
        ("out", str, "Folder to write.", dataclasses.MISSING),
        ("engine", Literal[tuple(ENGINES)], "What computes it: Polars or DuckDB on this machine, "
         "or Spark, on the cluster that the program is submitted to.", "polars"),
        ("shards", int | None, f"Number of shards, by default one per {SHARD_EVENTS:,} events; as "
         "many as there will be processes, or a multiple.", None),
        ("counts", Literal[COUNTED], "Whose training events are counted for the co-occurrence: "
         "those of --split leave-one-out or none; with another split training counts.",
         "leave-one-out"),
        ("add", str | None, "Folder of earlier days, to which the events of the log are added; its "
         "settings hold.", None),
        ("max_counted", int, "Of a user's training events the last this many count.", MAX_COUNTED),
    ]  # fmt: skip
    for field in dataclasses.fields(Config):
        if field.name in SETTINGS:
            choices = field.metadata["choices"]
            kind: Any = Literal[choices] if choices else hints[field.name]
            own.append((field.name, kind, field.metadata["help"], field.default))
    return dataclasses.make_dataclass(
        "Flags",
        [
            (name, Annotated[kind, tyro.conf.arg(help=help)], dataclasses.field(default=default))
            for name, kind, help, default in own
        ],
    )


def run(flags: Any) -> Prepared:
    """Prepare what the flags say. Returns the folder."""
    given = {name: getattr(flags, name) for name in SETTINGS}
    add = None if flags.add is None else Prepared.open(flags.add)
    if add is not None:
        given = _as_before(given, add)
    config = Config(data=flags.log, max_counted=flags.max_counted, **given)  # checks them
    if flags.shards is not None and flags.shards < 1:
        raise ConfigError(f"shards must be at least 1, got {flags.shards}")
    log = Log(flags.log, config.column_names, **reading(config))
    split = None if flags.counts == "no" else flags.counts
    options = Options(flags.engine, flags.shards, split, flags.max_counted, add)
    return prepare(log, Path(flags.out), filters_of(config), options, given)


def _as_before(given: dict[str, Any], add: Prepared) -> dict[str, Any]:
    """The settings with those of earlier data where they are the defaults.

    Raises ConfigError where a filter would be another one; the new log may be read otherwise.
    """
    usual = {field.name: field.default for field in dataclasses.fields(Config)}
    filters = {field.name for field in dataclasses.fields(Filters)}
    before = add.facts["settings"]
    for name, value in given.items():
        if name in filters and value not in (usual[name], before[name]):
            raise ConfigError(
                f"{name} {value!r}: {add.path} was prepared with {before[name]!r}, which must hold "
                "for what is added; leave it out"
            )
    return {name: before[name] if given[name] == usual[name] else given[name] for name in given}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, 2 for a user's mistake, 130 if stopped."""

    def prepared() -> int:
        stray = "the log comes first, and --out DIR; is {0} a flag's value?"
        found = run(parse(_flags(), argv, "rka-fast prepare", __doc__, stray))
        print("\n".join(found.report.lines()))
        several = "shards" if found.shards > 1 else "shard"
        print(f"content {found.facts['content'][:16]}, {found.shards} {several}")
        print(f"train on it: rka-fast train --data {found.path}", flush=True)
        return 0

    return exit_status(prepared, stopped="stopped; the same command begins anew")


if __name__ == "__main__":
    sys.exit(main())
