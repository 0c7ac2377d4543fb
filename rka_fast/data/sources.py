"""What every kind of file becomes before its columns are known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import polars as pl

SAMPLE = 10_000  # rows that are looked at to tell what the columns hold


@dataclass(eq=False)
class Source:
    """One file, its columns called "0", "1", ... by their place.

    path: for messages.
    kind: how it is written, such as "CSV with header".
    names: the columns' names, None without a header.
    sample: the first rows; strings where the file has no types.
    read: all rows of the columns at some positions, in that order.
    place: where a row stands, for messages.
    notes: what a person should know about how it was read.
    roles: which column holds what, where the form itself says so.
    """

    path: str
    kind: str
    names: list[str] | None
    sample: pl.DataFrame
    read: Callable[[Sequence[int]], pl.DataFrame]
    place: Callable[[int], str]
    notes: list[str] = field(default_factory=list)
    roles: dict[str, int] | None = None

    @property
    def width(self) -> int:
        """How many columns there are."""
        return self.sample.width

    def title(self, position: int) -> str:
        """How to speak of a column."""
        return self.names[position] if self.names else f"column {position}"


def by_place(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with its columns called by their place."""
    return frame.rename(dict(zip(frame.columns, map(str, range(frame.width)), strict=True)))
