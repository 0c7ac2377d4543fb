"""What a page about runs shows, in one value that goes into JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rka_fast.explaining.asking import best
from rka_fast.models import MODELS
from rka_fast.reporting.runs import ReadRun
from rka_fast.reproduction.cells import INCIDENTAL
from rka_fast.reproduction.significance import Comparison, compare
from rka_fast.training.curves import Curve
from rka_fast.training.list_quality import QUALITIES
from rka_fast.training.metrics import LISTED, RANKINGS, metrics_of

TENTHS = 10
EXAMPLES = 3
LAST = 8  # events of an example's history that are told


@dataclass(frozen=True)
class Value:
    """Of a metric, with its 95 % interval over users where the run has it."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Row:
    """Scores by ranking and metric, and qualities of the lists; of a run, or of popularity."""

    name: str
    scores: dict[str, dict[str, Value]]
    qualities: dict[str, float] | None
    exposure: list[float] | None


@dataclass(frozen=True)
class Told:
    """A run. data: its description. epochs: that it trained. seconds: training, of an epoch."""

    name: str
    folder: str
    title: str
    settings: dict[str, Any]
    data: dict[str, Any]
    finished: bool
    best_epoch: int
    epochs: int
    seconds: float | None
    curve: Curve


@dataclass(frozen=True)
class Named:
    """An item by its id and, if it has one, its title."""

    id: str
    title: str | None


@dataclass(frozen=True)
class Shown:
    """The list of a run for an example, and the target's rank in full ranking, 1 for the best."""

    run: str
    items: list[Named]
    rank: int


@dataclass(frozen=True)
class Example:
    """A test target: whose, what came before (the last of it) and what each run showed."""

    user: str
    history: list[Named]
    earlier: int
    target: Named
    shown: list[Shown]
    popular: list[Named]


@dataclass(frozen=True)
class Group:
    """Runs on the same data and test targets, whose figures compare.

    rows: of each run and of popularity, last. events, targets: shares of the training events and
    of the test targets that fall on each tenth of the items, from the most to the least popular;
    a row's `exposure` is that of what was shown. differences: in NDCG@10 between the first run and
    each other one, by its name and ranking, paired over the targets.
    """

    runs: list[str]
    rows: list[Row]
    events: list[float]
    targets: list[float]
    differences: dict[str, dict[str, Comparison]]
    examples: list[Example]


@dataclass(frozen=True)
class Report:
    """differing: settings that are not the same in all runs, and their values in order."""

    runs: list[Told]
    differing: dict[str, list[Any]]
    groups: list[Group]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def report(runs: Sequence[ReadRun], titles: Mapping[str, str] | None = None) -> Report:
    """titles: of items, by id."""
    groups: dict[Any, list[ReadRun]] = {}
    for run in runs:
        if run.tested:
            groups.setdefault(run.targets, []).append(run)
    told = [_told(run) for run in runs]
    return Report(
        runs=told,
        differing=_differing(told),
        groups=[_group(group, titles or {}) for group in groups.values()],
    )


def _told(run: ReadRun) -> Told:
    result, config = run.result, run.config
    settings = config.to_json()
    unread = {*type(config).unread(config.model), "format", "out", "json"}
    return Told(
        name=run.name,
        folder=str(run.folder.path),
        title=MODELS[config.model].title,
        settings={name: value for name, value in settings.items() if name not in unread},
        data=run.description,
        finished=result is not None,
        best_epoch=run.curve.best_epoch,
        epochs=max((epoch for epoch, _ in run.curve.losses), default=0),
        seconds=result["seconds"]["per_epoch"] if result else None,
        curve=run.curve,
    )


def _differing(runs: Sequence[Told]) -> dict[str, list[Any]]:
    settings = [told.settings for told in runs]
    names = dict.fromkeys(name for values in settings for name in values)
    found = {name: [values.get(name) for values in settings] for name in names}
    return {
        name: values
        for name, values in found.items()
        if name not in INCIDENTAL and any(value != values[0] for value in values)
    }


def _group(runs: list[ReadRun], titles: Mapping[str, str]) -> Group:
    first = runs[0]
    holders = first.split.training_items.holders[1:]
    # Item i + 1 of the i-th place is in a tenth of the items by how many users trained on it.
    tenth = np.empty(len(holders), np.int64)
    order = np.argsort(-holders, kind="stable")
    tenth[order] = np.arange(len(holders)) * TENTHS // len(holders)

    def shares(items: np.ndarray) -> list[float]:
        found = np.bincount(tenth[items[items > 0] - 1], minlength=TENTHS)
        return (found / max(found.sum(), 1)).tolist()

    results = [run.result or {} for run in runs]
    popularity = results[0].get("popularity")
    metrics = metrics_of(scores["test"] for scores in (*results, popularity) if scores)
    rows = [
        _row(run.name, scores, shares(run.lists), metrics)
        for run, scores in zip(runs, results, strict=True)
    ]
    if popularity:
        rows.append(_row("popularity", popularity, None, metrics))
    split, sequences = first.split, first.sequences
    return Group(
        runs=[run.name for run in runs],
        rows=rows,
        events=shares(sequences.items[split.training_events]),
        targets=shares(split.target_items("test")),
        differences={run.name: _differences(first, run) for run in runs[1:]},
        examples=_examples(runs, titles),
    )


def _row(
    name: str, scores: Mapping[str, Any], exposure: list[float] | None, metrics: list[str]
) -> Row:
    bounds = scores.get("intervals") or {}

    def value(ranking: str, metric: str) -> Value:
        low, high = bounds.get(ranking, {}).get(metric, (None, None))
        return Value(scores["test"][ranking][metric], low, high)

    qualities = scores.get("lists")
    return Row(
        name=name,
        scores={ranking: {m: value(ranking, m) for m in metrics} for ranking in RANKINGS},
        qualities=qualities and {q: qualities[q] for q in QUALITIES if q in qualities},
        exposure=exposure,
    )


def _differences(first: ReadRun, other: ReadRun) -> dict[str, Comparison]:
    return {
        ranking: compare([first.ranks[ranking]], [other.ranks[ranking]]) for ranking in RANKINGS
    }


def _examples(runs: list[ReadRun], titles: Mapping[str, str]) -> list[Example]:
    """Targets at equal distances, so that the choice flatters nobody."""
    first = runs[0]
    split, sequences = first.split, first.sequences
    users, _ = split.targets("test")
    count = min(EXAMPLES, len(users))
    found = []

    def named(items: np.ndarray | list[int]) -> list[Named]:
        ids = [sequences.item_id(int(item)) for item in items if item > 0]
        return [Named(name, titles.get(name)) for name in ids]

    for row in ((2 * i + 1) * len(users) // (2 * count) for i in range(count)):
        history = split.history(row, "test")
        hidden = np.zeros(sequences.num_items + 1, bool)
        hidden[0] = True
        if split.seen == "hide":
            hidden[history] = True
        popular = best(np.where(hidden, -np.inf, split.train_counts()), LISTED)
        found.append(
            Example(
                user=sequences.user_ids[users[row]],
                history=named(history[-LAST:]),
                earlier=max(0, len(history) - LAST),
                target=named(split.target_items("test")[row : row + 1])[0],
                shown=[
                    Shown(run.name, named(run.lists[row]), int(run.ranks["full"][row]))
                    for run in runs
                ],
                popular=named(popular),
            )
        )
    return found
