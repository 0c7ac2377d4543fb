"""`--where`: which rows of a file are kept."""

import re
from dataclasses import dataclass

import polars as pl

from rka_fast.data.columns import listed
from rka_fast.data.times import AmbiguousDates, MixedTimes, parse, recognise
from rka_fast.errors import DataError, printable

_CONDITION = re.compile(r"^(?P<column>.+?)\s*(?P<sign>>=|<=|!=|==|=|>|<)\s*(?P<value>.*)$")


@dataclass(frozen=True)
class Condition:
    """One comparison of a column with a value; `column` is a name or a position from 0."""

    column: str
    sign: str
    value: str

    def __str__(self) -> str:
        return f"{self.column}{self.sign}{self.value}"

    def position(self, names: list[str] | None, width: int) -> int:
        """Where the column stands. Raises DataError where there is none."""
        if names and self.column in names:
            return names.index(self.column)
        is_number = self.column.isascii() and self.column.isdecimal() and len(self.column) < 10
        if is_number and int(self.column) < width:
            return int(self.column)
        has = f"the columns are {listed(names)}" if names else f"{width} columns without names"
        raise DataError(f"where={printable(str(self))}: no column {printable(self.column)}; {has}")

    @property
    def is_of_one(self) -> bool:
        """Whether a value alone tells whether it holds; how dates are written others tell."""
        return self.sign in ("=", "!=") or _number(self.value) is not None

    def holds(self, column: pl.Series) -> pl.Series:
        """For every row whether it is kept; a missing value is not."""
        text = column.cast(pl.String).str.strip_chars() if not column.dtype.is_nested() else None
        if text is None:
            raise DataError(f"where={printable(str(self))}: this column holds lists")
        if self.sign in ("=", "!="):
            same = text == self.value
            if (number := _number(self.value)) is not None:
                same |= (text.cast(pl.Float64, strict=False) == number).fill_null(False)
            if column.dtype == pl.Boolean:
                same |= text == self.value.lower()
            return (same if self.sign == "=" else ~same).fill_null(False)
        values, limit = self._ordered(text)
        compared = {
            ">": values > limit,
            ">=": values >= limit,
            "<": values < limit,
            "<=": values <= limit,
        }[self.sign]
        return compared.fill_null(False)

    def _ordered(self, text: pl.Series) -> tuple[pl.Series, float]:
        if (limit := _number(self.value)) is not None:
            return text.cast(pl.Float64, strict=False), limit
        try:
            kind = recognise(text.drop_nulls().head(1000), named=False)
            limit = recognise(pl.Series([self.value]), named=False)
        except (MixedTimes, AmbiguousDates):
            kind = limit = None
        if kind is None or limit is None or not (kind.is_real and limit.is_real):
            raise DataError(
                f"where={printable(str(self))}: {self.sign} compares numbers, or dates with dates "
                "such as 2020-12-31"
            )
        return parse(text, kind), parse(pl.Series([self.value]), limit)[0]


def conditions(where: str | None) -> list[Condition]:
    """The comparisons of a text with commas between them. Raises DataError where it is none."""
    found = []
    for part in re.split(r",\s*(?=[^,=<>!]+(?:[<>]=?|!?=))", where or ""):
        if not part.strip():
            continue
        match = _CONDITION.match(part.strip())
        if match is None:
            raise DataError(
                f"where={printable(part)}: expected COLUMN=VALUE, or one of != > >= < <=; several "
                "with commas between"
            )
        sign = match["sign"].replace("==", "=")
        found.append(Condition(match["column"].strip(), sign, match["value"].strip()))
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
