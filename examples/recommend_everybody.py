"""Recommend to everybody, to newcomers and with caution; similar items; measure on later events.

    python examples/recommend_everybody.py [FOLDER]

FOLDER is where the run and the lists are written. The data is made here: people who walk through a
catalogue of films in short steps.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl

import rka_fast


def walks(people: int = 300, films: int = 120, seed: int = 0) -> pl.DataFrame:
    """Events with the columns user, item and timestamp."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(people):
        film, day = rng.integers(films), int(rng.integers(300))
        for _ in range(rng.integers(8, 15)):
            film, day = (film + rng.integers(1, 4)) % films, day + int(rng.integers(1, 9))
            rows.append((f"p{person}", f"f{film}", 1_600_000_000 + 86_400 * day))
    events = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    return events.sort("timestamp", maintain_order=True)


def main(folder: str = "runs/everybody") -> rka_fast.Run:
    """Train on what came first, then do all of it. Returns the run."""
    events = walks()
    earlier, later = events[:-300], events[-300:]
    run = rka_fast.fit(earlier, model="rksa", epochs=4, out=folder)
    titles = {f"f{n}": f"Film {n}" for n in range(120)}

    # Everybody, in a file. Stopped, the same line goes on where it was.
    lists = run.recommend_to(Path(folder) / "lists.parquet", top=5, titles=titles)
    print(f"{pl.read_parquet(lists)['user'].n_unique()} people have lists in {lists}")

    # People who were not there: of one, nothing that the run knows, so popularity stands in.
    newcomers = {"ann": ["f3", "f5", "f6"], "bob": []}
    print(run.recommend(newcomers, top=3, titles=titles))

    # With how sure the model is, the cautious order, and without some films.
    careful = run.recommend({"ann": newcomers["ann"]}, 3, draws=16, order="lower", exclude=["f7"])
    print(careful)

    print(run.similar("f3", top=3))
    full = run.evaluate(later)["full"]
    print(f"later events, full ranking: NDCG@10 {full['ndcg@10']:.4f}")
    return run


if __name__ == "__main__":
    main(*sys.argv[1:])
