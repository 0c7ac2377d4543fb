"""The outcomes as bars: a row of panels for every data set and ranking, a panel a metric.

Colours and words are told below the panels, and are those of the tables.
"""

from __future__ import annotations

import io
import math

from rka_fast.reproduction.paper import PAPER_METRICS
from rka_fast.reproduction.results import OURS, Outcome
from rka_fast.reproduction.tables import title
from rka_fast.training.metrics import METRICS, RANKINGS


def png(outcomes: list[Outcome]) -> bytes:
    """The figure as a PNG file. Outcomes without scores are left out; one must have some."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows = [(outcome, ranking) for outcome in outcomes if outcome.scores for ranking in RANKINGS]
    figure = Figure(figsize=(13, 2.6 * len(rows) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(PAPER_METRICS), squeeze=False)
    for (outcome, ranking), line in zip(rows, panels, strict=True):
        names = list(outcome.scores)
        for metric, axes in zip(PAPER_METRICS, line, strict=True):
            scores = list(outcome.scores.values())
            axes.bar(
                range(len(names)),
                [s.mean(ranking, metric) for s in scores],
                yerr=[_whisker(s.deviation(ranking, metric)) for s in scores],
                color=["C1" if name == OURS else "C0" for name in names],
                capsize=2,
            )
            paper = [outcome.paper.get(name, {}).get(metric) for name in names]
            known = [place for place, value in enumerate(paper) if value is not None]
            if ranking == "sampled" and known:
                axes.plot(known, [paper[place] for place in known], "k_", ms=14)
            axes.set_xticks(range(len(names)), map(title, names), rotation=60, fontsize=7)
            axes.set_title(METRICS[metric].title, fontsize=9)
            axes.grid(axis="y", alpha=0.3)
        line[0].set_ylabel(f"{outcome.dataset.name}\n{RANKINGS[ranking]}", fontsize=9)
    legend: list[Patch | Line2D] = [
        Patch(color="C1", label=title(OURS)),
        Patch(color="C0", label="the other models"),
    ]
    if any(len(s.results) > 1 for outcome, _ in rows for s in outcome.scores.values()):
        whisker = "± sample standard deviation over the seeds"
        legend.append(Line2D([], [], color="k", marker="|", ms=10, ls="", label=whisker))
    if any(outcome.paper for outcome, _ in rows):
        legend.append(Line2D([], [], color="k", marker="_", ms=14, ls="", label="paper"))
    figure.legend(handles=legend, loc="outside lower center", ncols=len(legend), fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _whisker(deviation: float | None) -> float:
    """Half of its length; none is drawn of NaN, where one seed tells no deviation."""
    return math.nan if deviation is None else deviation
