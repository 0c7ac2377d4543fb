"""What names its columns and has types: Parquet, JSON and data frames."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO

import polars as pl

from rka_fast.data.columns import recognise
from rka_fast.data.json_lines import parsed, read_lines
from rka_fast.data.sources import SAMPLE, Source, Types, by_place
from rka_fast.data.texts import Text
from rka_fast.errors import DataError, printable

PART = 1 << 19
"""Rows of Parquet that are read at a time; of one with many rows a sixteenth, as a row group may be
unpacked again for every part of it."""

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

    def parts(positions: Sequence[int], types: Types) -> Iterator[pl.DataFrame | None]:
        columns = [pl.col(names[p]).alias(str(p)) for p in positions]
        file = pl.scan_parquet(content)
        begin = 0
        try:
            rows = attempt(lambda: file.select(pl.len()).collect())["len"][0]
            size = max(PART, rows // 16)
            while begin < rows:
                yield attempt(file.select(columns).slice(begin, size).collect)
                begin += size
        except DataError:
            yield None  # all of it at once tells

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
        parts=parts,
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


def read_json(text: Text, path: str) -> Source:
    """JSON lines, an array of objects, or one object of users and their items."""
    content, line = text.content, re.compile(rb"\S.*")
    first = line.search(content)
    assert first is not None
    more = line.search(content, first.end()) is not None
    if more and first[0][:1] != b"[" and _is_object(first[0].strip()):
        return read_lines(text, path, "JSON lines")
    return _read_document(content, path)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return not line.strip().startswith(b"{") or line.strip() not in (b"{",)


def _read_document(content: bytes, path: str) -> Source:
    value = parsed(content, path, "JSON", "events")
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
    return read_lines(Text(lines, path), path, "JSON", lambda row: f"record {row + 1}")
