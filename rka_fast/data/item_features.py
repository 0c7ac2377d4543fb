"""Features of items from a table: categories, numbers and vectors, as one row of numbers each."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from rka_fast.data import columns as cols
from rka_fast.data import inputs
from rka_fast.data.records import FRAME
from rka_fast.data.sequences import Sequences
from rka_fast.errors import DataError, printable

SEPARATORS = "\t,;|"
"""Of the columns: the first of these that the header has. Categories in a value: always by "|"."""

MOST = 8192
"""Features at most."""


class Columns(NamedTuple):
    """names: of the features made of one column. values: float32 (rows, features). note: of it."""

    names: list[str]
    values: np.ndarray
    note: str


def read_item_features(path: str | os.PathLike | pl.DataFrame) -> pl.DataFrame:
    """A data frame, a Parquet file, or a text file with a header, whose values are then text.

    The items are first, as text in a column "item". Raises DataError.
    """
    if isinstance(path, pl.DataFrame):
        return _with_items(path, "item_features")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        again = ""
        if path == FRAME:
            again = "; the features were a data frame, which is to be given again (or a file)"
        raise DataError(f"item_features: cannot read {path}: {error.strerror}{again}") from None
    try:
        if content[:4] == b"PAR1":
            frame = pl.read_parquet(io.BytesIO(content))
        else:
            text = inputs.decode(content, str(path))
            header = text.split(b"\n", 1)[0].decode()
            separator = next((mark for mark in SEPARATORS if mark in header), None)
            if separator is None:
                raise DataError(f"{path}: its first line has one column; expected id and features")
            frame = pl.read_csv(io.BytesIO(text), separator=separator, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    return _with_items(frame, str(path))


def _with_items(frame: pl.DataFrame, path: str) -> pl.DataFrame:
    """The frame with the ids first, as text without blanks in a column "item"."""
    place = cols.recognise(frame.columns).get("item", 0)
    ids = frame.to_series(place)
    if ids.dtype.is_nested() or ids.dtype.is_float():
        raise DataError(
            f"{path}: column {ids.name!r} cannot be item ids, it is {ids.dtype}; name the column "
            "of the ids item_id"
        )
    ids = ids.cast(pl.String).str.strip_chars().alias("item")
    rest = frame.drop(frame.columns[place])
    if "item" in rest.columns:
        rest = rest.rename({"item": "item_"})
    frame = rest.insert_column(0, ids).filter(pl.col("item").fill_null("") != "")
    if frame.width < 2 or not len(frame):
        raise DataError(f"{path}: expected a column of item ids and others, got {frame.columns}")
    if twice := frame["item"].filter(frame["item"].is_duplicated()).to_list():
        raise DataError(
            f"{path}: item {twice[0]!r} has {twice.count(twice[0])} rows; expected one an item"
        )
    return frame


def with_features(
    sequences: Sequences, frame: pl.DataFrame
) -> tuple[Sequences, dict[str, Any], list[str]]:
    """The sequences with the features of a table that `read_item_features` read.

    Items that the log does not have join the catalogue, at its end. Strings (and lists of them) are
    categories, several with "|" between; those of one item alone are left out. Text that is numbers
    throughout, numbers and booleans become standardised numbers, lists of numbers vectors, centred
    and of length 1 on average. What is missing is 0. Returns facts and lines for a person too.
    Raises DataError.
    """
    made = {name: _encoded(name, frame[name]) for name in frame.columns[1:]}
    names = [name for part in made.values() for name in part.names]
    if not names or len(names) > MOST:
        told = "; ".join(f"{printable(name)}: {part.note}" for name, part in made.items())
        raise DataError(
            f"item_features: expected 1 to {MOST:,} features, got {len(names):,} ({told})"
        )
    known = sequences.indices("item")
    cold = [item for item in frame["item"].to_list() if item not in known]
    whole = dataclasses.replace(sequences, item_ids=[*sequences.item_ids, *cold])
    features = np.zeros((whole.num_items, len(names)), np.float32)
    features[whole.item_indices(frame["item"].to_list()) - 1] = np.concatenate(
        [part.values for part in made.values()], axis=1
    )
    missing = whole.num_items - len(frame)
    facts = {"count": len(names), "items_without_events": len(cold), "items_without": missing}
    lines = [
        f"item features: {len(names):,} from {frame.width - 1:,} columns; {len(cold):,} items "
        f"without events join the catalogue, {missing:,} items have no features",
        *(f"item features, {printable(name)}: {part.note}" for name, part in made.items()),
    ]
    return dataclasses.replace(whole, features=features, feature_names=names), facts, lines


def _encoded(name: str, column: pl.Series) -> Columns:
    kind = column.dtype
    if isinstance(kind, (pl.List, pl.Array)):
        if kind.inner is not None and kind.inner.is_numeric():
            return _vectors(name, column.to_list())
        return _categories(name, [[str(x) for x in value or []] for value in column.to_list()])
    if kind == pl.Boolean or kind.is_numeric():
        return _numbers(name, column.cast(pl.Float64).fill_null(np.nan).to_numpy())
    text = column.cast(pl.String).str.strip_chars()
    numbers = text.cast(pl.Float64, strict=False)
    if column.dtype == pl.String and column.name and _is_text_of_numbers(text, numbers):
        return _numbers(name, numbers.fill_null(np.nan).to_numpy())
    return _categories(name, [(value or "").split("|") for value in text.to_list()])


def _is_text_of_numbers(text: pl.Series, numbers: pl.Series) -> bool:
    given = text.fill_null("") != ""
    return bool(given.any()) and bool(numbers.filter(given).is_finite().fill_null(False).all())


def _categories(name: str, values: Sequence[Sequence[str]]) -> Columns:
    table = pl.DataFrame(
        {"row": range(len(values)), "value": pl.Series(values, dtype=pl.List(pl.String))}
    )
    table = table.explode("value").with_columns(pl.col("value").str.strip_chars())
    table = table.filter(pl.col("value").fill_null("") != "").unique()
    counts = table["value"].value_counts().sort("value")
    kept = counts.filter(pl.col("count") > 1)["value"].to_list()
    place = {value: number for number, value in enumerate(kept)}
    encoded = np.zeros((len(values), len(kept)), np.float32)
    for row, value in table.iter_rows():
        if value in place:
            encoded[row, place[value]] = 1
    note = f"{len(kept):,} categories, and {len(counts) - len(kept):,} of one item alone, left out"
    return Columns([f"{name}={value}" for value in kept], encoded, note)


def _numbers(name: str, values: np.ndarray) -> Columns:
    finite = np.isfinite(values)
    spread = values[finite].std() if finite.any() else 0.0
    if not 0 < spread < np.inf:
        return Columns([], np.zeros((len(values), 0), np.float32), "the same for all, left out")
    scaled = np.where(finite, (np.where(finite, values, 0) - values[finite].mean()) / spread, 0)
    note = f"numbers, {int((~finite).sum()):,} missing"
    return Columns([name], scaled[:, None].astype(np.float32), note)


def _vectors(name: str, values: list[list[float] | None]) -> Columns:
    given = [k for k, value in enumerate(values) if value]
    widths = {len(values[k] or ()) for k in given}
    if len(widths) > 1:
        raise DataError(
            f"item_features: the vectors of column {name!r} differ in length: "
            f"{', '.join(map(str, sorted(widths)[:5]))}"
        )
    width = next(iter(widths), 0)
    encoded = np.zeros((len(values), width))
    for k in given:
        encoded[k] = values[k]
    if not np.isfinite(encoded).all():
        raise DataError(
            f"item_features: a vector of column {name!r} has a value that is not finite"
        )
    encoded[given] -= encoded[given].mean(0) if given else 0
    length = np.linalg.norm(encoded[given], axis=1).mean() if given else 0.0
    if not length > 0:
        return Columns([], np.zeros((len(values), 0), np.float32), "the same for all, left out")
    note = f"vectors of {width:,} numbers, {len(values) - len(given):,} missing"
    return Columns(
        [f"{name}[{i}]" for i in range(width)], (encoded / length).astype(np.float32), note
    )
