"""How a run learned: its log by epochs, for pictures and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rka_fast.models import MODELS
from rka_fast.training.config import Config
from rka_fast.training.metrics import RANKINGS

CURVE_METRIC = "ndcg@10"


@dataclass(frozen=True)
class Curve:
    """losses: (epoch, mean training loss). valid: by ranking (epoch, NDCG@10 on validation).
    best_epoch: the best on validation, which was kept; 0 while there is none. selected: the
    ranking that chose it. popularity: NDCG@10 of popularity on validation, by ranking; empty until
    the run has ended.
    """

    title: str
    losses: list[tuple[int, float]]
    valid: dict[str, list[tuple[int, float]]]
    best_epoch: int
    selected: str
    popularity: dict[str, float]


def curve_of(
    log: Sequence[Mapping[str, Any]], config: Config, result: Mapping[str, Any] | None
) -> Curve:
    """Of the lines of metrics.jsonl, and of the result where there is one."""
    evaluations = [line for line in log if "valid" in line]
    losses: dict[int, list[float]] = {}
    steps = epochs = 0
    if evaluations:
        steps, epochs = evaluations[0]["step"], evaluations[0]["epoch"]
    elif result and log:  # nothing was held out: the last epoch was kept
        steps, epochs = log[-1]["step"], result["best_epoch"]
    if epochs:
        per_epoch = steps / epochs
        for line in log:
            if "loss" in line:
                epoch = int((line["step"] - 1) // per_epoch) + 1
                losses.setdefault(epoch, []).append(line["loss"])
    valid = {
        ranking: [(line["epoch"], line["valid"][ranking][CURVE_METRIC]) for line in evaluations]
        for ranking in RANKINGS
    }
    selected = config.select or next(iter(RANKINGS))
    of_popularity = (result or {}).get("popularity", {}).get("valid", {})
    best = max(valid[selected], key=lambda point: point[1], default=(0, 0.0))[0]
    return Curve(
        title=MODELS[config.model].title,
        losses=[(epoch, fmean(values)) for epoch, values in losses.items()],
        valid=valid,
        best_epoch=result["best_epoch"] if result and evaluations else best,
        selected=selected,
        popularity={ranking: scores[CURVE_METRIC] for ranking, scores in of_popularity.items()},
    )
