"""Show a run, or several side by side, on a page.

rka-fast report RUN [RUN ...] --out runs.html   (--json: the numbers)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from rka_fast.commands import exit_status, parse
from rka_fast.errors import ConfigError, printable
from rka_fast.files import check_writable, to_json, write_output
from rka_fast.pages.report_page import report_page
from rka_fast.recommending.titles import titles_of
from rka_fast.reporting.report import report as report_on
from rka_fast.reporting.runs import read_runs


@dataclass(frozen=True)
class Flags:
    """The command line."""

    # Run folders of rka-fast train.
    runs: tyro.conf.Positional[tuple[str, ...]]
    # Write the page to this file.
    out: str | None = None
    # Titles of items: a table with columns item,title, or MovieLens' movies.dat or u.item.
    titles: str | None = None
    # Print the numbers as JSON.
    json: tyro.conf.FlagCreatePairsOff[bool] = False


def report(flags: Flags) -> str:
    """The text that the command prints; the page is written on the way."""
    if not flags.runs:
        raise ConfigError("give a run folder, the --out of rka-fast train, or several")
    if flags.out is None and not flags.json:
        raise ConfigError("give --out FILE.html for the page, or --json for its numbers, or both")
    if flags.out is not None:
        check_writable(flags.out)
    titles = titles_of(flags.titles)
    found = report_on(read_runs(flags.runs), titles)
    if flags.out is not None:
        write_output(flags.out, report_page(found))
    return to_json(found.to_json()).rstrip() if flags.json else f"page: {printable(flags.out, 500)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for a user's mistake."""

    def run() -> int:
        print(report(parse(Flags, argv, "rka-fast report", __doc__, "is {0} a run folder?")))
        return 0

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
