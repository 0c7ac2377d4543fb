"""Items that nobody trained on: how often features alone bring the right one.

    python benchmarks/cold_items.py --data ml-100k/u.data --movies ml-100k/u.item [--out FILE.md]
    python benchmarks/cold_items.py --data LOG --item-features FILE

Of a random share of the items all events are held out of the training. Each of these events is then
a question, after what its user had of the other items before: which of the held-out items was it?
Beside the model stand chance, and the popularity of the held-out items among everybody else's
held-out events, which nobody knows when an item is new.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import tyro

from rka_fast import Run, fit
from rka_fast.data.filters import seconds
from rka_fast.data.readers import read_interactions

TOP = 10
GENRES = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|"
    "Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
).split("|")


@dataclass(frozen=True)
class Flags:
    """The command line."""

    data: str
    item_features: str | None = None
    movies: str | None = None  # u.item of MovieLens 100K: genres and year
    out: str | None = None
    share: float = 0.1  # of the items
    questions: int = 4000  # at most
    models: tuple[str, ...] = ("sasrec", "rksa")
    width: int = 32
    blocks: int = 1
    max_length: int = 30
    batch_size: int = 64
    learning_rate: float = 3e-3
    epochs: int = 30
    patience: int = 5
    seed: int = 0


class Questions(NamedTuple):
    """users: whose. histories: warm items before, oldest first. targets: the held-out items."""

    users: list[str]
    histories: list[list[str]]
    targets: list[str]


def movies(path: str) -> pl.DataFrame:
    """Genres and year of u.item, whose last 19 columns are the genres."""
    rows = []
    for line in Path(path).read_text(encoding="latin-1").splitlines():
        cells = line.split("|")
        genres = [name for name, flag in zip(GENRES, cells[-19:], strict=True) if flag == "1"]
        rows.append((cells[0], "|".join(genres), cells[2][-4:]))
    return pl.DataFrame(rows, schema=["item_id", "genre", "year"], orient="row")


def questions(log: pl.DataFrame, cold: set[str], most: int, seed: int) -> Questions:
    """At most so many of the events with a cold item, each after warm events of its user."""
    found = []
    for (user,), events in log.sort("timestamp", maintain_order=True).group_by(
        "user", maintain_order=True
    ):
        history: list[str] = []
        for item in events["item"]:
            if item not in cold:
                history.append(item)
            elif history:
                found.append((str(user), list(history), item))
    kept = np.random.default_rng(seed).permutation(len(found))[:most]
    return Questions(*map(list, zip(*(found[k] for k in kept), strict=True)))


def hits_of_run(run: Run, asked: Questions, cold: list[str]) -> np.ndarray:
    """Float64 (questions,): whether the item is among the TOP of the cold ones."""
    table = run.recommend(asked.histories, top=TOP, items=cold, progress=False)
    shown = {(str(user), item) for user, item in table.select("user", "item").iter_rows()}
    return np.array([(str(k), item) in shown for k, item in enumerate(asked.targets)], float)


def hits_of_popularity(log: pl.DataFrame, asked: Questions, cold: list[str]) -> np.ndarray:
    """The same of the most popular cold items, by all events but the user's own; ties lose."""
    counts = {item: 0 for item in cold}
    counts |= dict(log["item"].value_counts().filter(pl.col("item").is_in(cold)).iter_rows())
    own = set(log.select("user", "item").iter_rows())
    hits = []
    for user, target in zip(asked.users, asked.targets, strict=True):
        others = [counts[item] - ((user, item) in own) for item in cold if item != target]
        hits.append(sum(other >= counts[target] - 1 for other in others) < TOP)
    return np.array(hits, float)


def mean_over_users(hits: np.ndarray, users: list[str]) -> tuple[float, float]:
    """The mean of users' means, and its standard error."""
    means = pl.DataFrame({"user": users, "hit": hits}).group_by("user").mean()["hit"].to_numpy()
    return float(means.mean()), float(means.std(ddof=1) / len(means) ** 0.5)


def main(argv: list[str] | None = None) -> None:
    flags = tyro.cli(Flags, args=argv, description=__doc__)
    read = read_interactions(flags.data)
    log = read.frame.select(pl.col("user", "item").cast(pl.String)).with_columns(
        timestamp=pl.Series(seconds(read.frame["timestamp"].to_numpy(), read.dated))
    )
    items = log["item"].unique(maintain_order=True).to_list()
    number = round(flags.share * len(items))
    drawn = np.random.default_rng(flags.seed).permutation(len(items))[:number]
    cold = [items[k] for k in drawn]
    warm = log.filter(~pl.col("item").is_in(cold))
    asked = questions(log, set(cold), flags.questions, flags.seed)
    names = [f.name for f in fields(flags)[7:]]
    with tempfile.TemporaryDirectory() as folder:
        file = flags.item_features or f"{folder}/movies.csv"
        if flags.movies is not None:
            movies(flags.movies).write_csv(file)
        rows = [("chance", np.full(len(asked.users), TOP / len(cold)))]
        for model in flags.models:
            settings = {name: getattr(flags, name) for name in names}
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                run = fit(
                    warm, model=model, item_features=file, device="cpu", out=f"{folder}/{model}",
                    **settings,
                )  # fmt: skip
            rows.append((model, hits_of_run(run, asked, [i for i in cold if i in known(run)])))
            print(model, mean_over_users(rows[-1][1], asked.users), flush=True)
        rows.append(("popularity among them", hits_of_popularity(log, asked, cold)))
    lines = [
        "# Items that nobody trained on",
        "",
        f"{Path(flags.data).name}: {len(cold):,} of {len(items):,} items held out, "
        f"{len(asked.users):,} questions of {len(set(asked.users)):,} users. Hit@{TOP} among the "
        "held-out items, mean over users, with standard error.",
        "",
        f"| | Hit@{TOP} | +- |",
        "|---|---|---|",
        *(
            f"| {n} | {m:.4f} | {e:.4f} |"
            for n, h in rows
            for m, e in [mean_over_users(h, asked.users)]
        ),
        "",
        "The popularity is that of everybody else's held-out events, which is not known while an "
        "item is new; by training events all of them are equal, which is chance.",
        "",
        f"Settings: {', '.join(f'{f.name} {getattr(flags, f.name)}' for f in fields(flags)[4:])}.",
        "",
    ]
    print("\n" + "\n".join(lines))
    if flags.out:
        Path(flags.out).write_text("\n".join(lines), encoding="utf-8")


def known(run: Run) -> dict[str, int]:
    """The catalogue of a run, with the items of the features."""
    return run.sequences.indices("item")


if __name__ == "__main__":
    main()
