"""Training on prepared data a shard at a time, each process on shards of its own.

Process p of P has the shards p, p + P, …: in every epoch it goes through them in an order drawn of
(seed, epoch, p), and through the users of each in one of (seed of the shard, epoch). Of the events
it holds one shard's. What every process holds of all: the catalogue, the weights (of user vectors
too, where a model has them), counts of items and pairs, and users and items of the targets.
"""

# Settings of the training are not None where a model trains.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from rka_fast.data.batches import Batch, Batcher, sampled_candidates
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.sequences import Sequences
from rka_fast.data.shards import Prepared
from rka_fast.data.split import STAGES
from rka_fast.data.split_rules import SPLITS, iso_seconds
from rka_fast.errors import ConfigError, DataError
from rka_fast.models import MODELS, Recommender
from rka_fast.training.assemble import (
    describe_prepared,
    refuse_other_settings,
)
from rka_fast.training.config import Config
from rka_fast.training.devices import processes, seed_torch
from rka_fast.training.evaluator import Evaluator
from rka_fast.training.metrics import LISTED, Evaluation, Ranked
from rka_fast.training.streamed_split import (
    Catalogue,
    Shards,
    Totals,
    described,
    facts_of,
    merged,
    over_processes,
    summed,
)


def with_streaming(
    config: Config, given: Mapping[str, Any] | None = None
) -> tuple[Config, Prepared | None]:
    """The config, which streams where several processes have prepared data, and that data.

    given: logs in memory, see `load_data`. None where nothing is streamed. Raises ConfigError where
    it cannot be.
    """
    is_prepared = "data" not in (given or {}) and Prepared.is_one(config.data)
    if config.stream and not is_prepared:
        raise ConfigError(
            f"stream needs data that rka-fast prepare wrote, {config.data} is not; prepare it, or "
            "leave stream out"
        )
    if not config.stream and (not is_prepared or processes() == 1):
        return config, None
    return dataclasses.replace(config, stream=True), Prepared.open(config.data)


def refuse_streaming(config: Config, prepared: Prepared) -> None:
    """Raise ConfigError where the settings need more than a shard at a time."""
    model, world = MODELS[config.model], processes()
    whole = "; train in one process, without --stream"
    if not model.trains:
        raise ConfigError(f"model {config.model!r} needs all users at once{whole}")
    if config.item_features is not None:
        raise ConfigError(f"item_features cannot be streamed{whole}")
    if config.counting == "index":
        raise ConfigError(f"counting 'index' needs all users at once{whole}, or leave it out")
    if world > prepared.shards:
        raise ConfigError(
            f"{world} processes for {prepared.shards} shards in {prepared.path}: each needs one of "
            f"its own; prepare the log with --shards {world} or more"
        )
    if config.batch_size < world:
        raise ConfigError(
            f"batch_size {config.batch_size} is less than a user for each of {world} processes; "
            "give a larger one"
        )
    dates = [iso_seconds(part.strip()) for part in config.split_boundaries.split(",")]
    if "boundaries" in SPLITS[config.split].reads and None in dates:
        raise ConfigError(
            f"split_boundaries {config.split_boundaries!r}: quantiles need all times at once; give "
            "two dates, such as 2020-01-01,2020-07-01"
        )


def load_streamed(
    config: Config, prepared: Prepared
) -> tuple[Sequences, dict[str, Any], list[str]]:
    """The catalogue, a description and lines, as of `load_data`, without what the split comes to.

    Raises ConfigError where the settings need more than a shard at a time.
    """
    refuse_other_settings(config, prepared)
    refuse_streaming(config, prepared)
    description, lines = describe_prepared(config, prepared)
    description["streamed"] = {"processes": processes()}
    several = f"{processes()} processes, each on" if processes() > 1 else "one process on"
    lines.append(f"streamed: {several} its own of {prepared.shards} shards, one at a time")
    return catalogue_of(prepared), description, lines


def prepared_of(description: dict[str, Any], folder: Path) -> Prepared | None:
    """The data of a run in a folder that streams, by its description; None where it does not.

    Raises DataError where the data is another one, and ConfigError for another number of processes.
    """
    if "streamed" not in description:
        return None
    begun = description["streamed"]["processes"]
    if begun != processes():
        raise ConfigError(
            f"{folder} was begun by {begun} {'processes' if begun > 1 else 'process'}, each on its "
            f"own shards, and this is {processes()}: resume it with as many, by "
            f"torchrun --nproc-per-node {begun}"
        )
    return Prepared.of_run(description)


def catalogue_of(prepared: Prepared) -> Sequences:
    """The items of prepared data without a user, known by the checksum of all of it."""
    nothing = np.zeros(1, np.int64), np.zeros(0, np.int32)
    of = Sequences(*nothing, [], prepared.ids("item"))
    return dataclasses.replace(of, source_sum=prepared.facts["content"])


class Streamed:
    """The parts of a run on prepared data of which each process has shards; see `Whole`.

    facts, lines: about the targets, as of `describe_targets`. loading: seconds of an epoch that go
    into reading shards.
    """

    def __init__(
        self, config: Config, prepared: Prepared, catalogue: Sequences, accelerator: Accelerator
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.world, self.rank = accelerator.num_processes, accelerator.process_index
        self.shards = Shards(config, prepared, catalogue)
        self.own = range(self.rank, prepared.shards, self.world)
        self._shares = np.full(self.world, config.batch_size // self.world)
        self._shares[: config.batch_size % self.world] += 1
        begin = time.perf_counter()
        own, totals = self._facts()
        self.loading = time.perf_counter() - begin
        gathered: Any = gather_object(own)
        found = sorted(gathered, key=lambda facts: facts["number"])
        sizes = Catalogue(catalogue.num_items, prepared.facts["users"])
        self.split = merged(sizes, over_processes(totals, self.world, self.rank), found)
        for stage in STAGES if config.split != "none" else ():
            if not len(self.split.targets(stage).users):
                raise DataError(
                    f"{prepared.path}: split {config.split!r} finds nobody to ask in {stage}; "
                    "check which columns were prepared, or choose another --split"
                )
        self.trainees = {facts["number"]: facts["trainees"] for facts in found}
        self.model = MODELS[config.model].from_config(config, self.split)
        if self.model.uses_cooccurrence:
            self.shards.counts = self.counts
        elif prepared.has_counts(config.split, config.max_counted):
            prepared.check_counts()  # they are read at the end
        self.evaluator = StreamedEvaluator(self)
        self.facts, self.lines = described(found, config.seen)
        self._order = functools.lru_cache(1)(self._order_of)
        self._plan = functools.lru_cache(1)(self._plan_of)

    def _facts(self) -> tuple[list[dict[str, Any]], Totals]:
        """Those of this process's shards, of which one is read at a time, and their totals."""
        found = []

        def totals() -> Iterator[Totals]:
            for number in self.own:
                found.append(facts_of(self.shards, number))
                yield Totals.of(self.shards.split(number))

        return found, summed(totals())

    @functools.cached_property
    def counts(self) -> CoOccurrence:
        """Of all users, as prepared or else counted shard by shard. All processes ask for them."""
        prepared, config = self.shards.prepared, self.config
        if (stored := prepared.counts(config.split, config.max_counted)) is not None:
            return stored
        own = summed(CoOccurrence.from_split(self.shards.split(number)) for number in self.own)
        return over_processes(own, self.world, self.rank)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that every process needs for its shards at most. Raises DataError as below."""
        steps = [
            sum(-(-self.trainees[n] // share) for n in range(rank, len(self.trainees), self.world))
            for rank, share in enumerate(self._shares.tolist())
        ]
        if min(steps) == 0:
            raise DataError(
                f"process {steps.index(0)} of {self.world} has nobody in its shards with 2 "
                "training events; take fewer processes or fewer shards"
            )
        return max(steps)

    def batch(self, step: int, steps: int) -> tuple[Batch, float]:
        """This process's batch, and the weight of its mean loss, see `devices.shard`."""
        epoch, position = divmod(step, steps)
        plan = self._plan(epoch)
        number, begin = plan[min(position, len(plan) - 1)]
        users = self._order(number, epoch)[begin : begin + int(self._shares[self.rank])]
        batch = self.shards.batcher(number, self.model).training(users, step)
        if self.world == 1:
            return batch, 1.0
        # Who has gone through its shards takes part in the reductions, at weight 0.
        own = int((batch.targets > 0).sum()) if position < len(plan) else 0
        total: Any = self.accelerator.reduce(
            torch.tensor(float(own), device=self.accelerator.device), "sum"
        )
        return batch, own * self.world / total.item()

    def _plan_of(self, epoch: int) -> list[tuple[int, int]]:
        """Shard and first place in its order, of every step of this process."""
        rng = np.random.default_rng([self.config.seed % 2**64, epoch, self.rank])
        share = int(self._shares[self.rank])
        return [
            (int(number), begin)
            for number in rng.permutation(np.array(self.own))
            for begin in range(0, self.trainees[int(number)], share)
        ]

    def _order_of(self, number: int, epoch: int) -> np.ndarray:
        return self.shards.batcher(number, self.model).epoch_order(epoch)


class StreamedEvaluator(Evaluator):
    """Evaluates models on the targets of all shards, each process on those of its own."""

    def __init__(self, of: Streamed) -> None:
        self.of = of
        self.config, self.accelerator = of.config, of.accelerator
        self.split: Any = of.split

    def ranked(self, model: Recommender, stage: str, batcher: Batcher | None = None) -> Ranked:
        places = self.split.places[stage]
        shape = 2 + LISTED, len(self.split.target_items(stage))
        found = torch.zeros(shape, dtype=torch.int64, device=self.accelerator.device)
        for number in self.of.own:
            if len(places[number]):
                ranked = self._of_shard(model, stage, number)
                place = torch.from_numpy(places[number]).to(found.device)
                found[:, place] = torch.cat([ranked.ranks, ranked.lists.T]).to(found.device)
        found = self._over_processes(found).cpu()
        return Ranked(found[:2], found[2:].T)

    def seconds(self, model: Recommender, stage: str) -> float:
        """With reading of shards and drawing of negatives, which every evaluation does again."""
        places, own = self.split.places[stage], self.of.own
        number = max(own, key=lambda number: len(places[number]))
        if not len(places[number]):
            return self.of.loading
        self.of.shards.split(number)  # its reading is in `loading`
        begin = time.perf_counter()
        evaluation = self._evaluation_of(stage, number)
        took = time.perf_counter() - begin
        with self.accelerator.autocast():
            took += evaluation.seconds(model, self.accelerator.device)
        return self.of.loading + took * sum(len(places[n]) for n in own) / len(places[number])

    def _of_shard(self, model: Recommender, stage: str, number: int) -> Ranked:
        seed = self.of.shards.seed(number)
        with self.accelerator.autocast():
            return self._evaluation_of(stage, number)(
                model,
                self.accelerator.device,
                seed=lambda chunk: seed_torch(seed, stage, chunk),
            )

    def _evaluation_of(self, stage: str, number: int) -> Evaluation:
        shards, split = self.of.shards, self.of.shards.split(number)
        negatives = sampled_candidates(split, stage, seed=shards.seed(number))
        return Evaluation(split, shards.batcher(number, self.of.model), stage, negatives)

    @property
    def _counts(self) -> CoOccurrence:
        return self.of.counts

    def _plain_batcher(self) -> None:
        """Popularity is asked with the run's own batches: it does not read what they have more."""
