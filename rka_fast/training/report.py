"""What a person reads: the final table and the learning curve."""

from __future__ import annotations

import io
from typing import Any

from rka_fast.data.split_rules import SPLITS
from rka_fast.data.targets import warnings_of
from rka_fast.training.curves import CURVE_METRIC, Curve
from rka_fast.training.list_quality import QUALITIES
from rka_fast.training.metrics import METRICS, RANKINGS, metrics_of


def result_table(result: dict[str, Any]) -> str:
    """The test scores of the selected epoch with their intervals, popularity beside the model."""
    if "test" not in result:
        last = f" for {result['best_epoch']} epochs" if result["best_epoch"] else ""
        return f"{result['model']} trained on everything{last}: nothing was held out to test on"
    title = "Test scores"
    if result["best_epoch"]:  # of a model that trains in epochs
        title += f" of epoch {result['best_epoch']}, the best on validation"
    rows = [(result["model"], result["test"], result.get("intervals"))]
    lists = [(result["model"], result.get("lists"))]
    popularity = result["popularity"]
    if result["model"] == "pop":
        rows, lists = [], []
    rows.append(("popularity", popularity["test"], popularity.get("intervals")))
    lists.append(("popularity", popularity.get("lists")))
    if evaluation := result["data"].get("evaluation"):
        title += f", over {evaluation['target_users']['test']:,} users"
        if of := evaluation.get("sampled_of", {}).get("test"):
            title += f" of {of:,} (a sample)"
    if result["data"].get("synthetic"):
        title += " (synthetic data)"
    split = SPLITS[result["data"]["split"]].title
    metrics = metrics_of(scores for _, scores, _ in rows)
    lines = [title, f"{split:<26}" + "".join(f"{METRICS[m].title:>9}" for m in metrics)]
    for ranking, label in RANKINGS.items():
        for row, (name, scores, bounds) in enumerate(rows):
            numbers = "".join(f"{scores[ranking][m]:9.4f}" for m in metrics)
            lines.append(f"{label if row == 0 else '':<14}{name:<12}{numbers}")
            if bounds:  # of the model and of popularity alike
                half = ((high - low) / 2 for low, high in (bounds[ranking][m] for m in metrics))
                lines.append(f"{'':<14}{'  95 % +-':<12}" + "".join(f"{x:9.4f}" for x in half))
    return "\n".join(lines + _qualities(lists) + _warnings(result))


def _warnings(result: dict[str, Any]) -> list[str]:
    """The warnings in front of training again: many epochs have moved them off the screen."""
    data = result["data"]
    if not result["best_epoch"] or "evaluation" not in data:
        return []
    lines = [f"warning: {warning}" for warning in data.get("warnings", ())]
    return lines + warnings_of(data["evaluation"], result["config"]["seen"])


def _qualities(lists: list[tuple[str, dict[str, float] | None]]) -> list[str]:
    """The lines about the lists of the full ranking, where the result has them."""
    if not all(values for _, values in lists):
        return []
    lines = [f"{'top 10 lists':<26}" + "".join(f"{name:>12}" for name, _ in lists)]
    for quality, title in QUALITIES.items():
        numbers = "".join(f"{values[quality]:12.4g}" for _, values in lists if values)
        lines.append(f"{'':<14}{title:<12}{numbers}")
    return lines


def curve_png(curve: Curve, synthetic: bool = False) -> bytes | None:
    """The training loss and the validation scores of a run, as a PNG file.

    Beside them, dashed, popularity's scores, and the epoch that was kept. None where nothing was
    evaluated.
    """
    if not any(curve.valid.values()):
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot(*zip(*curve.losses, strict=True), ".-", color="C7")
    left.set(title="Training", xlabel="epoch", ylabel="mean loss")
    for colour, (ranking, label) in zip(("C0", "C1"), RANKINGS.items(), strict=True):
        points = curve.valid[ranking]
        name = f"{curve.title}, {label}"
        right.plot(*zip(*points, strict=True), ".-", color=colour, label=name)
        if ranking in curve.popularity:
            level, name = curve.popularity[ranking], f"popularity, {label}"
            right.axhline(level, color=colour, linestyle="--", linewidth=1, label=name)
        if best := [point for point in points if point[0] == curve.best_epoch]:
            right.plot(*best[0], "o", color=colour, markersize=9, markerfacecolor="none")
    right.set(
        title="Validation", xlabel="epoch", ylabel=METRICS[CURVE_METRIC].title, ylim=(0, None)
    )
    for axes in (left, right):
        line = f"epoch {curve.best_epoch}, the best on validation ({RANKINGS[curve.selected]})"
        axes.axvline(curve.best_epoch, color="k", linestyle=":", linewidth=1, label=line)
        axes.grid(alpha=0.3)
    figure.legend(
        *right.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8
    )
    if synthetic:
        figure.suptitle("Synthetic data")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
