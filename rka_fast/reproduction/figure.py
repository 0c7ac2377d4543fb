"""The outcomes as bars: a row of panels for every data set and ranking, a panel a metric."""

from __future__ import annotations

import io

from rka_fast.reproduction.paper import PAPER_METRICS
from rka_fast.reproduction.results import OURS, Outcome
from rka_fast.reproduction.tables import title
from rka_fast.training.metrics import METRICS, RANKINGS


def png(outcomes: list[Outcome]) -> bytes:
    """The figure as a PNG file. Outcomes without scores are left out; one must have some."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [(outcome, ranking) for outcome in outcomes if outcome.scores for ranking in RANKINGS]
    figure = Figure(figsize=(13, 2.6 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(PAPER_METRICS), squeeze=False)
    for (outcome, ranking), line in zip(rows, panels, strict=True):
        names = list(outcome.scores)
        for metric, axes in zip(PAPER_METRICS, line, strict=True):
            scores = list(outcome.scores.values())
            axes.bar(
                range(len(names)),
                [s.mean(ranking, metric) for s in scores],
                yerr=[s.deviation(ranking, metric) or 0 for s in scores],
                color=["C1" if name == OURS else "C0" for name in names],
                capsize=2,
            )
            paper = [outcome.paper.get(name, {}).get(metric) for name in names]
            known = [place for place, value in enumerate(paper) if value is not None]
            if ranking == "sampled" and known:
                axes.plot(known, [paper[place] for place in known], "k_", ms=14, label="paper")
            axes.set_xticks(range(len(names)), map(title, names), rotation=60, fontsize=7)
            axes.set_title(METRICS[metric].title, fontsize=9)
            axes.grid(axis="y", alpha=0.3)
        line[0].set_ylabel(f"{outcome.dataset.name}\n{ranking}")
        if line[0].get_legend_handles_labels()[0]:
            line[0].legend(fontsize=7)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
