"""Delimited text: which separator, which quotes, whether there is a header, and all its rows."""

import csv
import io
from collections import Counter
from collections.abc import Sequence

from rka_fast.data import columns as cols
from rka_fast.data.rows import SEPARATORS, Rows, fields
from rka_fast.data.sources import Source
from rka_fast.data.texts import Text
from rka_fast.errors import DataError

LINES = 500  # lines that are looked at to tell the form
_COMMENTS = ("#", "%", "//", "sep=")  # the last is Excel's
_MOST_COLUMNS = 10_000


def separator_of(lines: Sequence[str], least: float = 0.9) -> str | None:
    """What separates the columns: what gives nearly every line the same number of fields.

    Of several what separates the first line, often a header, like the others; then what gives the
    most columns that differ from row to row, the most numbers, the most columns: ids may have a
    separator in them. Blanks only where nothing else does, as they are inside of names and dates.
    """
    found = {}
    for separator in SEPARATORS:
        rows = [fields(line, separator) for line in lines]
        width, share = Counter(map(len, rows)).most_common(1)[0]
        if width > 1 and share >= least * len(lines):
            found[separator] = [row for row in rows if len(row) == width]
    blanks = found.pop(" ", None)
    if len(found) < 2:
        return next(iter(found), " " if blanks else None)
    return max(found, key=lambda separator: _worth(found[separator], fields(lines[0], separator)))


def _worth(rows: list[list[str]], first: list[str]) -> tuple[bool, int, int, int]:
    """Whether the first line is as wide as the rows; columns that differ, of numbers, in all."""
    columns = list(zip(*(rows[1:] or rows), strict=True))  # the first may be the header
    differ = sum(len(set(column)) > 1 for column in columns)
    numbers = sum(all(map(_is_number, column)) for column in columns)
    return len(first) == len(columns), differ, numbers, len(columns)


def rows_over_lines(
    lines: Sequence[str], whole: bool = False
) -> tuple[str, list[list[str]]] | None:
    """The separator and the rows where quoted fields go over several lines, else None.

    whole: whether the lines are all there are, so that the last row is not cut off.
    """
    if sum(line.count('"') % 2 for line in lines) < 2:
        return None
    for separator in (s for s in SEPARATORS if len(s) == 1 and s != " "):
        try:
            text = io.StringIO("\n".join(lines), newline="")
            rows = [row for row in csv.reader(text, delimiter=separator) if row]
            rows = rows if whole else rows[:-1]
        except csv.Error:
            continue
        width, count = Counter(map(len, rows)).most_common(1)[0] if rows else (0, 0)
        long = any("\n" in cell for row in rows for cell in row)
        if long and width > 1 and count >= 0.9 * len(rows) and len(rows) > 0.2 * len(lines):
            return separator, rows
    return None


def skipped(count: int, comment: str) -> str:
    """The note on lines of comment that were left out."""
    lines = "1 line that begins" if count == 1 else f"{count:,} lines that begin"
    return f"skipped {lines} with {comment}"


def without_comments(lines: list[str]) -> tuple[list[str], str | None]:
    """The lines, and with what the comments begin that stood in front of them, if any did."""
    prefix = next((p for p in _COMMENTS if lines[0].startswith(p)), None)
    if prefix is None or sum(line.startswith(prefix) for line in lines) > 0.5 * len(lines):
        return lines, None
    return [line for line in lines if not line.startswith(prefix)], prefix


def read_table(content: Text, lines: list[str], path: str, columns: Sequence[str] | None) -> Source:
    """A table; `lines` are its first ones, none of them blank."""
    lines, comment = without_comments(lines)
    separator, rows = rows_over_lines(lines) or (None, [])
    long_quotes = separator is not None
    if separator is None:
        separator = separator_of(lines) or separator_of(lines, 0.5) or ","
        rows = [fields(line, separator) for line in lines]
    width = Counter(map(len, rows)).most_common(1)[0][0]
    if max(width, len(rows[0])) > _MOST_COLUMNS:
        raise DataError(
            f"{path}: {len(rows[0]):,} columns separated by {SEPARATORS[separator]}; at most "
            f"{_MOST_COLUMNS:,} are read. Is there one event a line?"
        )
    names = _header(rows, width, columns)
    width = len(names) if names else width
    text = Rows(content, path, separator, width, comment, names is not None, long_quotes)
    sample = text.sample()
    if len(sample) == 0:
        raise DataError(f"{path} has a header but no interactions")
    notes = [skipped(text.comments, comment)] if comment else []
    kind = _kind(separator, names)
    return Source(
        path,
        kind,
        names,
        sample,
        text.read,
        text.place,
        notes,
        around=text.around(),
        has_points=text.has(b"."),
        parts=text.parts,
    )


def form_of(kind: str, names: Sequence[str] | None) -> str:
    """The name of a form that its header makes certain, or the kind itself."""
    if names is not None and cols.is_typed(names):
        return "RecBole .inter"
    if names == ["userId", "movieId", "rating", "timestamp"]:
        return "MovieLens ratings.csv"
    return kind


def _kind(separator: str, names: Sequence[str] | None) -> str:
    kind = {",": "CSV", "\t": "TSV"}.get(separator, f"table separated by {SEPARATORS[separator]}")
    return f"{kind} {'without' if names is None else 'with'} header"


# --- the header ---


def _header(rows: list[list[str]], width: int, columns: Sequence[str] | None) -> list[str] | None:
    first, rest = [cell.strip() for cell in rows[0]], [r for r in rows[1:] if len(r) == width]
    wanted = {part for c in columns or () for part in (c.strip(), *c.strip().split("+"))}
    if not wanted.isdisjoint(set(first)) and not any(map(_is_number, first)):
        return first
    if len(first) == width - 1 and rest and cols.recognise(first):
        if not any(row[-1].strip() for row in rest):
            return [*first, ""]  # a separator ends every line
        return ["", *first]  # R writes no name above the rows' names
    if len(first) != width and not (cols.is_typed(first) or len(cols.recognise(first)) > 1):
        return None
    if cols.is_typed(first):
        return first
    if any(map(_is_number, first)) or len(set(first)) < len(first):
        return None
    known = {first[position] for position in cols.recognise(first).values()}
    if known and not any(cell in known for row in rest for cell in row):
        return first
    return first if _stands_out(first, rest) else None


def _stands_out(first: list[str], rest: list[list[str]]) -> bool:
    """Whether the first row is unlike the others where these are alike, and nowhere like them."""
    unlike = False
    for cell, *column in zip(first, *rest, strict=True):
        values = [value for value in map(str.strip, column) if value]
        if len(values) < 2:
            continue
        for has in (_is_number, _has_digit):
            if sum(map(has, values)) >= 0.95 * len(values):
                if has(cell):
                    return False
                unlike = True
                break
    return unlike


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _has_digit(text: str) -> bool:
    return any(map(str.isdigit, text))
