"""Values that are times: told by all of a column's values, read as int64 nanoseconds since 1970."""

import re
from dataclasses import dataclass

import numpy as np
import polars as pl

from rka_fast.errors import DataError

NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
"""Units of counts since 1970, as `--time-format` names them."""

# Counts between these two dates are believed to be times. A column that mostly is may reach
# further, so far that its unit stays the only one: seconds of 1973 are milliseconds of 2100.
_SOONEST, _LATEST = (np.datetime64(date, "s").astype(int) for date in ("1995-01-01", "2035-01-01"))
_WIDE = (10**8, 41 * 10**8)

_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_COMPACT = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}  # digits without separators
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_CLOCK = (
    r"(?<H>\d{1,2}):(?<M>\d{2})(?::(?<S>\d{2})(?:[.,](?<f>\d{1,9})\d*)?)?"
    r"(?:\s*(?<p>[AaPp]\.?[Mm]\.?))?"
)
_ZONE = r"(?:\s*(?<z>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?))?"
_NAME = r"(?<b>[A-Za-z]{3,9})\.?"
_WEEKDAY = r"(?:[A-Za-z]{3,9},?\s+)?"
_TWO = r"(?<x>\d{1,2})SEP(?<y>\d{1,2})SEP(?<Y>\d{4}|\d{2})" + rf"(?:,?\s+{_CLOCK}{_ZONE})?"
_SHAPES = {  # by what messages call them; values of one shape make a column
    "dates": (
        r"(?<Y>\d{4})[-/.](?<m>\d{1,2})[-/.](?<d>\d{1,2})"
        rf"(?:(?:[T_,]|\s)\s*{_CLOCK}{_ZONE})?"
    ),
    "dates with slashes": _TWO.replace("SEP", "[/-]"),
    "dates with dots": _TWO.replace("SEP", r"\."),
    "dates with month names": (
        rf"{_WEEKDAY}(?<d>\d{{1,2}})[-/\s]{_NAME}[-/\s](?<Y>\d{{4}}|\d{{2}})"
        rf"(?:[,:]?\s*{_CLOCK}{_ZONE})?"
    ),
    "dates with month names first": (
        rf"{_WEEKDAY}{_NAME}\s+(?<d>\d{{1,2}}),?\s+(?<Y>\d{{4}})(?:,?\s+{_CLOCK}{_ZONE})?"
    ),
    "dates with the year last": (
        rf"{_WEEKDAY}{_NAME}\s+(?<d>\d{{1,2}})\s+{_CLOCK}{_ZONE}\s+(?<Y>\d{{4}})"
    ),
}
_DIRECTIVES = {
    "Y": r"(?<Y>\d{4})",
    "y": r"(?<Y>\d{2})",
    "m": r"(?<m>\d{1,2})",
    "d": r"(?<d>\d{1,2})",
    "b": r"(?<b>[A-Za-z]{3,9})",
    "B": r"(?<b>[A-Za-z]{3,9})",
    "a": r"[A-Za-z]{3,9}",
    "A": r"[A-Za-z]{3,9}",
    "H": r"(?<H>\d{1,2})",
    "I": r"(?<H>\d{1,2})",
    "M": r"(?<M>\d{1,2})",
    "S": r"(?<S>\d{1,2})",
    "f": r"(?<f>\d{1,9})\d*",
    "p": r"(?<p>[AaPp][Mm])",
    "z": r"(?<z>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)",
    "%": "%",
}


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
    _pattern(time_format)
    return TimeKind(time_format)


def recognise(values: pl.Series, named: bool) -> TimeKind | None:
    """How a column's values (none missing) write times, or None where they do not.

    named: the column's name says that it holds times, so that plain numbers are taken as such,
        and values that do not fit are a fault. A column without such a name must be all times.

    Raises MixedTimes and AmbiguousDates.
    """
    if len(values) == 0:
        return None
    if values.dtype.is_temporal():
        return TimeKind("clock" if values.dtype == pl.Time else "ns")
    if values.dtype == pl.String:
        numbers = values.cast(pl.Float64, strict=False)
    elif values.dtype.is_numeric():
        numbers = values.cast(pl.Float64, strict=False)
    else:
        return None
    classes = _classes(values, numbers)
    counts = dict(classes.value_counts(sort=True).sort("count", "class", descending=True).rows())
    name = next(iter(counts))
    near = next((unit for unit in counts if unit in NANOSECONDS and _all_near(numbers, unit)), None)
    if near:
        return TimeKind(near)
    if len(counts) > 1:
        # Text among numbers is a fault of a column of times only; so are numbers among dates.
        if set(counts) == {"number", "text"} and (not named or name == "text"):
            return None
        if named or (name in _SHAPES and counts[name] > 0.9 * len(values)):
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

    Null where a value is null or is not of the kind.
    """
    if values.dtype.is_temporal():
        if values.dtype == pl.Time:
            return values.cast(pl.Int64)
        return values.cast(pl.Datetime("ns")).dt.epoch("ns")
    if kind.name == "number":
        return _whole(values)
    if kind.name in NANOSECONDS:
        return _count(values, kind.name)
    text = values.cast(pl.String).str.strip_chars()
    if kind.name == "clock":
        return _clock(text)
    if kind.name in _COMPACT.values():
        text = text.str.strip_suffix(".0")
    return _dates(text, kind)


def _classes(values: pl.Series, numbers: pl.Series) -> pl.Series:
    """Of every value the name of its kind: a unit, a format of digits, "number", a shape, "text"."""
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
    for size, form in _COMPACT.items():
        some = np.flatnonzero(digits == size)
        if len(some):
            text = pl.Series([str(int(v)) for v in n[some]])
            real = _dates(text, TimeKind(form))
            year = n[some] // 10 ** (size - 4)
            found[some[real.is_not_null().to_numpy() & (year >= 1995) & (year < 2035)]] = form
    if values.dtype == pl.String:
        left = np.flatnonzero(~finite)
        text = values.gather(left).str.strip_chars() if len(left) else values.head(0)
        for name, shape in {"clock": _CLOCK, **_SHAPES}.items():
            if len(left) == 0:
                break
            fits = text.str.contains(f"^(?:{shape})$").fill_null(False)
            if name == "dates with month names" and fits.any():
                fits &= _dates(text, TimeKind(name)).is_not_null()
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
    fields = text.str.extract_groups(f"^(?:{_SHAPES[shape]})$").struct
    first, second = (fields.field(name).cast(pl.Int64) for name in ("x", "y"))
    if first.max() > 12:
        return True
    if second.max() > 12:
        return False
    if shape == "dates with dots":  # only written with the day in front
        return True
    example = text[0]
    formats = tuple(_format(example, _SHAPES[shape], names) for names in ("dm", "md"))
    raise AmbiguousDates(formats, example)


def _format(example: str, shape: str, names: str) -> str:
    """The strptime format of one date, its first two fields named by `names`."""
    match = re.fullmatch(shape.replace("(?<", "(?P<"), example)
    spans = {key: span for key in match.groupdict() if (span := match.span(key)) != (-1, -1)}
    directives = {"x": names[0], "y": names[1]}
    if "p" in spans:
        directives["H"] = "I"
    if spans["Y"][1] - spans["Y"][0] == 2:
        directives["Y"] = "y"
    made, end = "", 0
    for key, (start, stop) in sorted(spans.items(), key=lambda item: item[1]):
        made += example[end:start].replace("%", "%%") + "%" + directives.get(key, key)
        end = stop
    return made + example[end:].replace("%", "%%")


def _pattern(time_format: str) -> str:
    """Regular expression of a strptime format. Raises DataError on what it cannot have."""
    parts, rest = [], time_format
    while rest:
        if rest[0] != "%":
            parts.append(r"\s+" if rest[0].isspace() else re.escape(rest[0]))
            rest = rest[1:]
            continue
        directive = rest[1:2]
        if directive not in _DIRECTIVES or not directive:
            raise DataError(
                f"time_format={time_format!r}: %{directive} is not known; known are "
                f"{' '.join('%' + name for name in _DIRECTIVES if name != '%')}, or one of "
                f"{', '.join(NANOSECONDS)} since 1970, or number"
            )
        # Without a separator behind them fields have all their digits.
        adjoins = rest[2:3] == "%" or (parts and parts[-1].startswith("(?<"))
        pattern = _DIRECTIVES[directive]
        parts.append(pattern.replace("{1,2}", "{2}") if adjoins else pattern)
        rest = rest[2:]
    pattern = "".join(parts)
    if not {"Y", "d"} <= set(re.findall(r"\(\?<(\w)>", pattern)) or not re.search(
        r"\(\?<[mb]>", pattern
    ):
        raise DataError(
            f"time_format={time_format!r}: expected a format with year, month and day such as "
            f"'%d/%m/%Y %H:%M', one of {', '.join(NANOSECONDS)} since 1970, or number"
        )
    return pattern


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
    whole = values if values.dtype.is_integer() else values.cast(pl.Int64, strict=False)
    if whole.null_count() == values.null_count() and not values.dtype.is_float():
        return whole.cast(pl.Int64)
    numbers = values.cast(pl.Float64, strict=False)
    numbers = numbers.set(~numbers.is_finite().fill_null(False), None)
    if (numbers.drop_nulls() == numbers.drop_nulls().floor()).all() and (
        (numbers.abs().max() or 0) < 2**53
    ):
        return numbers.cast(pl.Int64)
    return numbers


def _clock(text: pl.Series) -> pl.Series:
    """Nanoseconds since midnight. Whole numbers are milliseconds."""
    fields = text.str.extract_groups(f"^(?:{_CLOCK})$").struct.unnest()
    found = _seconds_of_day(fields)
    return found.zip_with(found.is_not_null(), text.cast(pl.Int64, strict=False) * 10**6)


def _dates(text: pl.Series, kind: TimeKind) -> pl.Series:
    pattern = _SHAPES.get(kind.name) or _pattern(kind.name)
    fields = text.str.extract_groups(f"^(?:{pattern})$").struct.unnest()
    if "x" in fields.columns:
        names = ("d", "m") if kind.day_first else ("m", "d")
        fields = fields.rename(dict(zip(("x", "y"), names, strict=True)))
    year = _integer(fields, "Y")
    if year.min() is not None and year.min() < 100:
        # As POSIX has it: 69 to 99 are of the last century.
        year = year + 1900 + 100 * (year < 69).cast(pl.Int64)
    if "b" in fields.columns:
        name = fields["b"].str.to_lowercase().str.slice(0, 3)
        month = name.replace_strict(_MONTHS, range(1, 13), default=None, return_dtype=pl.Int64)
    else:
        month = _integer(fields, "m")
    days = _days(year, month, _integer(fields, "d"))
    day = _seconds_of_day(fields)
    return days * (86_400 * 10**9) + day - _offset(fields)


def _integer(fields: pl.DataFrame, name: str) -> pl.Series:
    if name not in fields.columns:
        return pl.Series(name, [0]).new_from_index(0, len(fields))
    return fields[name].cast(pl.Int64)


def _days(year: pl.Series, month: pl.Series, day: pl.Series) -> pl.Series:
    """Days since 1970, null where there is no such day."""
    missing = year.is_null() | month.is_null() | day.is_null()
    y, m, d = (field.fill_null(1).to_numpy() for field in (year, month, day))
    starts = ((y - 1970) * 12 + m - 1).astype("datetime64[M]")
    first = starts.astype("datetime64[D]").astype(np.int64)
    size = (starts + 1).astype("datetime64[D]").astype(np.int64) - first
    valid = ~missing.to_numpy() & (m >= 1) & (m <= 12) & (d >= 1) & (d <= size)
    valid &= (y > 1700) & (y < 2250)
    return pl.Series(first + d - 1).set(pl.Series(~valid), None)


def _seconds_of_day(fields: pl.DataFrame) -> pl.Series:
    """Nanoseconds since midnight; 0 where only a date is given, null where there is no such time."""
    if "H" not in fields.columns:
        return pl.Series([0]).new_from_index(0, len(fields))
    given = fields["H"].is_not_null()
    hour, minute, second = (_integer(fields, name).fill_null(0) for name in "HMS")
    right = (minute < 60) & (second < 61) & (hour < 25)
    if "p" in fields.columns and fields["p"].is_not_null().any():
        half = fields["p"].str.to_lowercase().str.slice(0, 1)
        right &= half.is_null() | ((hour >= 1) & (hour <= 12))
        noon = pl.Series([12]).new_from_index(0, len(fields))
        twelve = (hour % 12) + noon * (half == "p").fill_null(False).cast(pl.Int64)
        hour = twelve.zip_with(half.is_not_null(), hour)
    right &= hour * 3600 + minute * 60 + second <= 86_400
    total = (hour * 3600 + minute * 60 + second) * 10**9
    if "f" in fields.columns and fields["f"].is_not_null().any():
        total = total + fields["f"].str.pad_end(9, "0").cast(pl.Int64).fill_null(0)
    only_clock = "Y" not in fields.columns
    return total.set(~(right & (given if only_clock else (given | True))), None)


def _offset(fields: pl.DataFrame) -> pl.Series:
    """Nanoseconds that local time is ahead of UTC; 0 where nothing is said."""
    if "z" not in fields.columns or fields["z"].is_null().all():
        return pl.Series([0]).new_from_index(0, len(fields))
    parts = fields["z"].str.extract_groups(r"^(?<sign>[+-])(?<h>\d{2}):?(?<m>\d{2})?$").struct
    minutes = parts.field("h").cast(pl.Int64).fill_null(0) * 60
    minutes = minutes + parts.field("m").cast(pl.Int64).fill_null(0)
    minutes = minutes * (1 - 2 * (parts.field("sign") == "-").fill_null(False).cast(pl.Int64))
    return minutes * (60 * 10**9)
