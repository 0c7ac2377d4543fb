"""What a person reads: the final table and the learning curve."""

from __future__ import annotations

import io
from typing import Any

from rka_fast.data.split_rules import SPLITS
from rka_fast.data.targets import warnings_of
from rka_fast.training.list_quality import QUALITIES
from rka_fast.training.metrics import METRICS, RANKINGS


def result_table(result: dict[str, Any]) -> str:
    """The test scores of the selected epoch with their intervals, popularity beside the model."""
    if "test" not in result:
        last = f" for {result['best_epoch']} epochs" if result["best_epoch"] else ""
        return f"{result['model']} trained on everything{last}: nothing was held out to test on"
    title = f"Test scores of epoch {result['best_epoch']}, the best on validation"
    rows = [(result["model"], result["test"], result.get("intervals"))]
    lists = [(result["model"], result.get("lists"))]
    popularity = result["popularity"]
    if result["model"] == "pop":
        title, rows, lists = "Test scores", [], []
    rows.append(("popularity", popularity["test"], popularity.get("intervals")))
    lists.append(("popularity", popularity.get("lists")))
    if evaluation := result["data"].get("evaluation"):
        title += f", over {evaluation['target_users']['test']:,} users"
    if result["data"].get("synthetic"):
        title += " (synthetic data)"
    split = SPLITS[result["data"]["split"]].title
    lines = [title, f"{split:<26}" + "".join(f"{metric.title:>9}" for metric in METRICS.values())]
    for ranking, label in RANKINGS.items():
        for row, (name, scores, bounds) in enumerate(rows):
            numbers = "".join(f"{scores[ranking][metric]:9.4f}" for metric in METRICS)
            lines.append(f"{label if row == 0 else '':<14}{name:<12}{numbers}")
            if bounds:  # of the model and of popularity alike
                half = ((high - low) / 2 for low, high in (bounds[ranking][m] for m in METRICS))
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


def curve_png(log: list[dict[str, Any]], synthetic: bool = False) -> bytes | None:
    """The training loss and the validation scores of a run's log, as a PNG file.

    None where nothing was evaluated.
    """
    evaluations = [line for line in log if "valid" in line]
    if not evaluations:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    per_epoch = evaluations[0]["step"] / evaluations[0]["epoch"]
    losses: dict[int, list[float]] = {}
    for line in log:
        if "loss" in line:
            losses.setdefault(int((line["step"] - 1) // per_epoch) + 1, []).append(line["loss"])
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot(list(losses), [sum(values) / len(values) for values in losses.values()], ".-")
    left.set(title="Training", xlabel="epoch", ylabel="mean loss")
    epochs = [line["epoch"] for line in evaluations]
    for ranking, label in RANKINGS.items():
        right.plot(
            epochs, [line["valid"][ranking]["ndcg@10"] for line in evaluations], ".-", label=label
        )
    right.set(title="Validation", xlabel="epoch", ylabel="NDCG@10", ylim=(0, None))
    right.legend()
    if synthetic:
        figure.suptitle("Synthetic data")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
