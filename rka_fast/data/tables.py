"""Text files: delimited tables, and one user a line."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl

from rka_fast.data import columns as cols
from rka_fast.errors import DataError

_SAMPLE = 500  # lines that are looked at to tell the form
_SEPARATORS = {  # in the order they are tried, as messages call them
    "::": "'::'",
    "\t": "tabs",
    ",": "commas",
    ";": "semicolons",
    "|": "'|'",
    " ": "spaces",
}
_QUOTING = (",", ";")
_WELL_KNOWN = {
    ("::", *cols.ROLES): "MovieLens ratings.dat",
    ("\t", *cols.ROLES): "MovieLens u.data",
    (",", *cols.ROLES): "Amazon ratings CSV",
    (" ", "user", "item"): "SASRec user item lines",
}
_TYPED = re.compile(r"^[^:]+:(token|float|token_seq|float_seq)$")
HINT = "say which columns hold what with --columns user,item,rating,timestamp"


class Part(NamedTuple):
    """One file as it was read: `frame` has a column a role."""

    frame: pl.DataFrame
    form: str
    sessions: bool = False  # users are sessions, numbered anew in every file


def read_text(text: str, path: str, columns: Sequence[str] | None) -> Part:
    """Read any text form but JSON; `text` has "\\n" line ends and a line with something in it."""
    sample = [line for line in text.split("\n", _SAMPLE)[:_SAMPLE] if line.strip()]
    if columns is None and _is_ragged(sample):
        return _read_sequences(text, sample, path)
    return _read_table(text, sample, path, columns)


# --- one user a line ---


def _is_ragged(sample: list[str]) -> bool:
    """Lines of different lengths between blanks, each with a first word of its own (or a count)."""
    tabs = Counter(line.count("\t") for line in sample)
    columns, lines = tabs.most_common(1)[0]
    if columns and lines > 0.9 * len(sample):
        return False
    if any(separator in sample[0] for separator in _SEPARATORS if separator.strip()):
        return False
    rows = [line.split() for line in sample]
    if len({len(row) for row in rows}) == 1:
        return len(rows[0]) > 4 and all(word.isdigit() for word in rows[0])
    return _are_counts(rows) or len({row[0] for row in rows}) == len(rows)


def _are_counts(rows: list[list[str]]) -> bool:
    return all(row[0] == str(len(row) - 1) for row in rows)


def _read_sequences(text: str, sample: list[str], path: str) -> Part:
    words = pl.Series(text.split("\n")).str.extract_all(r"\S+")
    lines = pl.DataFrame({"words": words}).with_row_index("line", offset=1)
    lines = lines.filter(pl.col("words").list.len() > 0)
    first = pl.col("words").list.first()
    if _are_counts([line.split() for line in sample]):
        form = "one user a line: columns count, item, item, ... (users are numbered by line)"
        found = pl.col("words").list.len() - 1
        wrong = lines.filter(first != found.cast(pl.String))
        if len(wrong):
            line, row = wrong.select("line", "words").row(0)
            raise DataError(
                f"{path}, line {line}: the count in front is {row[0]}, but "
                f"{len(row) - 1} items follow"
            )
        user = pl.col("line").cast(pl.String)
    else:
        form, user = "one user a line: columns user, item, item, ...", first
        twice = lines.filter(first.is_duplicated())
        if len(twice):
            line, row = twice.select("line", "words").row(len(twice) - 1)
            raise DataError(
                f"{path}, line {line}: read as one user a line, but user {row[0]!r} has more than "
                f"one; {HINT}"
            )
    events = lines.select(user=user, item=pl.col("words").list.slice(1))
    return Part(events.explode("item").drop_nulls("item"), form)


# --- tables ---


def _read_table(text: str, sample: list[str], path: str, columns: Sequence[str] | None) -> Part:
    separator = _separator(sample)
    if separator == " ":
        text = re.sub(r"[ ]+", " ", re.sub(r"^ +| +$", "", text, flags=re.MULTILINE))
    rows = [row for _, row in _records("\n".join(sample), separator)]
    header = rows[0]
    is_typed = all(_TYPED.match(name) for name in header)
    known = cols.recognise([name.rpartition(":")[0] for name in header] if is_typed else header)
    named = columns is not None and {c.strip() for c in columns} - {"-"} <= set(header)
    names = header if is_typed or named or "user" in known or "item" in known else None
    # Without a header the width that most lines have is right; the others are complained of.
    width = len(names) if names else Counter(map(len, rows)).most_common(1)[0][0]
    if columns is not None:
        roles = cols.choose(columns, names, width)
    elif names:
        roles = known
    else:
        roles = cols.guess([row for row in rows if len(row) == width], width) or {}
    if "user" not in roles or "item" not in roles:
        raise DataError(_undetected(path, separator, names, width))
    roles = {role: roles[role] for role in cols.ROLES if role in roles}
    if names:
        used = [names[position] for position in roles.values()]
    else:
        meaning = {position: role for role, position in roles.items()}
        used = [meaning.get(position, "-") for position in range(width)]
    frame = _read_columns(text, path, separator, width, roles, skip=bool(names))
    form = _form(separator, names, used, is_typed)
    sessions = bool(names) and "session" in names[roles["user"]].lower()
    return Part(frame, f"{form}: columns {', '.join(used)}", sessions)


def _separator(sample: list[str]) -> str:
    """The first separator that nearly every line has, so that one broken line can be named."""
    enough = 0.9 * len(sample)
    return next((s for s in _SEPARATORS if sum(s in line for line in sample) >= enough), ",")


def _read_columns(
    text: str, path: str, separator: str, width: int, roles: dict[str, int], skip: bool
) -> pl.DataFrame:
    body = text.partition("\n")[2] if skip else text
    if not body.strip():
        raise DataError(f"{path} has a header but no interactions")
    # A separator is one byte to polars, so "::" becomes the ASCII unit separator.
    single = separator if len(separator) == 1 else "\x1f"
    schema = {f"column {position}": pl.String for position in range(width)}
    try:
        raw = pl.read_csv(
            body.replace(separator, single).encode(),
            has_header=False,
            schema=schema,
            separator=single,
            quote_char='"' if separator in _QUOTING else None,
        )
    except pl.exceptions.PolarsError as error:
        _check_widths(text, path, separator, width)
        raise DataError(f"{path}: {error}") from error
    raw = raw.with_row_index("record")
    if raw[:, -1].null_count():  # blank lines, empty last fields, or lines that are too short
        raw = raw.filter(~pl.all_horizontal(pl.exclude("record").is_null()))
        _check_widths(text, path, separator, width)
    records = raw["record"]

    def place(row: int) -> str:
        wanted = records[row] + skip
        line = next(n for i, (n, _) in enumerate(_records(text, separator)) if i == wanted)
        return f"{path}, line {line}"

    return cols.typed(raw.select(**{r: f"column {p}" for r, p in roles.items()}), place)


def _records(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every record; in plain Python, for the sample and for errors."""
    if separator in _QUOTING:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        yield from ((reader.line_num, fields) for fields in reader)
    else:
        for number, line in enumerate(text.split("\n"), start=1):
            yield number, line.split(separator) if line else []


def _check_widths(text: str, path: str, separator: str, width: int) -> None:
    for line, fields in _records(text, separator):
        if fields and len(fields) != width:
            raise DataError(
                f"{path}, line {line}: expected {width} columns separated by "
                f"{_SEPARATORS[separator]}, got {len(fields)}"
            )


def _form(separator: str, names: list[str] | None, used: list[str], is_typed: bool) -> str:
    if is_typed:
        return "RecBole .inter"
    if names == ["userId", "movieId", "rating", "timestamp"]:
        return "MovieLens ratings.csv"
    if names and {"SessionId", "ItemId", "Time"} <= set(names):
        return "CiteULike sessions"
    if not names and (separator, *used) in _WELL_KNOWN:
        return _WELL_KNOWN[(separator, *used)]
    kind = {",": "CSV", "\t": "TSV"}.get(separator, f"table separated by {_SEPARATORS[separator]}")
    return f"{kind} {'with' if names else 'without'} header"


def _undetected(path: str, separator: str, names: list[str] | None, width: int) -> str:
    has = f"the header has {', '.join(names)}" if names else f"no header, {width} columns"
    return (
        f"{path}: cannot tell the user and the item. Tried Parquet, JSON lines, one user a line, "
        f"and a table separated by {_SEPARATORS[separator]} ({has}); {HINT}"
    )
