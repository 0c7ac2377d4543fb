"""From raw columns to events: what is missing left out, ids as text, times as numbers."""

# What polars returns may be any literal or None; here it is what the column holds.
# pyright: reportArgumentType=false

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from rka_fast.data import columns as cols
from rka_fast.data.growing import Growing
from rka_fast.data.sources import AROUND, Source, Types
from rka_fast.data.times import TimeKind, parse
from rka_fast.data.where import Condition
from rka_fast.errors import DataError, printable

MISSING = (
    "",
    "NA",
    "N/A",
    "<NA>",
    "NaN",
    "nan",
    "NaT",
    "null",
    "NULL",
    "Null",
    "None",
    "n/a",
    r"\N",
)
"""What stands where there is no value; programs write these."""


@dataclass
class Tally:
    """How many rows there were, and why some are not among the events."""

    rows: int = 0
    kept: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    unrated: int = 0
    headers: int = 0

    def check(self, max_missing: float, titles: dict[str, str], path: str, remedy: str) -> None:
        """Raise DataError where too large a share of the rows lacks something."""
        for role, count in self.missing.items():
            if count > max_missing * max(self.kept, 1):
                raise DataError(
                    f"{path}: the {role} ({titles[role]}) is missing in {count:,} of {self.kept:,} "
                    f"rows, more than --max-missing {max_missing:g} allows; {remedy} --max-missing "
                    f"{math.ceil(100 * count / self.kept) / 100:g}"
                )

    def notes(self, conditions: Sequence[Condition]) -> list[str]:
        """Lines for the report."""
        lines = []
        if conditions:
            where = ", ".join(printable(str(condition)) for condition in conditions)
            lines.append(f"where {where}: {self.kept:,} of {self.rows:,} rows")
        lines += [
            f"left out {count:,} of {self.kept:,} rows: the {role} is missing"
            for role, count in self.missing.items()
            if count
        ]
        if self.headers:
            lines.append(f"left out {self.headers:,} rows that are the header again")
        if self.unrated:
            lines.append(f"{self.unrated:,} events have no rating; --min-rating drops them")
        return lines


def is_missing(values: pl.Series) -> pl.Series:
    """For every value whether nothing is said: null, NaN, blank, or a word of MISSING."""
    if values.dtype.is_float():
        return ~values.is_finite().fill_null(False)
    if values.dtype != pl.String:
        return values.is_null()
    return values.is_null() | values.is_in(MISSING)


def trimmed(values: pl.Series, around: Sequence[str] = AROUND) -> pl.Series:
    """Text without blanks or quotes around it; `around` has those that there are."""
    if values.dtype != pl.String:
        return values
    if not any(values.str.starts_with(c).any() or values.str.ends_with(c).any() for c in around):
        return values
    text = values.str.strip_chars()
    quoted = text.str.contains(r'^"[^"]*"$').fill_null(False)
    return (
        text.str.strip_chars('"').str.strip_chars().zip_with(quoted, text) if quoted.any() else text
    )


def _headers(raw: pl.DataFrame, names: list[str], roles: dict[str, int]) -> pl.Series | None:
    """Which rows are the header again, as in files put one behind the other; None if none are."""
    found = None
    for role in ("user", "item"):
        values = raw[str(roles[role])]
        if values.dtype != pl.String:
            return None
        same = (values == names[roles[role]]).fill_null(False)
        found = same if found is None else found & same
        if not found.any():
            return None
    return found


def _types(
    source: Source, roles: dict[str, int], where: Sequence[int], kind: TimeKind | None
) -> Types:
    """Numbers are read as such at once, where the sample has nothing else."""
    found = {}
    for role, kind_of_number in (("rating", pl.Float64), ("timestamp", pl.Int64)):
        if role in roles and roles[role] not in where and (role == "rating" or kind.is_count):
            sample = source.sample[str(roles[role])]
            if (
                sample.dtype == pl.String
                and not sample.cast(kind_of_number, strict=False).has_nulls()
            ):
                found[roles[role]] = kind_of_number
    return found


def as_text(values: pl.Series, source: Source, position: int) -> pl.Series:
    """Ids as text; whole floats (which missing values make of integers) lose their ".0"."""
    if values.dtype == pl.String:
        return trimmed(values, source.around)
    try:
        if values.dtype.is_float():
            finite = values.set(~values.is_finite().fill_null(False), None)
            if (finite.drop_nulls() == finite.drop_nulls().floor()).all():
                return finite.cast(pl.Int64).cast(pl.String)
            return finite.cast(pl.String)
        if values.dtype == pl.Binary:
            return trimmed(values.cast(pl.String))
        if not values.dtype.is_nested() and values.dtype != pl.Null:
            return values.cast(pl.String)
        if values.dtype == pl.Null:
            return values.cast(pl.String)
    except pl.exceptions.PolarsError:
        pass
    title = printable(source.title(position))
    raise DataError(f"{source.path}: column {title} of type {values.dtype} cannot be ids")


def events(
    source: Source,
    roles: dict[str, int],
    kind: TimeKind | None,
    lists: str | None,
    conditions: Sequence[Condition],
    tally: Tally,
) -> pl.DataFrame:
    """The events of one file: a column a role, ids as categories.

    Raises DataError, with the place, for bad values.
    """
    where = [condition.position(source.names, source.width) for condition in conditions]
    positions, types = sorted({*roles.values(), *where}), _types(source, roles, where, kind)
    of_one = all(condition.is_of_one for condition in conditions)
    if source.parts is not None and lists is None and cols.NEXT not in roles and of_one:
        so_far = replace(tally, missing=dict(tally.missing))
        parts = source.parts(positions, types)
        found = _by_parts(source, roles, kind, conditions, so_far, parts)
        if found is not None:
            vars(tally).update(vars(so_far))
            return found
    raw = source.read(positions, types)
    return _events(source, raw, roles, kind, lists, conditions, tally)


def _by_parts(
    source: Source,
    roles: dict[str, int],
    kind: TimeKind | None,
    conditions: Sequence[Condition],
    tally: Tally,
    parts: Iterable[pl.DataFrame | None],
) -> pl.DataFrame | None:
    """The events of one part after the other; None where only all of them together tell.

    Of the text no more is there at once than a part of it.
    """
    ids: dict[str, list[pl.Series]] = {"user": [], "item": []}
    numbers: dict[str, Growing] = {}
    for raw in parts:
        if raw is None or _depends(raw, source, roles, kind):
            return None
        try:
            some = _events(source, raw, roles, kind, None, conditions, tally)
        except DataError:
            return None  # it names the row in the part, not in the file
        for name, values in some.to_dict().items():
            if name in ids:
                ids[name].append(values)
            else:
                array = values.to_numpy()
                numbers.setdefault(name, Growing(array.dtype)).add(array)
    columns = {name: pl.concat(values) for name, values in ids.items()}
    return pl.DataFrame({**columns, **{name: made.array for name, made in numbers.items()}})


def _depends(
    raw: pl.DataFrame, source: Source, roles: dict[str, int], kind: TimeKind | None
) -> bool:
    """Whether what becomes of some rows may depend on the others."""
    ids, time = {str(roles["user"]), str(roles["item"])}, str(roles.get("timestamp"))
    for column in raw:
        values = column.explode() if isinstance(column.dtype, pl.List) else column
        if trimmed(values, source.around) is not values:
            return True  # one value that is to be trimmed lets all be
        if column.name in ids and (values.dtype == pl.Binary or not _are_whole(values)):
            return True
        counted = kind is not None and kind.name == "number"
        if counted and column.name == time and not _are_integers(values):
            return True  # one that is not whole makes all of them floats
    return False


def _are_whole(values: pl.Series) -> bool:
    """Whether values are no floats, or whole ones."""
    if not values.dtype.is_float():
        return True
    finite = values.filter(values.is_finite().fill_null(False))
    return bool((finite == finite.floor()).all())


def _are_integers(values: pl.Series) -> bool:
    """Whether values are integers of 64 bits, as numbers or as text."""
    if values.dtype != pl.String and not values.dtype.is_integer():
        return False
    return values.cast(pl.Int64, strict=False).null_count() == values.null_count()


def _events(
    source: Source,
    raw: pl.DataFrame,
    roles: dict[str, int],
    kind: TimeKind | None,
    lists: str | None,
    conditions: Sequence[Condition],
    tally: Tally,
) -> pl.DataFrame:
    """The events of some rows."""
    where = [condition.position(source.names, source.width) for condition in conditions]
    row = None  # the row of every event in the file, where it is not its own number
    tally.rows += len(raw)
    if conditions:
        holds = pl.Series([True]).new_from_index(0, len(raw))
        for condition, position in zip(conditions, where, strict=True):
            holds &= condition.holds(trimmed(raw[str(position)]))
        row = holds.arg_true()
        raw = raw.filter(holds)
    if source.names and (again := _headers(raw, source.names, roles)) is not None:
        tally.headers += int(again.sum())
        row = again.not_().arg_true() if row is None else row.filter(~again)
        raw = raw.filter(~again)
    columns = {role: raw[str(position)] for role, position in roles.items()}
    columns, row = _exploded(columns, row, lists, source.place)
    tally.kept += len(columns["user"])
    for role in ("user", "item"):
        columns[role] = as_text(columns[role], source, roles[role])
    present = None
    for role in (r for r in ("user", "item", "timestamp", cols.CLOCK) if r in columns):
        if role not in ("user", "item"):
            columns[role] = trimmed(columns[role], source.around)
        missing = is_missing(columns[role])
        named = "timestamp" if role == cols.CLOCK else role
        count = int(missing.sum())
        tally.missing[named] = tally.missing.get(named, 0) + count
        if count:
            present = ~missing if present is None else present & ~missing
    if present is not None:
        columns = {role: values.filter(present) for role, values in columns.items()}
        row = present.arg_true() if row is None else row.filter(present)

    def place(index: int) -> str:
        return source.place(index if row is None else row[index])

    frame = {role: columns[role].cast(pl.Categorical) for role in ("user", "item")}
    if "rating" in columns:
        frame["rating"] = _ratings(columns["rating"], place, tally)
    if "timestamp" in columns:
        frame["timestamp"] = _times(columns, kind, place)
    return pl.DataFrame(frame)


def split_lists(values: pl.Series, how: str | None) -> pl.Series:
    """Lists that are written as text, as lists; others stay as they are.

    how: what is between the entries, or "[]" for brackets around them.
    """
    if how is None or values.dtype != pl.String:
        return values
    text = values.str.strip_chars()
    if how == "[]":
        text = text.str.strip_chars("[]()").str.replace_all(r"['\"]", "")
        text, how = text.str.replace_all(r"\s*[,;\s]\s*", " ").str.strip_chars(), " "
    return text.str.split(how)


def _exploded(
    columns: dict[str, pl.Series],
    row: pl.Series | None,
    how: str | None,
    place: Callable[[int], str],
) -> tuple[dict[str, pl.Series], pl.Series | None]:
    """One event for every entry of a list."""
    columns = {role: values.rename(role) for role, values in columns.items()}
    for role in columns.keys() & {"item", "rating", "timestamp"}:
        columns[role] = split_lists(columns[role], how)
    if not isinstance(columns["item"].dtype, pl.List):
        return columns, row
    row = pl.Series(range(len(columns["item"]))) if row is None else row
    frame = pl.DataFrame([*columns.values(), row.rename("row")])
    if cols.NEXT in columns:
        after = pl.concat_list(pl.col("item").fill_null([]), pl.col(cols.NEXT))
        frame = frame.with_columns(item=after).drop(cols.NEXT)
        # Where a history has several rows, they are its beginnings.
        longest = pl.col("item").list.len().arg_max().over("user")
        frame = frame.filter(pl.int_range(pl.len()).over("user") == longest)
    exploded = ["item"]
    for role in ("rating", "timestamp"):
        if role not in columns or not isinstance(frame.schema[role], pl.List):
            continue
        exploded.append(role)
        unequal = (frame[role].list.len() != frame["item"].list.len()).fill_null(True)
        if unequal.any():
            at = place(int(frame["row"][int(unequal.arg_max())]))
            raise DataError(f"{at}: the lists of items and of the {role} differ in length")
    frame = frame.explode(exploded).filter(pl.col("item").is_not_null())
    return {role: frame[role] for role in columns if role in frame.columns}, frame["row"]


def _ratings(values: pl.Series, place: Any, tally: Tally) -> pl.Series:
    values = trimmed(values)
    missing = is_missing(values)
    tally.unrated += int(missing.sum())
    numbers = values.cast(pl.Float64, strict=False)
    wrong = ~numbers.is_finite().fill_null(False) & ~missing
    if wrong.any():
        row = int(wrong.arg_max())
        raise DataError(
            f"{place(row)}: rating {printable(values[row])!r} is not a number; if this line is a "
            "header or the column another, say which with --columns"
        )
    return numbers.set(missing, None).fill_null(float("nan"))


def _times(columns: dict[str, pl.Series], kind: TimeKind, place: Any) -> pl.Series:
    values = columns["timestamp"]
    if len(values) == 0:
        return pl.Series(values=[], dtype=pl.Int64)
    found = parse(values, kind)
    if found.null_count():
        row = int(found.is_null().arg_max())
        # The first value that can be read shows how the others are written.
        good = found.is_not_null().arg_true()
        other = f", unlike {printable(values[good[0]])} in {place(good[0])}" if len(good) else ""
        raise DataError(
            f"{place(row)}: timestamp {printable(values[row])!r} does not belong to {kind}{other}; "
            "write all alike, leave this line out, or say how times are written with --time-format"
        )
    if cols.CLOCK in columns:
        clock = parse(columns[cols.CLOCK], TimeKind("clock"))
        if clock.null_count():
            row = int(clock.is_null().arg_max())
            value = printable(columns[cols.CLOCK][row])
            raise DataError(f"{place(row)}: {value!r} is no time of day")
        found = found + clock
    return found
