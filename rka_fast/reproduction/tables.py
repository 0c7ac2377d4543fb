"""The outcomes as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

from rka_fast.data.targets import FEW
from rka_fast.files import csv_cell, markdown_text
from rka_fast.models import MODELS
from rka_fast.reproduction.paper import PAPER_METRICS, POP_FOOTNOTE
from rka_fast.reproduction.results import OURS, Outcome, Scores
from rka_fast.training.list_quality import QUALITIES
from rka_fast.training.metrics import METRICS, RANKINGS

HEADINGS = {"sampled": "Against 100 negatives", "full": "Full ranking over all candidates"}


def title(model: str) -> str:
    """A model's name for people."""
    return MODELS[model].title


def markdown(outcomes: list[Outcome], not_run: dict[str, str], facts: dict[str, str]) -> str:
    """The whole report. not_run: reason by data set. facts: what was run, where and when."""
    lines = ["# Test scores of the epoch with the best validation NDCG@10", ""]
    lines += [f"- {name}: {fact}" for name, fact in facts.items()]
    lines += [
        "- mean ± sample standard deviation over the seeds; the best mean of a column is bold",
        "- 95 %: half of the interval of NDCG@10 over the test users, mean over the seeds",
        "- time: seconds per training epoch, and a cell's training and evaluation in all",
    ]
    for outcome in outcomes:
        lines += ["", *_section(outcome)]
    if not_run:
        lines += ["", "## Not run", ""]
        lines += [
            f"- {markdown_text(name)}: {markdown_text(reason)}" for name, reason in not_run.items()
        ]
    return "\n".join(lines) + "\n"


def _section(outcome: Outcome) -> list[str]:
    dataset, data = outcome.dataset, outcome.description
    lines = [
        f"## {markdown_text(dataset.title)} ({markdown_text(dataset.name)})",
        "",
        f"{data['users']:,} users, {data['items']:,} items, {data['events']:,} events; "
        f"split: {data['split']}; {outcome.finished} of {outcome.planned} cells finished.",
    ]
    if not outcome.is_known:
        expected = "{:,} users, {:,} items, {:,} events".format(*dataset.counts or ())
        lines.append(
            f"These files are not the known ones ({expected}): no figures to compare with."
        )
    lines += _tested(data)
    if dataset.note:
        lines.append(dataset.note)
    for ranking in RANKINGS if outcome.scores else ():
        lines += ["", f"**{HEADINGS[ranking]}**", "", *_table(outcome, ranking)]
    lines += _qualities(outcome)
    if "pop" in outcome.paper and "pop" in outcome.scores:
        lines += ["", POP_FOOTNOTE]
    if outcome.comparisons:
        lines += ["", *_comparisons(outcome)]
    lines += [
        f"\nFailed: {markdown_text(cell)}: {markdown_text(message)}"
        for cell, message in outcome.failures.items()
    ]
    return lines


def _table(outcome: Outcome, ranking: str) -> list[str]:
    paper = outcome.paper if ranking == "sampled" else {}
    beside = ["paper"] if paper else []
    header = ["model", *(cell for m in PAPER_METRICS for cell in (METRICS[m].title, *beside))]
    best = {m: max(s.mean(ranking, m) for s in outcome.scores.values()) for m in PAPER_METRICS}
    rows = [[*header, "95 %", "seeds", "s/epoch", "s in all"]]
    rows.append(["---"] + ["--:"] * (len(rows[0]) - 1))
    for model, scores in outcome.scores.items():
        row = [title(model)]
        for metric in PAPER_METRICS:
            text = value(scores, ranking, metric)
            row.append(f"**{text}**" if scores.mean(ranking, metric) == best[metric] else text)
            if paper:
                row.append(number(paper[model][metric]) if model in paper else "–")
        half = scores.half_width(ranking, "ndcg@10")
        row.append("–" if half is None else f"± {number(half)}")
        per_epoch = scores.seconds_per_epoch
        row += [str(len(scores.results)), f"{per_epoch:.3g}" if per_epoch else "–"]
        rows.append([*row, f"{sum(scores.seconds) / len(scores.seconds):.0f}"])
    return ["| " + " | ".join(row) + " |" for row in rows]


def _tested(data: dict[str, Any]) -> list[str]:
    """Over how many users the figures are, and what is doubtful about that."""
    evaluation = data.get("evaluation")
    if evaluation is None:
        return []
    users = evaluation["target_users"]["test"]
    lines = [f"**Warning: {markdown_text(warning)}**" for warning in data.get("warnings", ())]
    lines.append(f"Tested: {users:,} users.")
    if users < FEW:
        lines.append("**Warning: so few users say little; differences inside 95 % mean nothing.**")
    if had := evaluation["targets_had"]["test"]:
        lines.append(f"{had:.1%} of the test targets were had before by their user.")
    return lines


def _qualities(outcome: Outcome) -> list[str]:
    """The table of what is shown beside the hits, of models whose cells have it."""
    rows = {
        title(model): [scores.quality(name) for name in QUALITIES]
        for model, scores in outcome.scores.items()
    }
    known = {name: values for name, values in rows.items() if None not in values}
    if not known:
        return []
    lines = ["", "**What the first ten of the full ranking are like** (docs/data.md)", ""]
    lines += ["| model | " + " | ".join(QUALITIES.values()) + " |"]
    lines += ["| --- |" + " --: |" * len(QUALITIES)]
    return lines + [
        f"| {name} | " + " | ".join(f"{value:.4g}" for value in values) + " |"
        for name, values in known.items()
    ]


def value(scores: Scores, ranking: str, metric: str) -> str:
    """Mean and, of several seeds, deviation."""
    deviation = scores.deviation(ranking, metric)
    return number(scores.mean(ranking, metric)) + (
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
        f"- {HEADINGS[ranking].lower()}, {title(str(outcome.baseline(ranking)))}: "
        f"{found.difference:+.4f}, 95 % interval {found.low:+.4f} to {found.high:+.4f}, "
        f"p = {found.p:.2g} ({found.users:,} users)"
        for ranking, found in outcome.comparisons.items()
    ]
    return [first, "", *lines]


def csv_text(outcomes: list[Outcome]) -> str:
    """One line a data set and model: means, deviations and the paper's figures by metric."""
    columns: dict[str, Callable[[Outcome, str, Scores], object]] = {
        "dataset": lambda outcome, model, scores: outcome.dataset.name,
        "split": lambda outcome, model, scores: outcome.description["split"],
        "model": lambda outcome, model, scores: model,
        "seeds": lambda outcome, model, scores: len(scores.results),
        "seconds_per_epoch": lambda outcome, model, scores: scores.seconds_per_epoch,
        "seconds": lambda outcome, model, scores: sum(scores.seconds) / len(scores.seconds),
    }
    for m in PAPER_METRICS:
        for ranking in RANKINGS:
            columns[f"{ranking}_{m}"] = lambda o, model, s, ranking=ranking, m=m: s.mean(ranking, m)
            columns[f"{ranking}_{m}_sd"] = lambda o, model, s, ranking=ranking, m=m: s.deviation(
                ranking, m
            )
        columns[f"paper_{m}"] = lambda o, model, s, m=m: o.paper.get(model, {}).get(m)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for outcome in outcomes:
        for model, scores in outcome.scores.items():
            cells = (column(outcome, model, scores) for column in columns.values())
            writer.writerow(map(csv_cell, cells))
    return file.getvalue()
