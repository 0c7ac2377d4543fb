"""Small tables beside the log: histories, lists of items, titles."""

from __future__ import annotations

import io
from typing import Any

import polars as pl

from rka_fast.data import columns, inputs
from rka_fast.data.tables import rows_over_lines, separator_of
from rka_fast.errors import DataError

TITLES = ("title", "name", "titles")
"""What a column of titles may be called."""


def polars_frame(frame: Any) -> pl.DataFrame:
    """A polars frame of one of polars or pandas, whose columns of several types become text."""
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    return pl.DataFrame({str(name): _series(frame[name]) for name in frame.columns})


def _series(column: Any) -> pl.Series:
    """A column of pandas."""
    if getattr(column.dtype, "kind", "") == "M":
        return pl.Series(column.to_numpy("datetime64[us]"))  # NaT is null
    values = column.to_list()
    try:
        found = pl.Series(values)
        return found.fill_nan(None) if found.dtype.is_float() else found
    except TypeError:  # of several types, as text beside NaN is
        empty = column.isna().to_list()
        texts = [None if no else str(x) for x, no in zip(values, empty, strict=True)]
        return pl.Series(texts, dtype=pl.String)


def like(table: pl.DataFrame, given: object) -> Any:
    """The table as pandas' frame, if `given` is one."""
    if not type(given).__module__.startswith("pandas"):
        return table
    import pandas as pd

    return pd.DataFrame({name: table[name].to_numpy() for name in table.columns})


def table_in(content: bytes, path: str, one_column: bool = False) -> pl.DataFrame:
    """The table of a file's content, Parquet or text, whose columns are text there.

    Without a header the columns are column_1, column_2, … one_column: a line is one value where
    nothing separates columns. Raises DataError.
    """
    if content[:4] == b"PAR1":
        try:
            return pl.read_parquet(io.BytesIO(content))
        except pl.exceptions.PolarsError as error:
            raise DataError(f"cannot read {path}: {error}") from None
    text = inputs.decode(content, path)
    lines = [line for line in text.decode().split("\n") if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty")
    separator = separator_of(lines[:500])
    if separator is None and (found := rows_over_lines(lines[:500], len(lines) <= 500)):
        separator = found[0]
    if separator is None or (separator == " " and one_column):
        return _with_header([[line] for line in lines])
    if len(separator) > 1:
        return _with_header([line.split(separator) for line in lines])
    try:
        frame = pl.read_csv(
            io.BytesIO(text),
            separator=separator,
            has_header=False,
            infer_schema=False,
            quote_char='"' if separator in ",;" else None,
            truncate_ragged_lines=True,
        )
    except pl.exceptions.PolarsError as error:
        raise DataError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    return _named(frame)


def _with_header(rows: list[list[str]]) -> pl.DataFrame:
    width = len(rows[0])
    columns = [[row[k] if k < len(row) else None for row in rows] for k in range(width)]
    names = [f"column_{k + 1}" for k in range(width)]
    return _named(
        pl.DataFrame(
            dict(zip(names, columns, strict=True)), schema_overrides=dict.fromkeys(names, pl.String)
        )
    )


def _named(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with its first row as names, where that is a header."""
    first = [cell or "" for cell in frame.row(0)]
    title = any(cell.strip().lower() in TITLES for cell in first)
    if not (columns.recognise(first) or title) or len(set(first)) < len(first):
        return frame
    return frame[1:].rename(dict(zip(frame.columns, first, strict=True)))
