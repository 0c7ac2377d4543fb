"""Show on a page why a run recommends what it does.

rka-fast explain RUN --user ID --out why.html
rka-fast explain RUN --history ID,ID,... --titles FILE --out why.html   (--json: the numbers)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from rka_fast.commands import exit_status, parse
from rka_fast.errors import ConfigError, printable
from rka_fast.explaining.explanation import DRAWS
from rka_fast.files import check_writable, to_json, write_output
from rka_fast.pages.explain_page import explain_page
from rka_fast.recommend import Asked, check_times, history_of, time_of
from rka_fast.run import Run


@dataclass(frozen=True)
class Flags(Asked):
    """The command line."""

    # Write the page to this file.
    out: str | None = None
    # How many recommended items to explain.
    top: int = 10
    # How often to draw RKSA's attention.
    draws: int = DRAWS
    # Print the numbers as JSON.
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    # Device to compute on: auto, cpu, cuda, cuda:N or mps.
    device: str = "cpu"


def explain(flags: Flags) -> str:
    """The text that the command prints; the page is written on the way."""
    if (flags.user is None) == (flags.history is None):
        raise ConfigError("give either --user ID, for someone in the data, or --history ID,ID,...")
    if flags.out is None and not flags.json:
        raise ConfigError("give --out FILE.html for the page, or --json for its numbers, or both")
    check_times(flags)
    if flags.out is not None:
        check_writable(flags.out)
    run = Run(flags.run, flags.device)
    of, times, at = flags.user, None, time_of(flags, run.model.uses_times)
    if flags.history is not None:
        items, when = history_of(flags, run.model.uses_times)
        of, times = [items], when and [when]
    found = run.explain(of, flags.top, times=times, at=at, titles=flags.titles, draws=flags.draws)
    if flags.out is not None:
        write_output(flags.out, explain_page(found))
    return to_json(found.to_json()).rstrip() if flags.json else f"page: {printable(flags.out, 500)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for a user's mistake."""

    def run() -> int:
        flags = parse(
            Flags, argv, "rka-fast explain", __doc__, "did you mean --user {0}, or --history {0}?"
        )
        print(explain(flags))
        return 0

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
