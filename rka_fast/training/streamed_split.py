"""The split of prepared data shard by shard, and what all processes have to know of it."""

# Settings of the training are not None where a model trains.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from accelerate.utils import broadcast_object_list

from rka_fast.data.batches import Batch, Batcher
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.filters import seconds
from rka_fast.data.sequences import Sequences, distinct
from rka_fast.data.shards import Prepared
from rka_fast.data.split import STAGES, Split, Targets
from rka_fast.data.split_rules import MOST_SCORES, SPLITS, SplitOptions
from rka_fast.data.targets import evaluated_line, warnings_of
from rka_fast.models import Recommender
from rka_fast.training.assemble import batcher_of, split_options
from rka_fast.training.config import Config

SEED_BITS = 32
"""The number of a shard stands above these bits of its seed; the first has the run's own."""


class Catalogue(NamedTuple):
    """The sizes of the data, by which models are made."""

    num_items: int
    num_users: int
    features: None = None


@dataclass(frozen=True, eq=False)
class StreamedSplit:
    """What is known of a split over all shards; the names are those of `Split`.

    counted: training events of every item. places: by stage and shard, where the targets of the
    shard stand among all, which are sorted by user and time.
    """

    sequences: Catalogue
    counted: np.ndarray
    holders: np.ndarray
    trained_users: int
    valid: Targets
    test: Targets
    items: dict[str, np.ndarray]
    places: dict[str, dict[int, np.ndarray]]

    def targets(self, stage: str) -> Targets:
        """The users of the targets; `at` is not known."""
        return self.valid if stage == "valid" else self.test

    def target_items(self, stage: str) -> np.ndarray:
        """Item index of every target."""
        return self.items[stage]

    def train_counts(self) -> np.ndarray:
        """Training events of every item, int64 (num_items + 1,)."""
        return self.counted


class ShardBatcher(Batcher):
    """Makes batches of the users first, first + step, …, who have these numbers in them."""

    def __init__(self, *args: Any, first: int, step: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._first, self._step = first, step

    def training(self, users: np.ndarray, step: int) -> Batch:
        return self._numbered(super().training(users, step))

    def evaluation(self, rows: np.ndarray | slice, stage: str) -> Batch:
        return self._numbered(super().evaluation(rows, stage))

    def _numbered(self, batch: Batch) -> Batch:
        users = batch.users
        return batch._replace(users=torch.where(users < 0, users, self._first + self._step * users))


class Shards:
    """The shards of prepared data as parts of a run, the last that was asked for in memory."""

    def __init__(self, config: Config, prepared: Prepared, catalogue: Sequences) -> None:
        self.config, self.prepared, self.catalogue = config, prepared, catalogue
        self.counts: CoOccurrence | None = None
        self._number: int | None = None  # of the shard in memory
        self._split: Split | None = None
        self._batcher: Batcher | None = None

    @functools.cached_property
    def options(self) -> SplitOptions:
        """Those of the config, `eval_users` in each shard."""
        options, users = split_options(self.config), self.prepared.facts["users"]
        asked = options.eval_users
        if asked is None:
            scores = users * self.catalogue.num_items
            asked = "all" if scores <= MOST_SCORES else users * MOST_SCORES // scores
        if asked != "all":
            asked = max(1, int(asked) // self.prepared.shards)
        return options._replace(eval_users=asked, of_shard=True)

    def seed(self, number: int) -> int:
        """Of the random choices on a shard."""
        return self.config.seed + (number << SEED_BITS)

    def users(self, number: int) -> range:
        """The users of a shard by their numbers among all."""
        return range(number, self.prepared.facts["users"], self.prepared.shards)

    def split(self, number: int) -> Split:
        """The split of the users of a shard, who are numbered from 0 here."""
        if self._split is None or self._number != number:
            self._split = self._batcher = None  # given up before the next one is read
            self._split, self._number = self._read(number), number
        return self._split

    def batcher(self, number: int, model: Recommender) -> Batcher:
        """What makes batches of the users of a shard, under their numbers among all."""
        split = self.split(number)
        if self._batcher is None:
            make = functools.partial(ShardBatcher, first=number, step=self.prepared.shards)
            seed = self.seed(number)
            self._batcher = batcher_of(self.config, model, split, self.counts, seed, make)
        return self._batcher

    def _read(self, number: int) -> Split:
        shard, users = self.prepared.shard(number), self.users(number)
        lengths = np.bincount(shard.user_index // self.prepared.shards, minlength=len(users))
        moment, dated = shard.moment, self.prepared.facts["dated"]
        sequences = dataclasses.replace(
            self.catalogue,
            indptr=np.concatenate(([0], np.cumsum(lengths))),
            items=shard.item_index,
            user_ids=[str(user) for user in users],
            timestamps=None if moment is None else seconds(moment, dated),
        )
        return SPLITS[self.config.split](sequences, self.options)


@dataclass(frozen=True, eq=False)
class Totals:
    """Sums over some users, see `Split`: training events and holders of items, trained users."""

    train_counts: np.ndarray
    holders: np.ndarray
    trained_users: int

    @classmethod
    def of(cls, split: Split) -> Totals:
        """Those of the users of a split."""
        return cls(split.train_counts(), split.holders, split.trained_users)

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.train_counts + other.train_counts,
            self.holders + other.holders,
            self.trained_users + other.trained_users,
        )


def facts_of(shards: Shards, number: int) -> dict[str, Any]:
    """What all processes have to know of a shard beside its totals."""
    split, users = shards.split(number), np.array(shards.users(number))
    return {
        "number": number,
        "trainees": int((split.train_end - split.sequences.indptr[:-1] >= 2).sum()),
        "users": {stage: users[split.targets(stage).users] for stage in STAGES},
        "items": {stage: split.target_items(stage) for stage in STAGES},
        "had": {stage: int(split.had(stage).sum()) for stage in STAGES},
        "sampled_of": dict(split.sampled_of),
    }


def _asked(facts: dict[str, Any], stage: str) -> int:
    """Users of a shard who have targets, asked or not."""
    return facts["sampled_of"].get(stage, len(distinct(facts["users"][stage])))


Sum = TypeVar("Sum", Totals, CoOccurrence)


def summed(parts: Iterable[Sum]) -> Sum:
    """The sum of parts, at least one, each given up before the next is made."""
    rest = iter(parts)
    total = next(rest)
    for part in rest:
        total = total + part
        del part
    return total


def over_processes(own: Sum, world: int, rank: int) -> Sum:
    """The sum over the processes, which tell their own in turn; none has all of them at once."""
    return summed(
        broadcast_object_list([own if process == rank else None], process)[0]
        for process in range(world)
    )


def merged(sizes: Catalogue, totals: Totals, found: list[dict[str, Any]]) -> StreamedSplit:
    """The split over all shards, of their totals and the facts of each."""
    targets, items, places = {}, {}, {}
    for stage in STAGES:
        users = np.concatenate([facts["users"][stage] for facts in found])
        order = np.argsort(users, kind="stable")
        place = np.empty(len(users), np.int64)
        place[order] = np.arange(len(users))
        ends = np.cumsum([len(facts["users"][stage]) for facts in found])
        parts = np.split(place, ends[:-1])
        places[stage] = {facts["number"]: p for facts, p in zip(found, parts, strict=True)}
        items[stage] = np.concatenate([facts["items"][stage] for facts in found])[order]
        targets[stage] = Targets(users[order], np.full(len(users), -1))
    return StreamedSplit(
        sizes,
        totals.train_counts,
        totals.holders,
        totals.trained_users,
        targets["valid"],
        targets["test"],
        items,
        places,
    )


def described(found: list[dict[str, Any]], seen: str) -> tuple[dict[str, Any], list[str]]:
    """Facts and lines about the targets of all shards."""
    users = {s: sum(len(distinct(facts["users"][s])) for facts in found) for s in STAGES}
    rows = {s: sum(len(facts["users"][s]) for facts in found) for s in STAGES}
    had = {s: sum(facts["had"][s] for facts in found) / max(rows[s], 1) for s in STAGES}
    evaluation: dict[str, Any] = {"targets": rows, "target_users": users, "targets_had": had}
    lines = [evaluated_line(rows, users)] if any(rows.values()) else []
    sampled = {s: sum(_asked(facts, s) for facts in found) for s in STAGES}
    if any(facts["sampled_of"] for facts in found):
        evaluation["sampled_of"] = sampled
        of = ", ".join(f"{number:,} in {stage}" for stage, number in sampled.items())
        lines.append(f"evaluated: a sample of the users ({of}), of every shard as many")
    return {"evaluation": evaluation}, [*lines, *warnings_of(evaluation, seen)]
