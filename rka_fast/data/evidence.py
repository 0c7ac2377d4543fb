"""What the values of columns say about each other: groups, order in time, counting up."""

# What polars returns may be any literal or None; here it is what the column holds.
# pyright: reportArgumentType=false, reportReturnType=false

from functools import cached_property

import numpy as np
import polars as pl

from rka_fast.data.times import AmbiguousDates, MixedTimes, TimeKind, parse, recognise
from rka_fast.data.values import is_missing, trimmed

_DAY = 86_400 * 10**9
_FEW = 25  # a column with no more different numbers may hold ratings


class Column:
    """One column of a sample, without the rows in which it is missing or which are not kept.

    position: its place in the file. fault: why its values are no times though nearly all are.
    """

    def __init__(
        self,
        raw: pl.Series,
        position: int,
        named_time: bool = False,
        kept: pl.Series | None = None,
    ) -> None:
        self.position = position
        self.is_nested = raw.dtype.is_nested()
        values = raw if self.is_nested else trimmed(raw)
        missing = raw.is_null() if self.is_nested else is_missing(values)
        self.present = ~missing if kept is None else ~missing & kept
        self.missing = float((missing if kept is None else missing.filter(kept)).mean() or 0.0)
        self.rows = self.present.arg_true()
        self.values = values.filter(self.present)
        self.fault: MixedTimes | AmbiguousDates | None = None
        self.kind: TimeKind | None = None
        if not self.is_nested:
            try:
                self.kind = recognise(self.values, named_time)
            except (MixedTimes, AmbiguousDates) as fault:
                self.fault = fault

    @cached_property
    def distinct(self) -> int:
        return self.codes.max(initial=-1) + 1

    @cached_property
    def codes(self) -> np.ndarray:
        """Numbers from 0 for the values that are there, by first appearance."""
        if self.is_nested:
            return np.arange(len(self.values))
        text = self.values.cast(pl.String)
        known = text.unique(maintain_order=True)
        return text.replace_strict(known, range(len(known)), return_dtype=pl.Int64).to_numpy()

    @cached_property
    def times(self) -> np.ndarray:
        """The values as times, in nanoseconds; only where `kind` is known and real."""
        return parse(self.values, self.kind).fill_null(0).to_numpy()

    @cached_property
    def numbers(self) -> np.ndarray | None:
        """The values as numbers, None where some are none."""
        dtype = self.values.dtype
        if len(self.values) == 0 or not (dtype.is_numeric() or dtype == pl.String):
            return None
        numbers = self.values.cast(pl.Float64, strict=False)
        return None if numbers.null_count() else numbers.to_numpy()

    @property
    def mostly_numbers(self) -> bool:
        """Whether numbers are meant, even if some values are none."""
        if self.values.dtype != pl.String:
            return self.values.dtype.is_numeric()
        return self.values.cast(pl.Float64, strict=False).null_count() <= 0.5 * len(self.values)

    @property
    def is_constant(self) -> bool:
        return self.distinct <= 1 and len(self.values) > 2

    @property
    def is_date(self) -> bool:
        """Whether times can be told by their writing alone, as counts cannot."""
        return self.kind is not None and self.kind.is_real and not self.kind.is_count

    @property
    def is_by_day(self) -> bool:
        """Whether all times are midnights."""
        return self.kind is not None and self.kind.is_real and not (self.times % _DAY).any()

    @property
    def is_rating(self) -> bool:
        """Whether values could be ratings: few numbers, none large."""
        n = self.numbers
        few = n is not None and self.distinct <= _FEW
        return bool(few and n.min() >= -10 and n.max() <= 100)

    @property
    def is_measure(self) -> bool:
        """Whether values are numbers of which some are not whole: prices, places, ratings."""
        n = self.numbers
        return n is not None and bool((n != np.floor(n)).any())

    @property
    def is_row_number(self) -> bool:
        """Whether values only count the rows."""
        n = self.numbers
        return n is not None and len(n) > 20 and bool((np.diff(n) == 1).all()) and n[0] in (0, 1)

    def looks_like(self, pattern: str) -> bool:
        """Whether all values fit a regular expression."""
        text = self.values.cast(pl.String)
        return len(text) > 0 and bool(text.str.contains(f"^(?:{pattern})$").all())


def moves(group: Column, values: Column) -> tuple[int, int]:
    """How often a value is above, and below, the one before it in its group and the file."""
    codes, numbers = _aligned(group, values)
    order = np.argsort(codes, kind="stable")
    codes, numbers = codes[order], numbers[order]
    same = codes[1:] == codes[:-1]
    return (
        int((same & (numbers[1:] > numbers[:-1])).sum()),
        int((same & (numbers[1:] < numbers[:-1])).sum()),
    )


def is_ordered(group: Column, values: Column) -> bool:
    """Whether values ascend inside groups, but for a few, and that cannot be chance."""
    up, down = moves(group, values)
    return up + down >= 10 and down <= 0.1 * (up + down)


def belongs_to(group: Column, values: Column) -> bool:
    """Whether every group has a value of its own, as things have a day on which they came out."""
    codes, numbers = _aligned(group, values)
    order = np.argsort(codes, kind="stable")
    codes, numbers = codes[order], numbers[order]
    same = codes[1:] == codes[:-1]
    differ = numbers[1:] != numbers[:-1]
    return bool(same.sum() >= 20 and not (same & differ).any() and (differ & ~same).any())


def is_grouped(column: Column) -> bool:
    """Whether equal values stand together."""
    codes = column.codes
    runs = 1 + int((codes[1:] != codes[:-1]).sum())
    return len(codes) >= 1.5 * column.distinct and runs <= 1.02 * column.distinct + 1


def counts_up(group: Column, values: Column) -> bool:
    """Whether whole numbers count the rows of every group, in any order of the rows."""
    n = values.numbers
    if n is None or (n != np.floor(n)).any():
        return False
    codes, numbers = _aligned(group, values)
    order = np.lexsort((numbers, codes))
    codes, numbers = codes[order], numbers[order]
    same = codes[1:] == codes[:-1]
    first = np.concatenate(([True], ~same))
    return bool(
        same.sum() >= 10
        and (np.diff(numbers)[same] == 1).all()
        and np.isin(numbers[first], (0, 1)).all()
    )


def is_surely_time(column: Column, others: list[Column]) -> bool:
    """Whether counts are times by more than their size, which ids and prices may have too.

    They are if they are in order inside another column (or over all the file), if they are whole
    days, or if nearly every row has its own and they go over more than a day.
    """
    if column.kind is None or not column.kind.is_real:
        return False
    if column.is_date:
        return True
    times = column.times
    if len(times) < 2:
        return False
    if not (times % _DAY).any() and column.distinct > 1:
        return True
    if any(is_ordered(other, column) for other in others if not other.is_constant):
        return True
    if len(times) >= 20 and (np.diff(times) >= 0).all() and times[0] < times[-1]:
        return True
    return column.distinct > 0.5 * len(times) and np.ptp(times) > _DAY


def is_amazon(item: Column, user: Column) -> bool:
    """Whether ids look like Amazon's: products B... or ISBN, reviewers A..."""
    return (
        item.looks_like(r"B[0-9A-Z]{3,}|\d{9}[\dX]")
        and user.looks_like(r"A[0-9A-Z]{3,}")
        and not item.looks_like("A.*")
    )


def lists_in(column: Column, name: str, users: Column) -> str | None:
    """How lists are written as text, for `values.split_lists`; None where values are single.

    Without brackets (or RecBole's word for it) they are lists only if every user has one row.
    """
    if column.is_nested or column.values.dtype != pl.String or len(column.values) == 0:
        return None
    if name.endswith((":token_seq", ":float_seq")):
        return " "
    if column.looks_like(r"\[.*\]"):
        return "[]"
    if users.distinct < len(users.values):
        return None
    for separator in (" ", ",", "|", ";"):
        parts = column.values.str.split(separator)
        several = parts.list.len() > 1
        if several.mean() is None or several.mean() < 0.5 or parts.list.len().n_unique() < 2:
            continue
        entries = parts.explode()
        plain = entries.str.contains(r"^[\w.:-]*$").all()
        if plain and entries.n_unique() < 0.7 * len(entries):
            return separator
    return None


def _aligned(group: Column, values: Column) -> tuple[np.ndarray, np.ndarray]:
    """Codes and values of the rows in which both are there."""
    real = values.kind is not None and values.kind.is_real
    numbers = values.times if real else values.numbers
    if group.present.all() and values.present.all():
        return group.codes, numbers
    both = group.present & values.present
    return (
        group.codes[both.filter(group.present).to_numpy()],
        numbers[both.filter(values.present).to_numpy()],
    )
