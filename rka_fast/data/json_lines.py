"""One JSON object a line: the names and types of all of them, and their rows, some at a time."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import islice
from typing import Any

import polars as pl

from rka_fast.data.sources import SAMPLE, Source, Types, by_place
from rka_fast.data.texts import Text
from rka_fast.errors import DataError, printable

PART = 1 << 22  # bytes that are parsed at a time


def parsed(text: bytes, where: str, form: str, held: str) -> Any:
    """Its value. Raises DataError where it is not of the form, or too deep for what it holds."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise DataError(f"{where}: this JSON is nested too deeply to hold {held}") from None
    except ValueError as error:
        raise DataError(f"{where}: not {form}: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no value of JSON; write null where there is none")


def read_lines(
    text: Text, path: str, kind: str, where: Callable[[int], str] | None = None
) -> Source:
    """Records of one object a line. Ids stay as they are, so scalars are read as strings.

    where: how messages call a row, by default by the number of its line.
    """
    lines = _Lines(text, path, where)
    sample = lines.sample()
    names = sample.columns
    return Source(path, kind, names, by_place(sample), lines.read, lines.place, parts=lines.parts)


class _Lines:
    """Objects, one a line; lines may be blank.

    types: what the columns are read as, by name. These are found by looking at all objects before
    the first is read, so that what is read does not depend on what is read with it.
    """

    def __init__(self, text: Text, path: str, where: Callable[[int], str] | None) -> None:
        self.text, self.path, self._where = text, path, where
        self.types = _read_as(self._schema())
        if not self.types:
            raise DataError(f"{path}: these JSON objects are empty")

    def sample(self) -> pl.DataFrame:
        """The first rows, with their names."""
        lines = (line for part in self._parts() for line in _lines(part))
        head = b"".join(islice(lines, SAMPLE))
        try:
            return self._frame(head)
        except pl.exceptions.PolarsError as error:
            raise self._fault(error) from None

    def read(self, positions: Sequence[int], types: Types) -> pl.DataFrame:
        """All rows of the columns at some positions, called by their place."""
        try:
            return _columns(self._frame(self._whole()), positions)
        except pl.exceptions.PolarsError as error:
            raise self._fault(error) from None

    def parts(self, positions: Sequence[int], types: Types) -> Iterator[pl.DataFrame | None]:
        """The rows of `read`, some at a time; None where it is to say what is wrong."""
        for part in self._parts():
            try:
                yield _columns(self._frame(part), positions)
            except pl.exceptions.PolarsError:
                yield None

    def place(self, row: int) -> str:
        """Where a row stands, for messages."""
        return f"{self.path}, {self._named(row)}"

    def _named(self, row: int) -> str:
        if self._where is not None:
            return self._where(row)
        numbers = (n for n, line in enumerate(BytesIO(self.text.content), 1) if line.strip())
        return f"line {next(islice(numbers, row, None))}"

    def _parts(self) -> Iterator[bytes]:
        """The text without blank lines, some lines at a time."""
        for text in self.text.parts(0, PART):
            if part := b"".join(_lines(text)):
                yield part

    def _whole(self) -> bytes:
        return b"".join(_lines(self.text.content))

    def _frame(self, lines: bytes) -> pl.DataFrame:
        return _flat(pl.read_ndjson(BytesIO(lines), schema=self.types))

    def _schema(self) -> dict[str, pl.DataType]:
        """Types by name, as polars finds them in all objects together."""
        types = _inferred(self.text.content)  # before it is let go of
        if types is None or not all(_fits(part, types) for part in self.text.parts(0, PART)):
            types = _inferred(whole := self._whole())  # without blank lines that polars minds
            if types is None or not _fits(whole, types):
                return self._literal()
        return types

    def _literal(self) -> dict[str, pl.DataType]:
        """Types by name where they disagree; raises DataError for a record that is no object."""
        schema: dict[str, pl.DataType] = {}
        for row, line in enumerate(_lines(self.text.content)):
            line = line.removesuffix(b"\n")
            try:
                value = json.loads(line, parse_constant=_no_constant)
            except (ValueError, RecursionError):  # a place takes long to find: only where needed
                value = parsed(line, self.place(row), "a JSON object", "an event")
            if not isinstance(value, dict):
                text = printable(line.decode(errors="replace"), 40)
                raise DataError(f"{self.place(row)}: not a JSON object: {text}")
            for name, cell in value.items():
                kind = pl.List(pl.String) if isinstance(cell, list) else pl.String()
                if name not in schema or isinstance(kind, pl.List):
                    schema[name] = kind
        return schema

    def _fault(self, error: pl.exceptions.PolarsError) -> DataError:
        """What is said where polars cannot read what it has found the types of."""
        self._literal()
        return DataError(f"{self.path}: {printable(str(error), 200)}")


def _lines(text: bytes) -> Iterator[bytes]:
    """Those that are not blank."""
    return (line for line in BytesIO(text) if line.strip())


def _columns(frame: pl.DataFrame, positions: Sequence[int]) -> pl.DataFrame:
    return by_place(frame).select(str(position) for position in positions)


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Objects in objects as columns, {"user": {"id": 1}} as user.id."""
    columns: list[pl.Series] = []
    for column in frame:
        if isinstance(column.dtype, pl.Struct):
            inner = column.struct.unnest()
            columns += [field.rename(f"{column.name}.{field.name}") for field in inner]
        else:
            columns.append(column)
    return pl.DataFrame(columns)


def _inferred(lines: bytes) -> dict[str, pl.DataType] | None:
    """Types that all objects have together, by name; None where polars finds none."""
    return _schema_of(lines, infer_schema_length=None, n_rows=1)


def _fits(lines: bytes, types: Mapping[str, pl.DataType]) -> bool:
    """Whether polars reads objects as these types."""
    return _schema_of(lines, schema=types) is not None


def _schema_of(lines: bytes, **how: Any) -> dict[str, pl.DataType] | None:
    try:
        return dict(pl.read_ndjson(BytesIO(lines), **how).schema)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException:  # types that disagree, or a line that is none
        return None


def _read_as(schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
    """What columns of these types are read as: scalars as they are written."""
    found: dict[str, pl.DataType] = {}
    for name, of in schema.items():
        found[name] = pl.String()
        if isinstance(of, pl.List):
            found[name] = of if of.inner.is_nested() else pl.List(pl.String)
        elif isinstance(of, pl.Struct):
            scalars = [field.name for field in of.fields if not field.dtype.is_nested()]
            found[name] = pl.Struct(dict.fromkeys(scalars, pl.String))
    return found
