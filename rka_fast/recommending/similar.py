"""Items like an item: by the item kernel, by who had both, or by the vectors they are scored by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from rka_fast.data.counting import Counts, counts_of
from rka_fast.errors import ConfigError, hint
from rka_fast.models.rksa import RKSA
from rka_fast.recommending.options import check_number
from rka_fast.recommending.ranking import top_items

if TYPE_CHECKING:
    from rka_fast.data.batches import Batcher
    from rka_fast.models import Recommender

ROWS = 64  # items that are compared with the catalogue at a time


def similar_items(
    model: Recommender,
    batcher: Batcher,
    items: np.ndarray,
    top: int,
    by: str | None,
    counts: Counts | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Item indices, int64 (B, k), 0 where there are fewer, and similarities, float32 (B, k).

    items: int64 (B,). by: "item", the kernel of the item embeddings, exp(2 gamma (cos - 1));
    "cooccurrence", the counting kernel c_ij / sqrt(c_ii c_jj) of the training events, items nobody
    had together left out; "embedding", the cosine of the vectors that scores are made of. None
    takes the first that the model has. counts: of the training events, where they are made already.
    Raises ConfigError for a similarity that the model has not.
    """
    check_number("top", top, 1)
    compare, found = _comparison(model, batcher, by, counts), []
    with torch.no_grad():
        for start in range(0, len(items), ROWS):
            rows = items[start : start + ROWS]
            found.append(_best(compare(rows), rows, top))
    places, values = zip(*found, strict=True)
    return torch.cat(places).numpy(), torch.cat(values).numpy()


def _best(values: Tensor, rows: np.ndarray, top: int) -> tuple[Tensor, Tensor]:
    values[:, 0] = values[torch.arange(len(rows)), rows] = -torch.inf  # padding, and itself
    places = top_items(values, top)
    values = values.gather(1, places)
    return places.masked_fill(values == -torch.inf, 0), values


@torch.no_grad()
def _comparison(
    model: Recommender, batcher: Batcher, by: str | None, counts: Counts | None
) -> Callable[[np.ndarray], Tensor]:
    """A function of items (b,) that gives their similarity to every item, (b, num_items + 1)."""
    has: dict[str, Callable[[], Callable[[np.ndarray], Tensor]]] = {}
    if isinstance(model, RKSA) and model.used[1]:
        table, gamma = model.items.weight, model.kernels.concentration[0]
        has["item"] = lambda: _cosine(table, lambda cos: torch.exp(2.0 * gamma * (cos - 1.0)))
    if model.has_vectors:
        has["embedding"] = lambda: _cosine(model.item_vectors(), lambda cos: cos)
    has["cooccurrence"] = lambda: _counting(
        counts or batcher.cooccurrence or counts_of(batcher.split)
    )
    by = by or next(iter(has))
    if by not in BY:
        raise ConfigError(f"by must be one of {', '.join(BY)}, got {by!r}; {hint(by, BY)}")
    if by not in has:
        raise ConfigError(
            f"by {by!r}: this run's {model.title} has no such similarity; choose {' or '.join(has)}"
        )
    return has[by]()


BY = ("item", "embedding", "cooccurrence")


def _cosine(vectors: Tensor, kernel: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], Tensor]:
    unit = F.normalize(vectors, dim=1)
    return lambda rows: kernel(unit[torch.from_numpy(rows).to(unit.device)] @ unit.T).float().cpu()


def _counting(counts: Counts) -> Callable[[np.ndarray], Tensor]:
    def compare(rows: np.ndarray) -> Tensor:
        found = counts.cosines(rows)
        found[found == 0] = -np.inf  # nobody had both
        return torch.from_numpy(found.astype(np.float32))

    return compare


def table_of(
    ids: Sequence[str],
    items: np.ndarray,
    found: np.ndarray,
    values: np.ndarray,
    titles: Mapping[str, str] | None,
) -> pl.DataFrame:
    """Columns item, rank (from 1), similar, score and, with titles, title (of `similar`)."""
    names = pl.Series(["", *ids], dtype=pl.String)
    row, place = np.nonzero(found)
    similar = names.gather(found[row, place])
    table = pl.DataFrame(
        {
            "item": names.gather(items[row]),
            "rank": pl.Series(place + 1, dtype=pl.Int32),
            "similar": similar,
            "score": pl.Series(values[row, place]),
        }
    )
    if titles is not None:
        table = table.with_columns(title=similar.replace_strict(titles, default=""))
    return table
