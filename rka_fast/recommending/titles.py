"""Titles of items by their ids, of a file, a frame or a dictionary."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from rka_fast.data import columns
from rka_fast.errors import DataError, printable
from rka_fast.files import path_of
from rka_fast.recommending.asked import content_of, is_frame, name_of
from rka_fast.recommending.tables import TITLES, polars_frame, table_in


def titles_of(given: Any) -> Mapping[str, str] | None:
    """Titles by item id, of a file, a mapping or a frame; None of None. Raises DataError, or
    ConfigError for what is none of them."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        return titles_by_id(given.items())
    if is_frame(given):
        return titles_in(polars_frame(given), "titles")
    return read_titles(path_of(given, "titles", "a file, a dictionary or a data frame"))


def read_titles(path: str | os.PathLike) -> dict[str, str]:
    """Titles of items by id: a table with columns item and title (or name), with or without a
    header, or MovieLens' movies.dat, u.item and movies.csv. Raises DataError."""
    return titles_in(table_in(content_of(path), str(path)), str(path))


def titles_in(frame: pl.DataFrame, path: str) -> dict[str, str]:
    """Titles of items by id; by name, or the first two columns. Raises DataError."""
    item = columns.recognise(frame.columns).get("item", 0)
    plain = [name.strip().lower() for name in frame.columns]
    named = (k for k, n in enumerate(plain) if n in TITLES or n.endswith(("title", "_name")))
    title = next(named, 1)
    if frame.width < 2 or item == title:
        raise DataError(
            f"{path}: expected the columns item and title, got "
            f"{', '.join(map(printable, frame.columns))}"
        )
    return titles_by_id(zip(frame.to_series(item), frame.to_series(title), strict=True))


def titles_by_id(pairs: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    """Titles by id, both as text, of the items that have one."""
    found: dict[str, str] = {}
    for item, title in pairs:
        if title is not None:
            found[str(item)] = found[name_of(item)] = str(title)
    return found
