"""All rows of a delimited text: polars reads what is usual, and lines are looked at else."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import islice

import polars as pl

from rka_fast.data.sources import AROUND, SAMPLE, Types
from rka_fast.data.texts import Text
from rka_fast.errors import DataError, printable

SEPARATORS = {  # of two that give the same number of columns the first is taken
    "\t": "tabs",
    ",": "commas",
    ";": "semicolons",
    "|": "'|'",
    "::": "'::'",
    "\x01": "Ctrl-A",
    " ": "spaces",
}

PART = 1 << 20  # bytes that are parsed at a time


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


class Rows:
    """The rows of a table, without its header."""

    def __init__(
        self,
        text: Text,
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
            prefix, content = comment.encode(), text.content
            self.comments = content.count(b"\n" + prefix) + content.startswith(prefix)
        self.text, self.begin = text, 0
        self.before = 0  # lines in front of the rows
        if has_header:
            self.before = next(self._records())[0]
            for _ in range(self.before):
                self.begin = text.content.find(b"\n", self.begin) + 1 or len(text.content)

    @property
    def body(self) -> bytes:
        """The text of all rows, a copy of it where there is a header."""
        return self.text.content[self.begin :]

    def sample(self) -> pl.DataFrame:
        every = range(self.width)
        head = self._head(SAMPLE)
        frame = None if self.long_quotes else self._parse(head, every, {})
        if frame is not None and self._is_complete(frame, head):
            return frame
        rows = [r for _, r in islice(self._records(), SAMPLE) if len(r) == self.width]
        return pl.DataFrame(rows, schema={str(k): pl.String for k in every}, orient="row")

    def read(self, positions: Sequence[int], types: Types) -> pl.DataFrame:
        if self.long_quotes:
            return self._by_records(positions)
        frame = self._usual(self.body, positions, types)
        if frame is not None:
            return frame
        frame = self._careful(sorted({*positions, self.width - 1}))
        return frame.select(str(position) for position in positions)

    def parts(self, positions: Sequence[int], types: Types) -> Iterator[pl.DataFrame | None]:
        """The rows of `read`, some at a time; None instead of those that are unusual."""
        if self.long_quotes:
            yield None
            return
        for part in self.text.parts(self.begin, PART):
            yield self._usual(part, positions, types)

    def has(self, byte: bytes) -> bool:
        """Whether a byte stands anywhere in the rows."""
        return self.text.content.find(byte, self.begin) >= 0

    def around(self) -> tuple[str, ...]:
        """Which blanks and quotes may stand around fields."""
        others = (c for c in AROUND if c != self.separator)
        return tuple(c for c in others if self.has(c.encode()[-1:]))

    def place(self, row: int) -> str:
        line = next(islice(self._records(), row, None), (0, []))[0]
        return f"{self.path}, line {line}"

    def _head(self, lines: int) -> bytes:
        content, end = self.text.content, self.begin
        for _ in range(lines):
            end = content.find(b"\n", end) + 1
            if end == 0:
                return self.body
        return content[self.begin : end]

    def _single(self) -> str:
        # A separator is one byte to polars, so "::" becomes the ASCII unit separator.
        return self.separator if len(self.separator) == 1 else "\x1f"

    def _usual(self, body: bytes, positions: Sequence[int], types: Types) -> pl.DataFrame | None:
        """What polars reads if it has read every line rightly, else None."""
        frame = self._parse(body, sorted({*positions, self.width - 1}), types)
        if frame is not None and frame[:, -1].has_nulls():
            # Empty last fields, or lines that lack some: only all columns tell.
            frame = self._parse(body, range(self.width), types)
        if frame is None or not self._is_complete(frame, body):
            return None
        return frame.select(str(position) for position in positions)

    def _parse(self, body: bytes, positions: Sequence[int], types: Types) -> pl.DataFrame | None:
        """What polars reads if there is nothing unusual; None where it fails."""
        quotes = b'"' in body
        if not re.search(rb"\S", body) or (quotes and not self._are_around_fields(body)):
            return None
        if quotes:  # separators in fields cannot be counted, so all columns are read
            positions = range(self.width)
        if self.separator != self._single():
            body = body.replace(self.separator.encode(), b"\x1f")
        return self._polars(body, positions, types, quotes)

    def _are_around_fields(self, body: bytes) -> bool:
        """Whether every quote begins or ends a field, none does both, and there are as many."""
        separator, end = self.separator.encode(), b"" if body.endswith(b"\n") else b"\n"
        body = b"\n" + body + end
        begin = body.count(separator + b'"') + body.count(b'\n"')
        ends = body.count(b'"' + separator) + body.count(b'"\n')
        both = sum(body.count(a + b'"' + b) for a in (separator, b"\n") for b in (separator, b"\n"))
        return begin == ends and not both and body.count(b'"') == begin + ends

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
        # Polars has refused longer lines if it has read all columns. Then no line is shorter if
        # none lacks its last field, or if there are as many separators as there must be.
        full, whole = frame.width == self.width, not frame[:, -1].has_nulls()
        if b'"' in body:
            lines = body.count(b"\n") + (not body.endswith(b"\n"))
            return full and whole and len(frame) == lines and not self.comment
        if full and whole and not self.comment:
            return True
        if not full and not whole:
            return False
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
        content = io.BytesIO(self.text.content)
        content.seek(self.begin)
        stream = io.TextIOWrapper(content, encoding="utf-8", newline="\n")
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
    other = rf'[^"{re.escape(separator)}]*' if len(separator) == 1 else r'[^":]*(?::[^":]+)*'
    field = rf'(?:"(?:[^"]|"")*"|{other})'
    return rf"^{field}(?:{re.escape(separator)}{field})*$"
