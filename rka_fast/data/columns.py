"""Which column is the user, the item, the rating and the time, and what their values must be."""

from collections.abc import Callable, Sequence

import polars as pl

from rka_fast.errors import DataError

ROLES = ("user", "item", "rating", "timestamp")

# Names as they are after `_plain`; earlier ones win where a header has several.
_NAMES = {
    "user": "user userid uid username reviewerid visitorid customerid memberid session sessionid",
    "item": (
        "item itemid movieid asin parentasin productid gmapid businessid gameid appid trackid "
        "songid artistid bookid isbn videoid articleid newsid iid product movie"
    ),
    "rating": "rating overall score stars ratings reviewrating",
    "timestamp": "timestamp unixreviewtime unixtime time datetime date posted createdat eventtime",
}
KNOWN = {role: names.split() for role, names in _NAMES.items()}

# An ISO date, or date and time, after "T" became a space and a final "Z" went.
_DATE, _DATE_TIME = "%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f"
_BIG = 1e8  # seconds since 1970 pass this in 1973; no rating does
_HIGHEST_RATING = 100  # a lone third column above this counts time in steps of its own


def recognise(names: Sequence[str]) -> dict[str, int]:
    """Positions of the columns whose names are known, by role."""
    plain = [_plain(name) for name in names]
    found = {}
    for role, known in KNOWN.items():
        position = next((plain.index(name) for name in known if name in plain), None)
        if position is not None:
            found[role] = position
    return found


def choose(columns: Sequence[str], names: Sequence[str] | None, width: int) -> dict[str, int]:
    """Positions by role from the user's own choice; see `readers.read_interactions`."""
    columns = [str(column).strip() for column in columns]
    said = f"columns={','.join(columns)}"
    wanted = [column for column in columns if column != "-"]
    if all(column.isdigit() for column in wanted):
        positions = [None if column == "-" else int(column) for column in columns]
    elif names is not None and all(column in names for column in wanted):
        positions = [None if column == "-" else names.index(column) for column in columns]
    elif set(wanted) <= set(ROLES):
        # The columns' meanings in the order of the file.
        return _complete({c: i for i, c in enumerate(columns) if c != "-"}, said, width)
    else:
        unknown = [column for column in wanted if column not in (names or ROLES)]
        has = f"the header has {', '.join(names)}" if names else "the file has no header"
        raise DataError(f"{said}: no column {', '.join(unknown)}; {has}; give names or positions")
    if len(positions) > len(ROLES):
        raise DataError(f"{said}: at most {len(ROLES)} columns, {', '.join(ROLES)}")
    chosen = {r: p for r, p in zip(ROLES, positions, strict=False) if p is not None}
    return _complete(chosen, said, width)


def guess(sample: Sequence[Sequence[str]], width: int) -> dict[str, int] | None:
    """Positions for a table without a header, by its width and values; None where unclear."""
    last = [row[width - 1] for row in sample]
    if width == 2:
        return {"user": 0, "item": 1}
    if width == 3:
        is_time = _is_time(last, above=_HIGHEST_RATING)
        return {"user": 0, "item": 1, "timestamp" if is_time else "rating": 2}
    if width == 4:
        if _is_time([row[2] for row in sample]) and not _is_time(last):
            return {"user": 0, "item": 1, "timestamp": 2, "rating": 3}
        return dict(zip(ROLES, range(4), strict=True))
    return None


def typed(raw: pl.DataFrame, place: Callable[[int], str]) -> pl.DataFrame:
    """Ids as strings, ratings and times as float64 (seconds); every value is present and finite.

    raw: one column a role. place: where a row stands, for messages.
    """
    parsed = {}
    for role in raw.columns:
        column = raw[role]
        number = role in ("rating", "timestamp")
        parsed[role] = values = _numbers(column, role) if number else column.cast(pl.String)
        wrong = ~values.is_finite().fill_null(False) if number else values.fill_null("") == ""
        if wrong.any():
            row = int(wrong.arg_max())
            raise DataError(f"{place(row)}: {_complaint(role, column[row])}")
    return pl.DataFrame(parsed)


def _complaint(role: str, value) -> str:
    hint = "if this line is a header or the column another, say which with --columns"
    if value is None or value == "":
        return f"the {role} is missing"
    if role == "rating":
        return f"rating {value!r} is not a number; {hint}"
    return f"timestamp {value!r} is neither a number nor an ISO date; {hint}"


def _numbers(column: pl.Series, role: str) -> pl.Series:
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    if column.dtype != pl.String:
        return column.cast(pl.Float64, strict=False)
    text = column.str.strip_chars()
    numbers = text.cast(pl.Float64, strict=False)
    if role == "rating" or numbers.null_count() == 0:
        return numbers
    text = text.str.replace("T", " ", literal=True).str.strip_suffix("Z")
    dates = text.str.to_date(_DATE, strict=False).cast(pl.Datetime("us"))
    times = text.str.to_datetime(_DATE_TIME, strict=False, time_unit="us")
    seconds = dates.zip_with(dates.is_not_null(), times).dt.epoch("us") / 1e6
    return numbers.zip_with(numbers.is_not_null(), seconds)


def _is_time(values: Sequence[str], above: float = _BIG) -> bool:
    numbers = _numbers(pl.Series(values, dtype=pl.String), "timestamp")
    return numbers.null_count() == 0 and numbers.min() > above


def _complete(chosen: dict[str, int], said: str, width: int) -> dict[str, int]:
    if "user" not in chosen or "item" not in chosen:
        raise DataError(f"{said}: user and item are needed, as in --columns user,item")
    outside = [position for position in chosen.values() if position >= width]
    if outside:
        raise DataError(f"{said}: no column {outside[0]}; the file has {width}, counted from 0")
    return chosen


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
