"""How far something is: a bar in a terminal or a notebook, a line now and then in a log file."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


def progress(total: int, unit: str, *, initial: int = 0, quiet: bool = False) -> Any:
    """A progress bar with tqdm's `update`, `set_postfix` and `close`, to be used in a `with`.

    total, initial: of how many `unit`s, and how many are done. Nothing is shown if `quiet`, or
    where the environment variable TQDM_DISABLE is set.
    """
    from tqdm.auto import tqdm

    quiet = quiet or os.environ.get("TQDM_DISABLE", "").lower() not in ("", "0", "false", "no")
    if quiet or in_notebook() or sys.stderr.isatty():
        return tqdm(
            total=total, initial=initial, unit=unit, dynamic_ncols=True, mininterval=0.5,
            disable=quiet,
        )  # fmt: skip
    return Lines(total, unit, initial)


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", ())


class Lines:
    """Progress as whole lines, for what is no terminal."""

    def __init__(self, total: int, unit: str, initial: int = 0) -> None:
        self.total, self.unit, self.done, self.initial = total, unit, initial, initial
        self.begin = self.last = time.monotonic()
        self.postfix = ""

    def update(self, count: int = 1) -> None:
        """Further units are done."""
        self.done += count
        now = time.monotonic()
        if now - self.last >= EVERY:
            self.last = now
            rate = (self.done - self.initial) / (now - self.begin)
            line = f"{self.done:,} of {self.total:,} {self.unit}s, {rate:,.1f} a second"
            print(line + self.postfix, file=sys.stderr, flush=True)

    def set_postfix(self, refresh: bool = True, **facts: Any) -> None:
        """Facts that stand behind the next line."""
        self.postfix = "".join(f", {name} {value}" for name, value in facts.items())

    def close(self) -> None:
        """Nothing is left open."""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
