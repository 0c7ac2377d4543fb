"""The results of the cells of one data set: means, deviations, times, significance, JSON."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from rka_fast.reproduction.datasets import Dataset
from rka_fast.reproduction.paper import FIGURES
from rka_fast.reproduction.significance import Comparison, compare
from rka_fast.training.list_quality import QUALITIES
from rka_fast.training.metrics import RANKINGS, metrics_of

OURS = "rksa"


@dataclass
class Scores:
    """The results and test ranks of one model, by seed."""

    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    ranks: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)

    def values(self, ranking: str, metric: str, stage: str = "test") -> list[float]:
        """One value a seed."""
        return [result[stage][ranking][metric] for result in self.results.values()]

    def mean(self, ranking: str, metric: str, stage: str = "test") -> float:
        return statistics.fmean(self.values(ranking, metric, stage))

    def deviation(self, ranking: str, metric: str) -> float | None:
        """Sample standard deviation over the seeds; None for one seed."""
        values = self.values(ranking, metric)
        return statistics.stdev(values) if len(values) > 1 else None

    def half_width(self, ranking: str, metric: str) -> float | None:
        """Half of the 95 % interval over users, mean over the seeds; None where cells lack it."""
        found = [r.get("intervals", {}).get(ranking, {}).get(metric) for r in self.results.values()]
        if None in found:
            return None
        return statistics.fmean((high - low) / 2 for low, high in found)

    def quality(self, name: str) -> float | None:
        """What the lists of the full ranking are like, mean over the seeds."""
        found = [result.get("lists", {}).get(name) for result in self.results.values()]
        return None if None in found else statistics.fmean(found)

    def compared_with(self, other: Scores, ranking: str) -> Comparison:
        """Paired over the seeds that both have; there must be one."""
        seeds = sorted(self.ranks.keys() & other.ranks.keys())
        return compare(*([scores.ranks[s][ranking] for s in seeds] for scores in (self, other)))

    @property
    def seconds_per_epoch(self) -> float:
        """Mean over the seeds; 0 for a model that is fitted at once."""
        return statistics.fmean(r["seconds"]["per_epoch"] for r in self.results.values())

    @property
    def seconds(self) -> list[float]:
        """Training and evaluation of every seed's cell."""
        return [r["seconds"]["train"] + r["seconds"]["eval"] for r in self.results.values()]

    def to_json(self) -> dict[str, Any]:
        metrics = metrics_of(result["test"] for result in self.results.values())
        return {
            **{
                ranking: {name: self.values(ranking, name) for name in metrics}
                for ranking in RANKINGS
            },
            "valid": {
                ranking: {name: self.values(ranking, name, "valid") for name in metrics}
                for ranking in RANKINGS
            },
            "lists": {name: self.quality(name) for name in QUALITIES},
            "intervals": [result.get("intervals") for result in self.results.values()],
            "seconds_per_epoch": self.seconds_per_epoch,
            "seconds": self.seconds,
            "seeds": list(self.results),
            "best_epoch": [result["best_epoch"] for result in self.results.values()],
        }


@dataclass
class Outcome:
    """A data set, its description by `load_data`, and the scores of every model so far."""

    dataset: Dataset
    description: dict[str, Any]
    planned: int  # cells
    scores: dict[str, Scores] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # message by cell

    def add(
        self, model: str, seed: int, result: dict[str, Any], ranks: dict[str, np.ndarray]
    ) -> None:
        scores = self.scores.setdefault(model, Scores())
        scores.results[seed], scores.ranks[seed] = result, ranks
        self.__dict__.pop("comparisons", None)

    @property
    def finished(self) -> int:
        return sum(len(scores.results) for scores in self.scores.values())

    @property
    def is_known(self) -> bool:
        """Whether the files are the known ones, and nothing was filtered out."""
        return self.dataset.is_known(
            *(self.description[part] for part in ("users", "items", "events"))
        )

    @property
    def paper(self) -> dict[str, dict[str, float]]:
        """The paper's figures by model; none where the data or the split is another."""
        comparable = self.is_known and self.description["split"] == "leave-one-out"
        return FIGURES.get(self.dataset.paper or "", {}) if comparable else {}

    def baseline(self, ranking: str) -> str | None:
        """The model besides RKSA with the best mean validation NDCG@10 of this ranking."""
        others = [model for model in self.scores if model != OURS]
        return max(
            others, key=lambda m: self.scores[m].mean(ranking, "ndcg@10", "valid"), default=None
        )

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """RKSA against the best baseline of each ranking, where they share seeds."""
        found = {}
        for ranking in RANKINGS:
            ours, theirs = self.scores.get(OURS), self.scores.get(self.baseline(ranking) or "")
            if ours and theirs and ours.ranks.keys() & theirs.ranks.keys():
                found[ranking] = ours.compared_with(theirs, ranking)
        return found

    def to_json(self) -> dict[str, Any]:
        """By model; what is said of RKSA against the baseline stands with RKSA."""
        values = {model: scores.to_json() for model, scores in self.scores.items()}
        if self.comparisons:
            values[OURS]["significance"] = {
                "metric": "ndcg@10",
                **{
                    ranking: {"baseline": self.baseline(ranking), **dataclasses.asdict(found)}
                    for ranking, found in self.comparisons.items()
                },
            }
        return values
