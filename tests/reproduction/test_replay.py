"""The machinery of the weekly replay, on a log of which everything is known."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import replay

DAY = 86_400


@pytest.fixture(scope="module")
def log():
    """Ten weeks; users walk round 40 items, and every week brings a user, in the last an item."""
    rng = np.random.default_rng(0)
    rows = []
    for week in range(10):
        for user in range(30 + week):
            item = int(rng.integers(40))
            for k in range(4):
                rows.append((f"u{user}", f"i{(item + k) % 40}", (7 * week + k + 0.5) * DAY))
    rows.append(("u0", "new", (7 * 9 + 6.9) * DAY))
    return pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")


def test_periods_are_all_events_once_in_order_of_time(log):
    parts = replay.periods(log, 0.8, 7.0)
    assert len(pl.concat(parts)) == len(log)
    times = [part["timestamp"] for part in parts]
    first, last = log["timestamp"].min(), log["timestamp"].max()
    begin = first + 0.8 * (last - first)
    assert times[0].max() < begin <= times[1].min()
    for part in times[1:]:
        assert part.max() - part.min() < 7 * DAY
    assert all(a.max() < b.min() for a, b in pairwise(times))


def test_both_arms_know_the_same_and_are_asked_the_same(log, tmp_path):
    parts = replay.periods(log, 0.7, 7.0)
    settings = {
        "model": "sasrec", "width": 16, "blocks": 1, "max_length": 8, "batch_size": 16,
        "learning_rate": 0.01, "split": "none", "device": "cpu", "epochs": 12,
        "seen": "keep",
    }  # fmt: skip
    weeks = list(replay.replayed(parts, settings, 3, tmp_path))
    assert len(weeks) == len(parts) - 2 > 0
    for week, new, later in zip(weeks, parts[1:], parts[2:], strict=False):
        assert week.events == len(new)
        # "new" cannot be asked for, nor the first event of somebody who is new in that week.
        before = log.filter(pl.col("timestamp") < later["timestamp"].min())["user"]
        fresh = set(later["user"]) - set(before)
        assert week.asked == len(later.filter(pl.col("item") != "new")) - len(fresh)
        # Three of four events of a walk follow their predecessor. Chance among 40 gives 0.114.
        chance = sum(1 / np.log2(rank + 1) for rank in range(1, 11)) / 40
        assert min(week.updated.score, week.anew.score) > 2 * chance
    text = replay.report(weeks, replay.Flags(data="log", epochs=12), "facts")
    mean = np.mean([w.updated.score - w.anew.score for w in weeks])
    assert f"{mean:+.4f} NDCG@10 on average" in text and "epochs 12" in text
