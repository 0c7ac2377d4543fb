"""Made-up histories for timing a training step: not data, and nothing is to be learnt from them."""

from pathlib import Path

import numpy as np


def write(path: Path, users: int, items: int, length: int) -> None:
    """`user item` lines: every user has up to twice `length` distinct items, the popular first.

    Lengths are spread as in MovieLens 1M, where about half of the users have fewer than 100
    events and some have thousands.
    """
    rng = np.random.default_rng(0)
    popularity = 1.0 / (np.arange(items) + 20.0)
    popularity /= popularity.sum()
    lengths = np.clip(rng.lognormal(4.6, 0.9, users), 20, min(2 * length, items // 2)).astype(int)
    if length < 20:
        lengths = rng.integers(5, length, users)
    with path.open("w", encoding="utf-8") as file:
        for item in range(items):  # each item occurs
            file.write(f"u{item % users} i{item}\n")
        for user, count in enumerate(lengths):
            for item in rng.choice(items, count, replace=False, p=popularity):
                file.write(f"u{user} i{item}\n")
