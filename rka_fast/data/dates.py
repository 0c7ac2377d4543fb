"""How dates and times of day are written, and what point in time each value is."""

# What polars returns may be any literal or None; here it is what the column holds.
# pyright: reportOperatorIssue=false

import re

import numpy as np
import polars as pl

from rka_fast.errors import DataError

NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
"""Units of counts since 1970, as `--time-format` names them."""

COMPACT = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}  # digits without separators
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

CLOCK = (
    r"(?<H>\d{1,2}):(?<M>\d{2})(?::(?<S>\d{2})(?:[.,](?<f>\d{1,9})\d*)?)?"
    r"(?:\s*(?<p>[AaPp]\.?[Mm]\.?))?"
)
_ZONE = r"(?:\s*(?<z>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?))?"
_NAME = r"(?<b>[A-Za-z]{3,9})\.?"
_WEEKDAY = r"(?:[A-Za-z]{3,9},?\s+)?"
_TWO = r"(?<x>\d{1,2})SEP(?<y>\d{1,2})SEP(?<Y>\d{4}|\d{2})" + rf"(?:,?\s+{CLOCK}{_ZONE})?"
SHAPES = {  # by what messages call them; values of one shape make a column
    "dates": (
        r"(?<Y>\d{4})[-/.](?<m>\d{1,2})[-/.](?<d>\d{1,2})"
        rf"(?:(?:[T_,]|\s)\s*{CLOCK}{_ZONE})?"
    ),
    "dates with slashes": _TWO.replace("SEP", "[/-]"),
    "dates with dots": _TWO.replace("SEP", r"\."),
    "dates with month names": (
        rf"{_WEEKDAY}(?<d>\d{{1,2}})[-/\s]{_NAME}[-/\s](?<Y>\d{{4}}|\d{{2}})"
        rf"(?:[,:]?\s*{CLOCK}{_ZONE})?"
    ),
    "dates with month names first": (
        rf"{_WEEKDAY}{_NAME}\s+(?<d>\d{{1,2}}),?\s+(?<Y>\d{{4}})(?:,?\s+{CLOCK}{_ZONE})?"
    ),
    "dates with the year last": (
        rf"{_WEEKDAY}{_NAME}\s+(?<d>\d{{1,2}})\s+{CLOCK}{_ZONE}\s+(?<Y>\d{{4}})"
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


def clock_of(text: pl.Series) -> pl.Series:
    """Nanoseconds since midnight. Whole numbers are milliseconds."""
    fields = text.str.extract_groups(f"^(?:{CLOCK})$").struct.unnest()
    found = _seconds_of_day(fields)
    return found.zip_with(found.is_not_null(), text.cast(pl.Int64, strict=False) * 10**6)


def date_of(text: pl.Series, name: str, day_first: bool | None = None) -> pl.Series:
    """int64 nanoseconds since 1970 of dates of a shape or a strptime format; null for others."""
    pattern = SHAPES.get(name) or pattern_of(name)
    fields = _of_one_width(text, pattern)
    if fields is None:
        fields = text.str.extract_groups(f"^(?:{pattern})$").struct.unnest()
    if "x" in fields.columns:
        names = ("d", "m") if day_first else ("m", "d")
        fields = fields.rename(dict(zip(("x", "y"), names, strict=True)))
    year = _integer(fields, "Y")
    if year.min() is not None and year.min() < 100:
        # As POSIX has it: 69 to 99 are of the last century.
        year = year + 1900 + 100 * (year < 69).cast(pl.Int64)
    if "b" in fields.columns:
        short = fields["b"].str.to_lowercase().str.slice(0, 3)
        month = short.replace_strict(_MONTHS, range(1, 13), default=None, return_dtype=pl.Int64)
    else:
        month = _integer(fields, "m")
    days = _days(year, month, _integer(fields, "d"))
    found = days * (86_400 * 10**9)
    if "H" in fields.columns:
        found = found + _seconds_of_day(fields)
    return found - _offset(fields) if "z" in fields.columns else found


def _of_one_width(text: pl.Series, pattern: str) -> pl.DataFrame | None:
    """The fields of values that all look like the first one but for their digits, else None.

    A regular expression is slow; here bytes become digits column by column.
    """
    if len(text) < 1000 or text.null_count():
        return None
    example = text[0]
    match = re.fullmatch(pattern.replace("(?<", "(?P<"), example)
    if match is None or not example.isascii() or (text.str.len_bytes() != len(example)).any():
        return None
    spans = {key: span for key in match.groupdict() if (span := match.span(key)) != (-1, -1)}
    digits = {key: span for key, span in spans.items() if example[slice(*span)].isdecimal()}
    matrix = np.frombuffer(text.str.join("")[0].encode(), np.uint8).reshape(len(text), len(example))
    fixed = np.ones(len(example), bool)
    fields: dict[str, pl.Series] = {}
    for key, (start, stop) in digits.items():
        fixed[start:stop] = False
        number = np.zeros(len(text), np.int64)
        for place in range(start, stop):
            digit = matrix[:, place] - np.uint8(48)  # other bytes wrap round to above 9
            if digit.max() > 9:
                return None
            number = number * 10 + digit
        fields[key] = pl.Series(number * 10 ** (9 - stop + start) if key == "f" else number)
    if (matrix[:, fixed] != np.frombuffer(example.encode(), np.uint8)[fixed]).any():
        return None
    rest = {key: [example[slice(*span)]] for key, span in spans.items() if key not in digits}
    return pl.DataFrame(fields).with_columns(
        pl.Series(key, value).new_from_index(0, len(text)) for key, value in rest.items()
    )


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
    """Nanoseconds since midnight; 0 for a date alone, null where there is no such time."""
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
        fraction = fields["f"]
        if fraction.dtype == pl.String:
            fraction = fraction.str.pad_end(9, "0").cast(pl.Int64)
        total = total + fraction.fill_null(0)
    only_clock = "Y" not in fields.columns
    return total.set(~(right & (given if only_clock else (given | True))), None)


def _offset(fields: pl.DataFrame) -> pl.Series:
    """Nanoseconds that local time is ahead of UTC; 0 where nothing is said."""
    if fields["z"].is_null().all():
        return pl.Series([0]).new_from_index(0, len(fields))
    parts = fields["z"].str.extract_groups(r"^(?<sign>[+-])(?<h>\d{2}):?(?<m>\d{2})?$").struct
    minutes = parts.field("h").cast(pl.Int64).fill_null(0) * 60
    minutes = minutes + parts.field("m").cast(pl.Int64).fill_null(0)
    minutes = minutes * (1 - 2 * (parts.field("sign") == "-").fill_null(False).cast(pl.Int64))
    return minutes * (60 * 10**9)


def format_of(example: str, shape: str, names: str) -> str:
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


def pattern_of(time_format: str) -> str:
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
