"""The machinery of the measurement on items without events, by hand."""

import cold_items
import numpy as np
import polars as pl
import pytest

LOG = pl.DataFrame(
    {
        "user": ["a", "a", "a", "a", "b", "b", "c", "c"],
        "item": ["w1", "x", "w2", "y", "x", "w1", "w2", "x"],
        "timestamp": [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 1.0, 2.0],
    }
)


def test_questions_follow_the_warm_events_of_their_user():
    asked = cold_items.questions(LOG, {"x", "y"}, 99, seed=0)
    found = sorted(zip(*asked, strict=True))
    # b's first event has nothing before it.
    assert found == [("a", ["w1"], "x"), ("a", ["w1", "w2"], "y"), ("c", ["w2"], "x")]
    assert len(cold_items.questions(LOG, {"x", "y"}, 2, seed=0).users) == 2


def test_popularity_leaves_out_the_own_event_and_ties_lose(monkeypatch):
    monkeypatch.setattr(cold_items, "TOP", 1)
    asked = cold_items.Questions(["a", "a", "c"], [["w1"]] * 3, ["x", "y", "x"])
    # Of a: x has 2 events of others, y none. Of c: x has 2, y has 1.
    assert cold_items.hits_of_popularity(LOG, asked, ["x", "y"]).tolist() == [1, 0, 1]
    alone = cold_items.Questions(["a"], [["w1"]], ["y"])
    assert cold_items.hits_of_popularity(LOG, alone, ["y", "z"]).tolist() == [0]  # 0 and 0


def test_the_mean_is_over_users():
    mean, error = cold_items.mean_over_users(np.array([1.0, 0.0, 0.0]), ["a", "a", "b"])
    assert (mean, error) == (0.25, pytest.approx(np.std([0.5, 0], ddof=1) / 2**0.5))


def test_it_runs_and_features_beat_chance(tmp_path, capsys):
    """Everybody stays with one of four kinds of items, which the features tell."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"k{user % 4}n{rng.integers(20)}", time)
        for user in range(80)
        for time in range(1, 13)
    ]
    pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row").write_csv(
        tmp_path / "log.csv"
    )
    kinds = [(f"k{k}n{n}", f"kind{k}") for k in range(4) for n in range(20)]
    pl.DataFrame(kinds, schema=["item_id", "kind"], orient="row").write_csv(tmp_path / "items.csv")
    flags = ["--data", str(tmp_path / "log.csv"), "--item-features", str(tmp_path / "items.csv")]
    flags += ["--share", "0.4", "--models", "sasrec", "--width", "16", "--epochs", "12"]
    cold_items.main([*flags, "--learning-rate", "0.01", "--out", str(tmp_path / "out.md")])
    cells = [line.split("|") for line in (tmp_path / "out.md").read_text().splitlines()]
    table = {c[1].strip(): float(c[2]) for c in cells if len(c) == 5 and c[2].strip()[:2] == "0."}
    assert table["chance"] == pytest.approx(10 / 32, abs=1e-4)
    # Of 32 held-out items 8 or so are of the right kind, and ten are shown.
    assert table["sasrec"] > 2 * table["chance"]
