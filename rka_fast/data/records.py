"""What names its columns and has types: Parquet, JSON and data frames."""

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import polars as pl

from rka_fast.data.columns import recognise
from rka_fast.data.sources import SAMPLE, Source, Types, by_place
from rka_fast.errors import DataError, printable

FRAME = "frame"
"""What a run says its data was, where it came as a data frame."""


def read_parquet(content: bytes, path: str) -> Source:
    """A Parquet file; columns are read when they are asked for."""

    def attempt(action: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        try:
            return action()
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:  # a damaged file makes polars panic, which is no Exception
            reason = printable(str(error).split("\n")[0], 200)
            raise DataError(f"{path} is a damaged Parquet file: {reason}") from None

    sample = attempt(lambda: pl.read_parquet(BytesIO(content), n_rows=SAMPLE))
    names = sample.columns
    return Source(
        path,
        "Parquet",
        names,
        by_place(sample),
        lambda positions, types: attempt(
            lambda: pl.read_parquet(
                BytesIO(content), columns=[names[position] for position in positions]
            ).select(pl.col(names[p]).alias(str(p)) for p in positions)
        ),
        lambda row: f"{path}, row {row + 1}",
    )


def of_frame(frame: pl.DataFrame) -> Source:
    """A data frame, read as a Parquet file with its columns is."""
    names = frame.columns
    return Source(
        FRAME,
        "data frame",
        names,
        by_place(frame.head(SAMPLE)),
        lambda positions, types: frame.select(pl.col(names[p]).alias(str(p)) for p in positions),
        lambda row: f"{FRAME}, row {row + 1}",
    )


def read_json(content: bytes, path: str) -> Source:
    """JSON lines, an array of objects, or one object of users and their items."""
    first, _, rest = content.strip().partition(b"\n")
    if first[:1] == b"[" or not rest.strip() or not _is_object(first):
        return _read_document(content, path)
    numbers, lines = [], []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            numbers.append(number)
            lines.append(line)
    kind = "JSON lines"
    return _frame(b"\n".join(lines), path, kind, lambda row: f"line {numbers[row]}")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return not line.strip().startswith(b"{") or line.strip() not in (b"{",)


def _parsed(text: bytes, where: str, form: str, held: str) -> Any:
    """Its value. Raises DataError where it is not of the form, or too deep for what it holds."""
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{where}: this JSON is nested too deeply to hold {held}") from None
    except ValueError as error:
        raise DataError(f"{where}: not {form}: {error}") from None


def _read_document(content: bytes, path: str) -> Source:
    value = _parsed(content, path, "JSON", "events")
    if isinstance(value, dict):
        # pandas writes columns as objects of their rows.
        columns = {k: list(v.values()) if isinstance(v, dict) else v for k, v in value.items()}
        lists = [v for v in columns.values() if isinstance(v, list)]
        if len(lists) == len(value) and {"user", "item"} <= recognise(list(value)).keys():
            value = [dict(zip(columns, row, strict=False)) for row in zip(*lists, strict=False)]
        elif len(value) > 1 and len(lists) == len(value):
            value = [{"user": user, "item": items} for user, items in value.items()]
        elif len(lists) == 1 and not recognise(list(value)):
            value = lists[0]
        else:
            value = [value]
    if not value or not all(isinstance(record, dict) for record in value):
        raise DataError(
            f"{path}: this JSON is neither an array of objects, one an event, nor an object of "
            "users and their lists of items; write one JSON object a line"
        )
    lines = b"\n".join(json.dumps(record).encode() for record in value)
    return _frame(lines, path, "JSON", lambda row: f"record {row + 1}")


def _frame(lines: bytes, path: str, kind: str, where: Callable[[int], str]) -> Source:
    """Records of one object a line. Ids stay as they are, so scalars are read as strings."""
    try:
        typed = pl.read_ndjson(BytesIO(lines), infer_schema_length=None)
        schema = dict(typed.schema)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException:  # types that disagree, or a line that is none
        schema = _schema(lines, path, where)
    nested = {name: t for name, t in schema.items() if isinstance(t, pl.List)}
    read_as = {name: nested.get(name, pl.String) for name in schema}
    read_as |= {
        name: pl.Struct({f.name: pl.String for f in t.fields if not f.dtype.is_nested()})
        for name, t in schema.items()
        if isinstance(t, pl.Struct)
    }
    read_as |= {name: pl.List(pl.String) for name, t in nested.items() if not t.inner.is_nested()}
    if not read_as:
        raise DataError(f"{path}: these JSON objects are empty")
    try:
        frame = pl.read_ndjson(BytesIO(lines), schema=read_as)
    except pl.exceptions.PolarsError as error:
        _schema(lines, path, where)
        raise DataError(f"{path}: {printable(str(error), 200)}") from None
    frame = _flat(frame)
    names = frame.columns
    frame = by_place(frame)

    def read(positions: Sequence[int], types: Types) -> pl.DataFrame:
        return frame.select(str(position) for position in positions)

    return Source(path, kind, names, frame.head(SAMPLE), read, lambda row: f"{path}, {where(row)}")


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


def _schema(lines: bytes, path: str, where: Callable[[int], str]) -> dict[str, pl.DataType]:
    """The names of all records; raises DataError for a record that is no object."""
    schema: dict[str, pl.DataType] = {}
    for row, line in enumerate(lines.split(b"\n")):
        value = _parsed(line, f"{path}, {where(row)}", "a JSON object", "an event")
        if not isinstance(value, dict):
            text = printable(line.decode(errors="replace"), 40)
            raise DataError(f"{path}, {where(row)}: not a JSON object: {text}")
        for name, cell in value.items():
            kind = pl.List(pl.String) if isinstance(cell, list) else pl.String()
            if name not in schema or isinstance(kind, pl.List):
                schema[name] = kind
    return schema
