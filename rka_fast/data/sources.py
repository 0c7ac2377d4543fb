"""What every kind of file becomes before its columns are known."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

SAMPLE = 10_000  # rows that are looked at to tell what the columns hold

Types = Mapping[int, type[pl.DataType]]

AROUND = (" ", "\t", "\xa0", '"')
"""Blanks and quotes that may stand around a value and are no part of it."""


@dataclass(eq=False)
class Source:
    """One file, its columns called "0", "1", ... by their place.

    path: for messages.
    kind: how it is written, such as "CSV with header".
    names: the columns' names, None without a header.
    sample: the first rows; strings where the file has no types.
    read: all rows of the columns at some positions; what is numbers in the sample may be read as
        such where a type is given for its position.
    place: where a row stands, for messages.
    notes: what a person should know about how it was read.
    roles: which column holds what, where the form itself says so.
    around: which of AROUND there are in the file. has_points: whether there are points.
    parts: the rows of `read`, some at a time, so that they need not be there at once; None instead
        of rows that only `read` can make out.
    """

    path: str
    kind: str
    names: list[str] | None
    sample: pl.DataFrame
    read: Callable[[Sequence[int], Types], pl.DataFrame]
    place: Callable[[int], str]
    notes: list[str] = field(default_factory=list)
    roles: dict[str, int] | None = None
    around: tuple[str, ...] = AROUND
    has_points: bool = True
    parts: Callable[[Sequence[int], Types], Iterator[pl.DataFrame | None]] | None = None

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
