"""A log joined to sequences that were read before."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl

from rka_fast.data.filters import Filters, seconds
from rka_fast.data.readers import Interactions
from rka_fast.data.sequences import Sequences
from rka_fast.errors import DataError


def joined(old: Sequences, new: Interactions, filters: Filters) -> tuple[Interactions, int]:
    """The events of sequences and those of a log as one log, and how many were in both.

    The log may hold the new events alone or all there are: with filters.duplicates "drop" and
    times, rows equal to an old event in user, item and time are left out. What the old sequences
    have stays; the minimums of `filters` hold for new events, of which they count users and items
    in both together. The rules about ties and repeats are left to `build_sequences`. A column
    `part` of the log makes the old events part 0. Raises DataError where one has times and the
    other not, or where filters.min_rating asks for ratings that are not there.
    """
    frame = new.frame.with_columns(pl.col("user", "item").cast(pl.String))
    timed = old.timestamps is not None
    if ("timestamp" in frame.columns) != timed:
        has, lacks = ("data of the run", "new") if timed else ("new data", "run's")
        raise DataError(
            f"the {has} has times and the {lacks} has none (read as {new.form}); "
            + ("name their column with" if timed else "leave them out by '-' in")
            + " --columns user,item,rating,timestamp"
        )
    if filters.min_rating is not None:
        if "rating" not in frame.columns:
            raise DataError(
                f"min_rating={filters.min_rating:g}: the new data has no ratings (read as "
                f"{new.form}); name the column with --columns"
            )
        frame = frame.filter(pl.Series(frame["rating"].to_numpy() >= filters.min_rating))
    columns = [name for name in ("user", "item", "timestamp", "part") if name in frame.columns]
    frame, stored = frame.select(columns), _frame(old)
    if "part" in columns:
        stored = stored.with_columns(part=pl.lit(0).cast(frame["part"].dtype))
    there = 0
    if timed:
        time = seconds(frame["timestamp"].to_numpy(), new.dated)
        frame = frame.with_columns(timestamp=pl.Series(time, dtype=pl.Float64))
        if filters.duplicates == "drop":
            keys = ["user", "item", "timestamp"]
            kept = frame.join(stored, on=keys, how="anti", maintain_order="left")
            frame, there = kept, len(frame) - len(kept)
    kept = _enough(stored, frame, filters)
    notes = list(new.notes)
    if rare := len(frame) - len(kept):
        notes.append(
            f"left out {rare:,} new events: their user or item has fewer than "
            f"{filters.min_user_events} or {filters.min_item_events} events, old and new"
        )
    whole = pl.concat([stored, kept.select(stored.columns)])
    return dataclasses.replace(new, frame=whole, dated=False, notes=notes), there


def _frame(sequences: Sequences) -> pl.DataFrame:
    """The events as rows, in the order of the sequences."""
    users = pl.Series(sequences.user_ids, dtype=pl.String)
    items = pl.Series(sequences.item_ids, dtype=pl.String)
    columns = {
        "user": users.gather(sequences.event_users),
        "item": items.gather(sequences.items.astype(np.int64) - 1),
    }
    if sequences.timestamps is not None:
        columns["timestamp"] = pl.Series(sequences.timestamps)
    return pl.DataFrame(columns)


def _enough(old: pl.DataFrame, new: pl.DataFrame, filters: Filters) -> pl.DataFrame:
    """The new events of old or of frequent users and items, as the minimums and `core` say."""
    minimums = {"user": filters.min_user_events, "item": filters.min_item_events}
    while True:
        both, kept = pl.concat([old.select(list(minimums)), new.select(list(minimums))]), new
        for name, minimum in minimums.items():
            frequent = both[name].value_counts().filter(pl.col("count") >= minimum)[name]
            known = pl.concat([old[name], frequent]).unique()
            kept = kept.filter(pl.col(name).is_in(known.implode()))
        if filters.core == "single" or len(kept) == len(new):
            return kept
        new = kept
