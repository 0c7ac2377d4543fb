"""The outcomes as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

from rka_fast.reproduction.outcome import OURS, Outcome, Scores
from rka_fast.reproduction.paper import METRICS, MODELS, POP_FOOTNOTE, TITLES
from rka_fast.training.metrics import RANKINGS

KINDS = {"sampled": "Against 100 negatives", "full": "Full ranking over all unseen items"}


def title(model: str) -> str:
    """A model's name for people."""
    return MODELS.get(model, model)


def markdown(outcomes: list[Outcome], not_run: dict[str, str], facts: dict[str, str]) -> str:
    """The whole report. not_run: reason by data set. facts: what was run, where and when."""
    lines = ["# Test scores of the epoch with the best validation NDCG@10", ""]
    lines += [f"- {name}: {fact}" for name, fact in facts.items()]
    lines += [
        "- mean ± sample standard deviation over the seeds; the best mean of a column is bold",
        "- time: seconds per training epoch, and a cell's training and evaluation in all",
    ]
    for outcome in outcomes:
        lines += ["", *_section(outcome)]
    if not_run:
        lines += ["", "## Not run", ""]
        lines += [f"- {name}: {reason}" for name, reason in not_run.items()]
    return "\n".join(lines) + "\n"


def _section(outcome: Outcome) -> list[str]:
    dataset, data = outcome.dataset, outcome.data
    lines = [
        f"## {dataset.title} ({dataset.name})",
        "",
        f"{data['users']:,} users, {data['items']:,} items, {data['events']:,} events; "
        f"split: {data['split']}; {outcome.finished} of {outcome.planned} cells finished.",
    ]
    if not outcome.is_known:
        expected = "{:,} users, {:,} items, {:,} events".format(*dataset.counts)
        lines.append(f"Other data than the known files ({expected}): no figures to compare with.")
    if dataset.note:
        lines.append(dataset.note)
    for kind in RANKINGS if outcome.models else ():
        lines += ["", f"**{KINDS[kind]}**", "", *_table(outcome, kind)]
    if "pop" in outcome.paper and "pop" in outcome.models:
        lines += ["", POP_FOOTNOTE]
    if outcome.comparisons:
        lines += ["", *_comparisons(outcome)]
    lines += [f"\nFailed: {cell}: {message}" for cell, message in outcome.failures.items()]
    return lines


def _table(outcome: Outcome, kind: str) -> list[str]:
    paper = outcome.paper if kind == "sampled" else {}
    beside = ["paper"] if paper else []
    header = ["model", *(cell for m in METRICS for cell in (TITLES[m], *beside))]
    best = {m: max(s.mean(kind, m) for s in outcome.models.values()) for m in METRICS}
    rows = [header + ["seeds", "s/epoch", "s in all"]]
    rows.append(["---"] + ["--:"] * (len(rows[0]) - 1))
    for model, scores in outcome.models.items():
        row = [title(model)]
        for metric in METRICS:
            text = value(scores, kind, metric)
            row.append(f"**{text}**" if scores.mean(kind, metric) == best[metric] else text)
            if paper:
                row.append(number(paper[model][metric]) if model in paper else "–")
        per_epoch = scores.seconds_per_epoch
        row += [str(len(scores.results)), f"{per_epoch:.3g}" if per_epoch else "–"]
        rows.append([*row, f"{sum(scores.seconds) / len(scores.seconds):.0f}"])
    return ["| " + " | ".join(row) + " |" for row in rows]


def value(scores: Scores, kind: str, metric: str) -> str:
    """Mean and, of several seeds, deviation."""
    deviation = scores.deviation(kind, metric)
    return number(scores.mean(kind, metric)) + (
        "" if deviation is None else f" ± {number(deviation)}"
    )


def number(x: float) -> str:
    """Four digits, without the 0 in front, as the paper prints them."""
    text = f"{x:.4f}"
    return text.replace("0.", ".", 1) if abs(x) < 1 else text


def _comparisons(outcome: Outcome) -> list[str]:
    first = (
        f"{title(OURS)} against the best of the others on validation, NDCG@10 paired over the "
        "test users:"
    )
    lines = [
        f"- {KINDS[kind].lower()}, {title(outcome.baseline(kind))}: {found.difference:+.4f}, "
        f"95 % interval {found.low:+.4f} to {found.high:+.4f}, p = {found.p:.2g} "
        f"({found.users:,} users)"
        for kind, found in outcome.comparisons.items()
    ]
    return [first, "", *lines]


def csv_text(outcomes: list[Outcome]) -> str:
    """One line a data set and model: means, deviations and the paper's figures by metric."""
    columns: dict[str, Callable[[Outcome, str, Scores], object]] = {
        "dataset": lambda outcome, model, scores: outcome.dataset.name,
        "split": lambda outcome, model, scores: outcome.data["split"],
        "model": lambda outcome, model, scores: model,
        "seeds": lambda outcome, model, scores: len(scores.results),
        "seconds_per_epoch": lambda outcome, model, scores: scores.seconds_per_epoch,
        "seconds": lambda outcome, model, scores: sum(scores.seconds) / len(scores.seconds),
    }
    for m in METRICS:
        for kind in RANKINGS:
            columns[f"{kind}_{m}"] = lambda o, model, s, kind=kind, m=m: s.mean(kind, m)
            columns[f"{kind}_{m}_sd"] = lambda o, model, s, kind=kind, m=m: s.deviation(kind, m)
        columns[f"paper_{m}"] = lambda o, model, s, m=m: o.paper.get(model, {}).get(m)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for outcome in outcomes:
        for model, scores in outcome.models.items():
            writer.writerow([column(outcome, model, scores) for column in columns.values()])
    return file.getvalue()
