"""The page of a report on runs."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from rka_fast.data.split_rules import SPLITS
from rka_fast.data.targets import warnings_of
from rka_fast.pages.charts import Line, line_chart
from rka_fast.pages.rendering import Page, page
from rka_fast.reporting.report import TENTHS, Group, Report
from rka_fast.training.list_quality import QUALITIES
from rka_fast.training.metrics import METRICS, RANKINGS

BARS = "ndcg@10"  # the metric whose intervals are drawn

MEANINGS = {
    "coverage": "share of the catalogue that is shown to anybody",
    "Gini": "inequality of how often items are shown: 0 all alike, near 1 a few only",
    "novelty": "how few people had what is shown: mean of −log₂ of their share",
    "popularity": "mean training events of what is shown",
    "similarity": "mean cosine of the counts between the items of a list",
    "Hit@10/item": "Hit@10, every target item counting the same",
    "NDCG@10/item": "NDCG@10, every target item counting the same",
}


def report_page(found: Report) -> Page:
    """One HTML file that loads nothing."""
    return page(
        "report.html",
        found=found,
        title=_title(found),
        colours={told.name: place for place, told in enumerate(found.runs)},
        data=_data(found),
        curves=_curves(found),
        exposures=[_exposure(found, group) for group in found.groups],
        metrics={name: metric.title for name, metric in METRICS.items()},
        rankings=RANKINGS,
        qualities=QUALITIES,
        meanings=MEANINGS,
        bars=BARS,
        largest={ranking: _largest(found, ranking) for ranking in RANKINGS},
    )


def _title(found: Report) -> str:
    if len(found.runs) == 1:
        return f"{found.runs[0].title}: {found.runs[0].name}"
    return f"{len(found.runs)} runs side by side"


def _data(found: Report) -> list[dict[str, Any]]:
    """Each data once: the runs on it, its description and the warnings."""
    together: dict[str, dict[str, Any]] = {}
    for told in found.runs:
        data = told.data
        entry = together.setdefault(
            repr(data),
            {"runs": [], "facts": data, "split": SPLITS[data["split"]].title, "warnings": []},
        )
        entry["runs"].append(told.name)
        warnings = [f"warning: {warning}" for warning in data.get("warnings", ())]
        if "evaluation" in data:
            warnings += warnings_of(data["evaluation"], told.settings.get("seen", "hide"))
        entry["warnings"] = list(dict.fromkeys(entry["warnings"] + warnings))
    return list(together.values())


def _curves(found: Report) -> list[tuple[str, list[Line], Markup]]:
    """Loss and validation of every run that learned by epochs, with the best epoch as a dot."""
    charts: list[tuple[str, list[Line], Markup]] = []
    learned = [(i, told) for i, told in enumerate(found.runs) if told.curve.losses]
    if not learned:
        return charts

    def line(number: int, points: list[tuple[float, float]]) -> Line:
        told = found.runs[number]
        best = [point for point in points if point[0] == told.best_epoch]
        return Line(told.name, number, points, best[0] if best else None)

    losses = [line(i, [*told.curve.losses]) for i, told in learned]
    charts.append(("Mean training loss", losses, _chart("Mean training loss", losses, False)))
    for ranking, label in RANKINGS.items():
        lines = [line(i, [*told.curve.valid[ranking]]) for i, told in learned]
        levels: dict[float, Line] = {}
        for _, told in learned:
            if (level := told.curve.popularity.get(ranking)) is not None:
                several = f" ({told.name})" if levels and level not in levels else ""
                levels.setdefault(level, Line(f"popularity{several}", 7 - len(levels), level=level))
        if not any(of.points for of in lines):
            continue  # nothing was held out
        lines += levels.values()
        title = f"{METRICS[BARS].title} on validation, {label}"
        charts.append((title, lines, _chart(title, lines, True)))
    return charts


def _chart(title: str, lines: list[Line], from_zero: bool) -> Markup:
    return line_chart(title, lines, "epoch", from_zero)


def _exposure(found: Report, group: Group) -> tuple[list[Line], Markup]:
    """Which tenths of the items what is shown comes from, beside events and targets."""
    number = {told.name: place for place, told in enumerate(found.runs)}

    def line(name: str, colour: int, shares: list[float]) -> Line:
        return Line(name, colour, [(i + 1.0, 100 * x) for i, x in enumerate(shares)])

    lines = [line(r.name, number[r.name], r.exposure) for r in group.rows if r.exposure]
    lines += [line("training events", 7, group.events), line("test targets", 5, group.targets)]
    title = "Percent of what is shown, by tenths of the items from the most popular on"
    axis = f"tenth of the items (1: the most popular, {TENTHS}: the least)"
    return lines, line_chart(title, lines, axis, True)


def _largest(found: Report, ranking: str) -> float:
    values = [row.scores[ranking][BARS] for group in found.groups for row in group.rows]
    return max((value.high or value.mean for value in values), default=1.0) or 1.0
