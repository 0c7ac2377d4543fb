"""Lists of recommendations as a table, a row a recommendation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from rka_fast.data.sequences import Sequences
from rka_fast.recommending.histories import Histories
from rka_fast.recommending.ranking import Top

POPULARITY = "popularity"


class Lister:
    """Makes tables of what was ranked.

    sequences: with the items' ids. titles: of items by id, or None for no such column. says_by:
    whether a column `by` says where popularity stands in for the model.
    """

    def __init__(
        self, sequences: Sequences, titles: Mapping[str, str] | None, says_by: bool, model: str
    ) -> None:
        self.ids = pl.Series(["", *sequences.item_ids], dtype=pl.String)
        self.titles = None
        if titles is not None:
            named = [titles.get(item, "") for item in sequences.item_ids]
            self.titles = pl.Series(["", *named], dtype=pl.String)
        self.says_by, self.model = says_by, model

    def __call__(self, histories: Histories, top: Top) -> pl.DataFrame:
        """Columns user, rank (from 1), item, score and, as they apply, title, mean, std, by."""
        row, place = np.nonzero(top.items)
        items = top.items[row, place]
        found = {
            "user": histories.names.gather(row),
            "rank": pl.Series(place + 1, dtype=pl.Int32),
            "item": self.ids.gather(items),
            "score": pl.Series(top.scores[row, place]),
        }
        if self.titles is not None:
            found["title"] = self.titles.gather(items)
        if top.mean is not None and top.std is not None:
            for name, values in (("mean", top.mean), ("std", top.std)):
                found[name] = pl.Series(values[row, place]).fill_nan(None)
        if self.says_by:
            cold = histories.lengths[row] == 0
            found["by"] = pl.Series(np.where(cold, POPULARITY, self.model), dtype=pl.String)
        return pl.DataFrame(found)
