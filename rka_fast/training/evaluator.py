"""What models are worth on a run's targets: ranks, lists, metrics; popularity beside them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from rka_fast.data.batches import Batcher, sampled_candidates
from rka_fast.data.counting import Counts, counts_of
from rka_fast.data.split import STAGES, Split
from rka_fast.models import MODELS, Recommender
from rka_fast.training.config import Config
from rka_fast.training.devices import seed_torch
from rka_fast.training.list_quality import intervals, list_qualities
from rka_fast.training.metrics import Evaluation, Ranked, both_metrics


class Evaluator:
    """Evaluates models on the targets of a run, in all of its processes.

    config, split and batcher are the run's. A stage is "valid" or "test". Its negatives are drawn
    once, of the run's seed: every model meets the same.
    """

    def __init__(
        self, config: Config, split: Split, batcher: Batcher, accelerator: Accelerator
    ) -> None:
        self.config, self.split, self.batcher = config, split, batcher
        self.accelerator = accelerator
        self.negatives = {
            stage: sampled_candidates(split, stage, seed=config.seed) for stage in STAGES
        }

    def ranked(self, model: Recommender, stage: str, batcher: Batcher | None = None) -> Ranked:
        """Ranks and lists of a model as it is now. batcher: makes its inputs, if not the run's."""
        with self.accelerator.autocast():
            return self._evaluation(stage, batcher)(
                model,
                self.accelerator.device,
                rank=self.accelerator.process_index,
                world=self.accelerator.num_processes,
                reduce=self._over_processes,
                seed=lambda chunk: seed_torch(self.config.seed, stage, chunk),
            )

    def seconds(self, model: Recommender, stage: str) -> float:
        """What ranking the targets of a stage will take about, each process its share of them."""
        with self.accelerator.autocast():
            took = self._evaluation(stage).seconds(model, self.accelerator.device)
        return took / self.accelerator.num_processes

    def _evaluation(self, stage: str, batcher: Batcher | None = None) -> Evaluation:
        return Evaluation(self.split, batcher or self.batcher, stage, self.negatives[stage])

    def _over_processes(self, ranks: Tensor) -> Tensor:
        total: Any = self.accelerator.reduce(ranks, "sum")
        return total

    def scores(self, found: dict[str, Ranked]) -> dict[str, Any]:
        """Metrics of both stages; of the test, their intervals and what the lists are like."""
        test, users = found["test"], self.split.targets("test").users
        ranks = test.ranks.numpy()
        return {
            **{stage: both_metrics(ranked.ranks) for stage, ranked in found.items()},
            "intervals": intervals(ranks, users),
            "lists": list_qualities(test.lists.numpy(), ranks[1], self.split, self._counts),
        }

    @cached_property
    def _counts(self) -> Counts:
        """The model's, or made once where it has none."""
        return self.batcher.cooccurrence or counts_of(self.split, self.config.counting)

    def popularity(self) -> dict[str, Any]:
        """Scores of popularity, which every result is shown beside."""
        model = MODELS["pop"].from_config(self.config, self.split)
        model.fit(self.split)
        model.to(self.accelerator.device)
        batcher = self._plain_batcher()
        return self.scores({stage: self.ranked(model, stage, batcher) for stage in STAGES})

    def _plain_batcher(self) -> Batcher | None:
        """One without what a model reads beside the items."""
        return Batcher(self.split, None, self.config.max_length, self.config.seed)
