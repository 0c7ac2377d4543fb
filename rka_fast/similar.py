"""The items most like an item, from a run.

rka-fast similar RUN --item ID --top 10
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from rka_fast.commands import exit_status, parse
from rka_fast.errors import ConfigError, printable
from rka_fast.files import to_json
from rka_fast.recommend import table_lines
from rka_fast.run import Run


@dataclass(frozen=True)
class Flags:
    """The command line."""

    # Run folder of rka-fast train.
    run: tyro.conf.Positional[str]
    # Id of an item of the data.
    item: str | None = None
    # RKSA's kernel of the item embeddings, the cosine of the vectors that scores are made of, or
    # who had both; by default the first that the model has.
    by: Literal["item", "embedding", "cooccurrence"] | None = None
    # How many items.
    top: int = 10
    # Titles of items: a table with columns item,title, or MovieLens' movies.dat or u.item.
    titles: str | None = None
    # Print JSON instead of a table.
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    # Device to compute on: auto, cpu, cuda, cuda:N or mps.
    device: str = "cpu"


def similar(flags: Flags) -> str:
    """The text that the command prints."""
    if flags.item is None:
        raise ConfigError("name an item of the data: --item ID")
    run = Run(flags.run, flags.device)
    found = run.similar(flags.item, flags.top, by=flags.by, titles=flags.titles).drop("item")
    if flags.json:
        return to_json({"item": flags.item, "similar": found.to_dicts()}).rstrip()
    return "\n".join([f"like {printable(flags.item)}:", *table_lines(found)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for a user's mistake."""

    def run() -> int:
        print(similar(parse(Flags, argv, "rka-fast similar", __doc__, "did you mean --item {0}?")))
        return 0

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
