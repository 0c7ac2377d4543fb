"""What is told of a study: the table, its JSON, and the picture of what mattered."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from rka_fast.files import markdown_text
from rka_fast.training.metrics import METRICS, RANKINGS
from rka_fast.training.trainer import SELECTION
from rka_fast.tuning.study import Tuning

STATES = {TrialState.COMPLETE: "trained", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
FEWEST = 4
"""Trained trials with which importances are estimated."""


def rows(tuning: Tuning) -> list[dict[str, Any]]:
    """The trials that have ended as JSON, the best first, those without a score last."""

    def row(trial: FrozenTrial) -> dict[str, Any]:
        scores = trial.intermediate_values
        return {
            "trial": trial.number,
            "state": STATES[trial.state],
            "score": trial.value if trial.state == TrialState.COMPLETE else _last(trial),
            "best_epoch": max(scores, key=lambda epoch: (scores[epoch], -epoch), default=None),
            "epochs": max(scores, default=None),
            "settings": trial.params,
            "folder": str(tuning.folder(trial.number).relative_to(tuning.out)),
            **({"error": e} if (e := trial.user_attrs.get("error")) else {}),
        }

    def place(row: dict[str, Any]) -> tuple[float, int]:
        return -math.inf if row["score"] is None else row["score"], -row["trial"]

    return sorted(map(row, tuning.done), key=place, reverse=True)


def _last(trial: FrozenTrial) -> float | None:
    scores = trial.intermediate_values
    return scores[max(scores)] if scores else None


def importances(tuning: Tuning) -> dict[str, float]:
    """The share of the variance of the scores that each setting explains, the largest first.

    Functional ANOVA over a forest of regression trees (Hutter et al., ICML 2014), on the trials
    that were trained to their end; empty where they are too few or alike.
    """
    trained = [trial for trial in tuning.done if trial.state == TrialState.COMPLETE]
    if len(trained) < FEWEST or len({trial.value for trial in trained}) == 1:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(tuning.study, evaluator=evaluator)


def markdown(tuning: Tuning, found: Mapping[str, float], facts: Mapping[str, str]) -> str:
    """The trials, the best first, and what mattered."""
    names, table = list(tuning.space), rows(tuning)
    metric = f"{METRICS[SELECTION].title}, {RANKINGS[str(tuning.base.select or 'sampled')]}"
    head = ["trial", "", metric, "best epoch", "epochs", *names]
    lines = [f"# {len(table)} trials of {tuning.base.model}", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["- scores are on validation; those of pruned trials are of their last epoch", ""]
    lines += [_line(head), _line(["--:", "---", *["--:"] * (len(head) - 2)])]
    for row in table:
        score = "" if row["score"] is None else f"{row['score']:.4f}"
        cells = [str(row["trial"]), row["state"], score, row["best_epoch"], row["epochs"]]
        values = [markdown_text(short(row["settings"].get(name))) for name in names]
        lines.append(_line(["" if cell is None else str(cell) for cell in cells] + values))
    if found:
        lines += ["", "Share of the variance of the trained trials that each setting explains:", ""]
        lines += [_line(["setting", "share"]), _line(["---", "--:"])]
        lines += [_line([name, f"{share:.3f}"]) for name, share in found.items()]
    lines += [
        f"\nTrial {row['trial']} failed: {markdown_text(row['error'])}"
        for row in table
        if "error" in row
    ]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def short(value: Any) -> str:
    """A value for a person."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def png(tuning: Tuning, found: Mapping[str, float]) -> bytes | None:
    """The scores over the trials, importances, and the scores over every setting; a PNG file.

    None where no trial has a score.
    """
    trials = [t for t in tuning.done if t.value is not None or t.intermediate_values]
    if not trials:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = sorted(tuning.space, key=lambda name: -found.get(name, 0.0))
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(10, 2.8 * (1 + lines)), layout="constrained")
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(2, height_ratios=(1, lines))
    top, rest = halves
    history, shares = top.subplots(1, 2)
    _points(history, [trial.number for trial in trials], trials)
    history.set(title="The trials in order", xlabel="trial", ylabel=METRICS[SELECTION].title)
    history.legend(fontsize=7)
    shares.barh(list(found)[::-1], list(found.values())[::-1])
    shares.set_title("Share of the variance" + ("" if found else ": too few trained trials"))
    panels = list(rest.subplots(lines, columns, sharey=True, squeeze=False).flat)
    for axes, name in zip(panels, names, strict=False):
        _over(axes, name, tuning.space[name], trials)
    for axes in (history, shares, *panels):
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _over(axes: Any, name: str, distribution: BaseDistribution, trials: list[FrozenTrial]) -> None:
    """The scores over one setting; a range has its ends marked."""
    values = [trial.params[name] for trial in trials]
    axes.set_xlabel(name)
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
        values = [choices.index(value) for value in values]
        axes.set_xticks(range(len(choices)), map(str, choices))
    elif isinstance(distribution, FloatDistribution) and distribution.log:
        ends = (distribution.low, distribution.high)
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(ends, map(short, ends))
    _points(axes, values, trials)


def _points(axes: Any, places: list[Any], trials: list[FrozenTrial]) -> None:
    """The scores at these places, trained and pruned trials in two colours."""
    for state, colour in ((TrialState.PRUNED, "0.7"), (TrialState.COMPLETE, "C0")):
        chosen = [(x, t) for x, t in zip(places, trials, strict=True) if t.state == state]
        scores = [t.value if state == TrialState.COMPLETE else _last(t) for _, t in chosen]
        axes.plot([x for x, _ in chosen], scores, "o", color=colour, ms=4, label=STATES[state])
