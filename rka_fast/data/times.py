"""Values that are times: told by all of a column's values, read as int64 nanoseconds since 1970."""

# What polars returns may be any literal or None; here it is what the column holds.
# pyright: reportOperatorIssue=false

from dataclasses import dataclass

import numpy as np
import polars as pl

from rka_fast.data import dates
from rka_fast.data.dates import NANOSECONDS

# Counts between these two dates are believed to be times. A column that mostly is may reach
# further, so far that its unit stays the only one: seconds of 1973 are milliseconds of 2100.
_SOONEST, _LATEST = (np.datetime64(date, "s").astype(int) for date in ("1995-01-01", "2035-01-01"))
_WIDE = (10**8, 41 * 10**8)

_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


@dataclass(frozen=True)
class TimeKind:
    """How a column writes times.

    name: a unit of `NANOSECONDS`, "number" for counts from anywhere, "clock" for the time of day,
        a key of the shapes of dates, or a format with "%".
    day_first: of dates with slashes or dots, whether the day comes before the month.
    """

    name: str
    day_first: bool | None = None

    @property
    def is_real(self) -> bool:
        """Whether values are points in time, so that they are read as nanoseconds since 1970."""
        return self.name not in ("number", "clock")

    @property
    def is_count(self) -> bool:
        """Whether values are numbers, which say little by themselves."""
        return self.name in NANOSECONDS or self.name == "number"

    def __str__(self) -> str:
        if self.name in NANOSECONDS:
            return f"{_UNITS[self.name]} since 1970"
        if self.name == "number":
            return "numbers that are not counted from 1970"
        if self.name == "clock":
            return "times of day"
        if self.day_first is not None:
            return "day, month, year" if self.day_first else "month, day, year"
        return f"times written as {self.name}" if "%" in self.name else self.name


class MixedTimes(Exception):
    """Two values of a column disagree about how times are written; `rows` holds their places."""

    def __init__(self, rows: tuple[int, int], meanings: tuple[str, str]) -> None:
        super().__init__(*meanings)
        self.rows, self.meanings = rows, meanings


class AmbiguousDates(Exception):
    """Every date could be day, month, year or month, day, year; `formats` holds both."""

    def __init__(self, formats: tuple[str, str], example: str) -> None:
        super().__init__(example)
        self.formats, self.example = formats, example


def told(time_format: str) -> TimeKind:
    """The kind that `--time-format` names. Raises DataError where it is none."""
    if time_format in NANOSECONDS or time_format == "number":
        return TimeKind(time_format)
    dates.pattern_of(time_format)
    return TimeKind(time_format)


def recognise(values: pl.Series, named: bool) -> TimeKind | None:
    """How a column's values (none missing) write times, or None where they do not.

    named: the column's name says that it holds times, so that plain numbers are taken as such,
        and values that do not fit are a fault. A column without such a name must be all times.

    Raises MixedTimes and AmbiguousDates.
    """
    if len(values) == 0:
        return None
    if values.dtype == pl.Duration:
        return None
    if values.dtype.is_temporal():
        return TimeKind("clock" if values.dtype == pl.Time else "dates")
    if values.dtype == pl.String or values.dtype.is_numeric():
        numbers = values.cast(pl.Float64, strict=False)
    else:
        return None
    classes = _classes(values, numbers)
    counts = dict(
        classes.value_counts(sort=True).sort("count", "class", descending=[True, False]).rows()
    )
    name = next(iter(counts))
    near = next((unit for unit in counts if unit in NANOSECONDS and _all_near(numbers, unit)), None)
    if near:
        return TimeKind(near)
    if len(counts) > 1:
        # Text among numbers is a fault of a column of times only; so are numbers among dates.
        if set(counts) == {"number", "text"} and (not named or name == "text"):
            return None
        if named or (name in dates.SHAPES and counts[name] > 0.9 * len(values)):
            first, other = int((classes == name).arg_max()), int((classes != name).arg_max())
            raise MixedTimes((first, other), (_meaning(name), _meaning(classes[other])))
        return None
    if name == "text" or (name == "number" and not named):
        return None
    if name in ("dates with slashes", "dates with dots"):
        return TimeKind(name, _day_first(values, name))
    return TimeKind(name)


def parse(values: pl.Series, kind: TimeKind) -> pl.Series:
    """int64 nanoseconds since 1970; for "number" the numbers (int64 where all are whole).

    Values have no blanks around them. Null where a value is null or is not of the kind.
    """
    if values.dtype == pl.Duration:  # only where it is told to be times
        told = kind.name == "number"
        return values.cast(pl.Int64) if told else pl.Series([None] * len(values), dtype=pl.Int64)
    if values.dtype.is_temporal():
        if values.dtype == pl.Time:
            return values.cast(pl.Int64)
        return values.cast(pl.Datetime("ns")).dt.epoch("ns")
    if kind.name == "number":
        return _whole(values)
    if kind.name in NANOSECONDS:
        return _count(values, kind.name)
    text = values.cast(pl.String)
    if kind.name == "clock":
        return dates.clock_of(text)
    if kind.name in dates.COMPACT.values():
        text = text.str.strip_suffix(".0")
    return dates.date_of(text, kind.name, kind.day_first)


def _classes(values: pl.Series, numbers: pl.Series) -> pl.Series:
    """Of every value the name of its kind; those that fit none are "number" or "text"."""
    n = numbers.to_numpy().astype(float)
    found = np.full(len(n), "text", object)
    finite = np.isfinite(n)
    found[finite] = "number"
    for unit, scale in NANOSECONDS.items():
        factor = 10**9 // scale
        found[(n >= _SOONEST * factor) & (n < _LATEST * factor)] = unit
    whole = finite & (n == np.floor(n)) & (n > 0) & (n < 1e15)
    digits = np.zeros(len(n), int)
    digits[whole] = np.floor(np.log10(n[whole])).astype(int) + 1
    for size, form in dates.COMPACT.items():
        some = np.flatnonzero(digits == size)
        if len(some):
            text = pl.Series([str(int(v)) for v in n[some]])
            real = dates.date_of(text, form)
            year = n[some] // 10 ** (size - 4)
            found[some[real.is_not_null().to_numpy() & (year >= 1995) & (year < 2035)]] = form
    if values.dtype == pl.String:
        left = np.flatnonzero(~finite)
        text = values.gather(left).str.strip_chars() if len(left) else values.head(0)
        for name, shape in {"clock": dates.CLOCK, **dates.SHAPES}.items():
            if len(left) == 0:
                break
            fits = text.str.contains(f"^(?:{shape})$").fill_null(False)
            if name == "dates with month names" and fits.any():
                fits &= dates.date_of(text, name).is_not_null()
            found[left[fits.to_numpy()]] = name
            left, text = left[~fits.to_numpy()], text.filter(~fits)
    return pl.Series("class", found, dtype=pl.String)


def _all_near(numbers: pl.Series, unit: str) -> bool:
    """Whether all values are times of this unit in a wide sense."""
    factor = 10**9 // NANOSECONDS[unit]
    low, high = (limit * factor for limit in _WIDE)
    return bool(((numbers >= low) & (numbers < high)).fill_null(False).all())


def _meaning(name: str) -> str:
    if name == "text":
        return "no time"
    return "a number" if name == "number" else str(TimeKind(name))


def _day_first(values: pl.Series, shape: str) -> bool:
    """Whether the day stands before the month; raises AmbiguousDates where nothing tells."""
    text = values.str.strip_chars()
    fields = text.str.extract_groups(f"^(?:{dates.SHAPES[shape]})$").struct
    first, second = (fields.field(name).cast(pl.Int64) for name in ("x", "y"))
    if first.max() > 12:
        return True
    if second.max() > 12:
        return False
    if shape == "dates with dots":  # only written with the day in front
        return True
    example = text[0]
    day, month = (dates.format_of(example, dates.SHAPES[shape], names) for names in ("dm", "md"))
    raise AmbiguousDates((day, month), example)


def _count(values: pl.Series, unit: str) -> pl.Series:
    """Counts since 1970 as nanoseconds; null where a value cannot be of this unit."""
    scale = NANOSECONDS[unit]
    low, high = (limit * 10**9 // scale for limit in _WIDE)
    whole = values if values.dtype == pl.Int64 else values.cast(pl.Int64, strict=False)
    if values.dtype.is_float() or whole.null_count() > values.null_count():
        numbers = values.cast(pl.Float64, strict=False)
        floor = numbers.floor().cast(pl.Int64, strict=False)
        rest = ((numbers - floor) * scale).round().cast(pl.Int64, strict=False)
        nanoseconds = floor * scale + rest
        # An integer is taken as it stands: a double has not all its digits.
        if not values.dtype.is_float():
            nanoseconds = (whole * scale).zip_with(whole.is_not_null(), nanoseconds)
            floor = whole.zip_with(whole.is_not_null(), floor)
    else:
        floor, nanoseconds = whole, whole * scale
    if floor.min() is not None and (floor.min() < low or floor.max() >= high):
        right = (floor >= low) & (floor < high)
        nanoseconds = nanoseconds.set(~right.fill_null(False), None)
    return nanoseconds


def _whole(values: pl.Series) -> pl.Series:
    """Numbers, int64 where all are whole."""
    whole = values.cast(pl.Int64, strict=False)  # null, too, of integers beyond 63 bits
    if whole.null_count() == values.null_count() and not values.dtype.is_float():
        return whole
    numbers = values.cast(pl.Float64, strict=False)
    numbers = numbers.set(~numbers.is_finite().fill_null(False), None)
    if (numbers.drop_nulls() == numbers.drop_nulls().floor()).all() and (
        (numbers.abs().max() or 0) < 2**53
    ):
        return numbers.cast(pl.Int64)
    return numbers
