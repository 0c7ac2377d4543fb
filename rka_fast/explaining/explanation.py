"""Everything that explains a list of recommendations, in one value that goes into JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rka_fast.data.sequences import Sequences
from rka_fast.errors import DataError
from rka_fast.explaining.asking import Asking, History, Trained, best, ranks
from rka_fast.explaining.attending import attentions, watched
from rka_fast.explaining.relations import (
    KernelValues,
    Neighbourhood,
    kernel_values,
    neighbours,
)
from rka_fast.explaining.shares import shares
from rka_fast.models.transformer import TransformerRecommender
from rka_fast.recommending.options import check_number

DRAWS = 64
BOUNDS = (0.05, 0.95)
"""The quantiles over draws that are told as low and high."""


@dataclass(frozen=True)
class Item:
    """id: as in the data. title: for people, None where there is none. users: training users that
    have it. popularity: its rank by them, 1 for the item that most have.
    """

    id: str
    title: str | None
    users: int
    popularity: int


@dataclass(frozen=True)
class Spread:
    """Of a number over draws of the attention logits: mean, standard deviation, 5 % and 95 %."""

    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True)
class Event:
    """An event that the model reads. time: seconds since 1970, None where the data has none."""

    item: Item
    time: float | None


@dataclass(frozen=True)
class Attention:
    """Of one block, from the last position to every event, over the heads' mean.

    weights: as the run answers; they sum to 1. heads: of every head. drawn: over draws, of RKSA.
    """

    weights: list[float]
    heads: list[list[float]]
    drawn: list[Spread] | None


@dataclass(frozen=True)
class Sureness:
    """Of a recommended item over draws. listed: share of the draws that have it in the list. first:
    share that have it in front. rank: where it stands.
    """

    score: Spread
    rank: Spread
    listed: float
    first: float


@dataclass(frozen=True)
class Parts:
    """The exact shares of a score (see `rka_fast.explaining.shares`); they sum to it.

    items: what the item of each event brings. places: what the position of each event brings.
    constants: what the learned biases bring.
    """

    items: list[float]
    places: list[float]
    constants: float


@dataclass(frozen=True)
class LeftOut:
    """A list without one event. score, rank: of a recommended item there."""

    score: float
    rank: int


@dataclass(frozen=True)
class Recommended:
    """A recommended item. without: with each event left out. neighbours: of the item, by the cosine
    of the counts and by that of the model's item vectors.
    """

    item: Item
    score: float
    parts: Parts | None
    sureness: Sureness | None
    without: list[LeftOut]
    neighbours_by_counts: list[tuple[Item, float]]
    neighbours_by_vectors: list[tuple[Item, float]]


@dataclass(frozen=True)
class Change:
    """How the list changes when an event is left out: ids that go, and that come in their place."""

    gone: list[Item]
    come: list[Item]


@dataclass(frozen=True)
class Explanation:
    """Why a run recommends a list after a history.

    history: the last events, which the model reads. earlier: how many came before them. changes:
    one for each event, none where there is only one event. kernels: of RKSA, rows in the order of
    `recommended`. popular, near: what would be shown by popularity alone, and by the cosines of the
    counts with the whole history.
    """

    model: str
    source: str
    synthetic: bool
    user: str | None
    at: float | None
    seen: str
    history: list[Event]
    earlier: int
    attention: list[Attention]
    recommended: list[Recommended]
    changes: list[Change]
    kernels: KernelValues | None
    draws: int
    popular: list[Item]
    near: list[Item]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class _Catalogue:
    """Items with their names and how many have them."""

    def __init__(
        self, sequences: Sequences, around: Neighbourhood, titles: Mapping[str, str]
    ) -> None:
        self.sequences, self.around, self.titles = sequences, around, titles

    def __call__(self, item: int) -> Item:
        name = self.sequences.item_id(item)
        users, rank = int(self.around.holders[item]), int(self.around.rank[item])
        return Item(name, self.titles.get(name), users, rank)

    def with_values(self, found: list[tuple[int, float]]) -> list[tuple[Item, float]]:
        return [(self(item), value) for item, value in found]


def explain(
    run: Trained,
    history: History,
    description: Mapping[str, Any],
    *,
    top: int = 10,
    draws: int = DRAWS,
    titles: Mapping[str, str] | None = None,
) -> Explanation:
    """Why the run recommends its `top` items after the history.

    description: of the data, as the run folder has it. draws: of the attention logits, for RKSA.
    titles: names by item id. Raises ConfigError for a number that cannot be, DataError for a
    history that the model cannot read, or after which nothing may be shown.
    """
    check_number("top", top, 1)
    check_number("draws", draws, 2)
    asking = Asking(run, history)
    read = min(len(history.items), run.config.max_length or len(history.items))
    events = range(len(history.items) - read, len(history.items))
    seen = History(
        history.items[-read:],
        history.user,
        None if history.times is None else history.times[-read:],
        history.at,
    )
    (scores,) = (x[0] for x in asking.scores([history]))
    listed = best(scores, top)
    if not listed:
        raise DataError(
            "nothing to explain: no item is left that may be shown after this history, which has "
            "them all"
        )
    attention, sureness = _attention(asking, seen, draws, listed, top)
    around = Neighbourhood(run)
    of = _Catalogue(run.sequences, around, titles or {})
    left_out, changes = _left_out(asking, events, listed, top, of)
    parts = _parts(asking, seen, listed)
    by_counts = neighbours(run, listed, "cooccurrence", around.counts)
    by_vectors = [[]] * len(listed)
    if run.model.has_vectors:
        by_vectors = neighbours(run, listed, "embedding")
    times = [None] * read if seen.times is None else seen.times.tolist()
    return Explanation(
        model=run.config.model,
        source=str(description["source"]),
        synthetic=bool(description.get("synthetic")),
        user=run.sequences.user_ids[history.user] if history.user >= 0 else None,
        at=history.at,
        seen=run.config.seen,
        history=[Event(of(int(i)), t) for i, t in zip(seen.items, times, strict=True)],
        earlier=len(history.items) - read,
        attention=attention,
        recommended=[
            Recommended(
                item=of(item),
                score=scores[item].item(),
                parts=parts[place],
                sureness=sureness[place],
                without=[row[place] for row in left_out],
                neighbours_by_counts=of.with_values(by_counts[place]),
                neighbours_by_vectors=of.with_values(by_vectors[place]),
            )
            for place, item in enumerate(listed)
        ],
        changes=changes,
        kernels=kernel_values(run, seen, listed),
        draws=draws if asking.draws else 0,
        popular=[of(i) for i in around.popular(asking.hidden, top)],
        near=[of(i) for i in around.near(seen.items, asking.hidden, top)],
    )


def _attention(
    asking: Asking, history: History, draws: int, listed: list[int], top: int
) -> tuple[list[Attention], list[Sureness | None]]:
    """The attention of every block, and how sure each listed item is: both from the same draws."""
    model = asking.run.model
    if not attentions(model):
        return [], [None] * len(listed)
    with watched(model) as found:
        list(asking.scores([asking.history]))
    weights = [x[0, :, -1].double().cpu() for x in found]  # of each block (H, n)
    if not asking.draws:
        plain = [Attention(x.mean(0).tolist(), x.tolist(), None) for x in weights]
        return plain, [None] * len(listed)
    scores, places, first = [], [], []
    with watched(model) as found:
        for part in asking.drawn(draws):
            scores.append(part[:, listed])
            places.append(ranks(part, listed))
            first.append(part.argmax(1))
    blocks = len(weights)
    drawn = [
        torch.cat(found[block::blocks])[:, :, -1].mean(1).double().cpu() for block in range(blocks)
    ]
    attention = [
        Attention(x.mean(0).tolist(), x.tolist(), [_spread(y) for y in over.T])
        for x, over in zip(weights, drawn, strict=True)
    ]
    score, rank = torch.cat(scores).double(), torch.cat(places).double()
    return attention, [
        Sureness(
            score=_spread(score[:, place]),
            rank=_spread(rank[:, place]),
            listed=(rank[:, place] <= top).double().mean().item(),
            first=(torch.cat(first) == item).double().mean().item(),
        )
        for place, item in enumerate(listed)
    ]


def _left_out(
    asking: Asking, events: range, listed: list[int], top: int, of: _Catalogue
) -> tuple[list[list[LeftOut]], list[Change]]:
    """Each listed item without each event, and what changes in the list."""
    if len(asking.history.items) < 2:
        return [], []
    rows, changes = [], []
    for part in asking.scores([asking.history.without(event) for event in events]):
        for scores, places in zip(part, ranks(part, listed).tolist(), strict=True):
            values = scores[listed].tolist()
            rows.append([LeftOut(s, r) for s, r in zip(values, places, strict=True)])
            now = best(scores, top)
            changes.append(
                Change(
                    gone=[of(item) for item in listed if item not in now],
                    come=[of(item) for item in now if item not in listed],
                )
            )
    return rows, changes


def _parts(asking: Asking, history: History, listed: list[int]) -> list[Parts | None]:
    model = asking.run.model
    if not isinstance(model, TransformerRecommender):
        return [None] * len(listed)
    found = shares(model, asking.batch([history]), torch.tensor(listed), asking.mode or "mean")
    rows = zip(*(x.tolist() for x in found[:3]), strict=True)
    return [Parts(*row) for row in rows]


def _spread(values: Tensor) -> Spread:
    """Of (draws,) numbers."""
    low, high = np.quantile(values.numpy(), BOUNDS)
    return Spread(values.mean().item(), values.std().item(), float(low), float(high))
