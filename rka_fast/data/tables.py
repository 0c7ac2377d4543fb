"""Delimited text: which separator, which quotes, whether there is a header, and all its rows."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

import polars as pl

from rka_fast.data import columns as cols
from rka_fast.data.sources import AROUND, SAMPLE, Source, Types
from rka_fast.errors import DataError, printable

LINES = 500  # lines that are looked at to tell the form
SEPARATORS = {  # of two that give the same number of columns the first is taken
    "\t": "tabs",
    ",": "commas",
    ";": "semicolons",
    "|": "'|'",
    "::": "'::'",
    "\x01": "Ctrl-A",
    " ": "spaces",
}
_COMMENTS = ("#", "%", "//")
_MOST_COLUMNS = 10_000


def separator_of(lines: Sequence[str], least: float = 0.9) -> str | None:
    """What separates the columns: what gives nearly every line the same number of fields.

    Of several what gives the most columns that differ from row to row, then the most columns:
    ids may have a separator in them. Blanks only where nothing else does, as they are inside of
    names and dates.
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
    return max(found, key=lambda separator: _worth(found[separator]))


def _worth(rows: list[list[str]]) -> tuple[int, int]:
    """How many columns differ from row to row, and how many there are."""
    columns = list(zip(*(rows[1:] or rows), strict=True))  # the first may be the header
    return sum(len(set(column)) > 1 for column in columns), len(columns)


def fields(line: str, separator: str) -> list[str]:
    """The fields of one line; quotes count only where they stand around whole fields."""
    if separator == " ":
        line = " ".join(line.split())
    if '"' in line and re.match(_well_formed(separator), line):
        single = separator if len(separator) == 1 else "\x1f"
        try:
            return next(csv.reader([line.replace(separator, single)], delimiter=single))
        except csv.Error:
            pass
    return line.split(separator)


def _long_quotes(lines: Sequence[str]) -> tuple[str, list[list[str]]] | None:
    """The separator and the rows where quoted fields go over several lines, else None."""
    if sum(line.count('"') % 2 for line in lines) < 2:
        return None
    for separator in (s for s in SEPARATORS if len(s) == 1 and s != " "):
        try:
            text = io.StringIO("\n".join(lines), newline="")
            rows = [row for row in csv.reader(text, delimiter=separator) if row][:-1]
        except csv.Error:
            continue
        width, count = Counter(map(len, rows)).most_common(1)[0] if rows else (0, 0)
        long = any("\n" in cell for row in rows for cell in row)
        if long and width > 1 and count >= 0.9 * len(rows) and len(rows) > 0.2 * len(lines):
            return separator, rows
    return None


def without_comments(lines: list[str]) -> tuple[list[str], str | None]:
    """The lines, and with what the comments begin that stood in front of them, if any did."""
    prefix = next((p for p in _COMMENTS if lines[0].startswith(p)), None)
    if prefix is None or sum(line.startswith(prefix) for line in lines) > 0.5 * len(lines):
        return lines, None
    return [line for line in lines if not line.startswith(prefix)], prefix


def read_table(
    content: bytes, lines: list[str], path: str, columns: Sequence[str] | None
) -> Source:
    """A table in UTF-8 text; `lines` are its first ones, none of them blank."""
    lines, comment = without_comments(lines)
    separator, rows = _long_quotes(lines) or (None, [])
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
    text = _Text(content, path, separator, width, comment, names is not None, long_quotes)
    sample = text.sample()
    if len(sample) == 0:
        raise DataError(f"{path} has a header but no interactions")
    notes = [f"skipped {text.comments:,} lines that begin with {comment}"] if comment else []
    kind = _kind(separator, names)
    return Source(path, kind, names, sample, text.read, text.place, notes, around=text.around())


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


# --- all rows ---


class _Text:
    """The rows of a table, without its header."""

    def __init__(
        self,
        content: bytes,
        path: str,
        separator: str,
        width: int,
        comment: str | None,
        has_header: bool,
        long_quotes: bool = False,
    ) -> None:
        self.long_quotes = long_quotes
        self.path, self.separator, self.width, self.comment = path, separator, width, comment
        self.comments = 0
        if comment:
            prefix = comment.encode()
            self.comments = content.count(b"\n" + prefix) + content.startswith(prefix)
        end = self.before = 0  # lines in front of the body
        if has_header:
            self.body = content
            self.before = next(self._records())[0]
            for _ in range(self.before):
                end = content.find(b"\n", end) + 1 or len(content)
        self.body = content[end:]

    def sample(self) -> pl.DataFrame:
        every = range(self.width)
        head = self._head(SAMPLE)
        frame = None if self.long_quotes else self._parse(head, every, {})
        if frame is not None and self._is_complete(frame, head):
            return frame
        rows = [r for _, r in islice(self._records(), SAMPLE) if len(r) == self.width]
        return pl.DataFrame(rows, schema={str(k): pl.String for k in every}, orient="row")

    def read(self, positions: Sequence[int], types: Types) -> pl.DataFrame:
        wanted = sorted({*positions, self.width - 1})
        if self.long_quotes:
            return self._by_records(wanted).select(str(position) for position in positions)
        frame = self._parse(self.body, wanted, types)
        # Every line has all its separators if none lacks its last field and the sum is right.
        if frame is None or not self._is_complete(frame, self.body):
            frame = self._careful(wanted)
        return frame.select(str(position) for position in positions)

    def around(self) -> tuple[str, ...]:
        """Which blanks and quotes may stand around fields."""
        others = (c for c in AROUND if c != self.separator)
        return tuple(c for c in others if c.encode()[-1:] in self.body)

    def place(self, row: int) -> str:
        line = next(islice(self._records(), row, None), (0, []))[0]
        return f"{self.path}, line {line}"

    def _head(self, lines: int) -> bytes:
        end = 0
        for _ in range(lines):
            end = self.body.find(b"\n", end) + 1
            if end == 0:
                return self.body
        return self.body[:end]

    def _single(self) -> str:
        # A separator is one byte to polars, so "::" becomes the ASCII unit separator.
        return self.separator if len(self.separator) == 1 else "\x1f"

    def _parse(self, body: bytes, positions: Sequence[int], types: Types) -> pl.DataFrame | None:
        """What polars reads if there is nothing unusual; None where it fails."""
        if b'"' in body or not re.search(rb"\S", body):
            return None
        if self.separator != self._single():
            body = body.replace(self.separator.encode(), b"\x1f")
        return self._polars(body, positions, types, quotes=False)

    def _polars(
        self, body: bytes, positions: Sequence[int], types: Types, quotes: bool
    ) -> pl.DataFrame | None:
        every = [f"column_{k + 1}" for k in range(self.width)]
        try:
            frame = pl.read_csv(
                body,
                has_header=False,
                schema={name: types.get(k, pl.String) for k, name in enumerate(every)},
                columns=[every[position] for position in positions],
                separator=self._single(),
                quote_char='"' if quotes else None,
                comment_prefix=self.comment,
            )
        except pl.exceptions.PolarsError:
            return None
        return frame.rename({every[position]: str(position) for position in positions})

    def _is_complete(self, frame: pl.DataFrame, body: bytes) -> bool:
        if frame[:, -1].null_count() and self.width > 1:
            return False
        if frame.width == self.width and not self.comment:
            return True  # polars has refused lines with more
        found = body.count(self.separator.encode())
        if self.comment:
            found -= sum(
                line.count(self.separator)
                for line in body.decode().split("\n")
                if line.startswith(self.comment)
            )
        return found == len(frame) * (self.width - 1)

    def _careful(self, positions: Sequence[int]) -> pl.DataFrame:
        """Rows where there are quotes, blank lines, runs of blanks or empty last fields."""
        lines = pl.DataFrame({"line": pl.Series(self.body.decode().split("\n"))})
        lines = lines.with_row_index("number", offset=self.before + 1)
        if self.separator == " ":
            lines = lines.with_columns(
                pl.col("line").str.strip_chars().str.replace_all(r"[ \t]+", " ")
            )
        lines = lines.filter(pl.col("line").str.strip_chars(" \t\x0b\x0c") != "")
        if self.comment:
            lines = lines.filter(~pl.col("line").str.starts_with(self.comment))
        odd = lines.filter(
            pl.col("line").str.contains('"', literal=True)
            & ~pl.col("line").str.contains(_well_formed(self.separator))
        )
        if len(odd) and self._has_long_quotes(odd):
            self.long_quotes = True
            return self._by_records(positions)
        lines = lines.with_columns(
            odd=pl.col("number").is_in(odd["number"].implode()),
            separators=pl.col("line").str.count_matches(re.escape(self.separator)),
        )
        quoted = pl.col("line").str.contains('"', literal=True) & ~pl.col("odd")
        lines = lines.with_columns(
            separators=pl.when(quoted)
            .then(
                pl.col("line")
                .str.replace_all(r'"(?:[^"]|"")*"', "")
                .str.count_matches(re.escape(self.separator))
            )
            .otherwise("separators")
        )
        wrong = lines.filter(pl.col("separators") != self.width - 1)
        if len(wrong):
            number, line = wrong.select("number", "line").row(0)
            raise self._wrong_width(number, len(fields(line, self.separator)))
        parts = []
        for odd_lines in (False, True):
            some = lines.filter(pl.col("odd") == odd_lines)
            if len(some) == 0:
                continue
            text = some["line"].str.replace_all(self.separator, self._single(), literal=True)
            body = "\n".join(text.to_list()).encode()
            comment, self.comment = self.comment, None
            frame = self._polars(body, positions, {}, quotes=not odd_lines)
            self.comment = comment
            if frame is None or len(frame) != len(some):
                return self._by_records(positions)
            parts.append(frame.with_columns(some["number"]))
        if not parts:
            raise DataError(f"{self.path} has a header but no interactions")
        return pl.concat(parts).sort("number").drop("number")

    def _has_long_quotes(self, odd: pl.DataFrame) -> bool:
        """Whether quotes go over several lines; raises DataError where one is never closed."""
        try:
            text = io.StringIO(self.body.decode(), newline="")
            reader = csv.reader(text, delimiter=self._single(), strict=True)
            if all(len(row) in (0, self.width) for row in reader):
                return True
        except csv.Error:
            pass
        opened = re.compile(f'(?:^|{re.escape(self.separator)})"')
        for number, line in odd.select("number", "line").iter_rows():
            if line.count('"') % 2 and opened.search(line):
                raise DataError(
                    f"{self.path}, line {number}: a quote is opened and not closed in "
                    f"{printable(line)}; close it, or leave quotes out"
                )
        return False

    def _by_records(self, positions: Sequence[int]) -> pl.DataFrame:
        rows = []
        for number, row in self._records():
            if len(row) != self.width:
                raise self._wrong_width(number, len(row))
            rows.append([row[position] for position in positions])
        schema = {str(position): pl.String for position in positions}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _wrong_width(self, line: int, found: int) -> DataError:
        return DataError(
            f"{self.path}, line {line}: expected {self.width} columns separated by "
            f"{SEPARATORS[self.separator]}, got {found}"
        )

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and fields of every record, one after the other, in plain Python."""
        stream = io.TextIOWrapper(io.BytesIO(self.body), encoding="utf-8", newline="\n")
        if self.long_quotes:
            reader = csv.reader(stream, delimiter=self._single())
            yield from ((self.before + reader.line_num, row) for row in reader if row)
            return
        for number, line in enumerate(stream, start=self.before + 1):
            line = line.rstrip("\n")
            if line.strip() and not (self.comment and line.startswith(self.comment)):
                yield number, fields(line, self.separator)


def _well_formed(separator: str) -> str:
    """Regular expression of a line whose quotes all stand around whole fields."""
    if len(separator) == 1:
        other = rf'[^"{re.escape(separator)}]*'
    else:
        other = r'[^":]*(?::[^":]+)*'
    field = rf'(?:"(?:[^"]|"")*"|{other})'
    return rf"^{field}(?:{re.escape(separator)}{field})*$"
