"""The learning curve of a log, and what its picture says."""

import matplotlib.figure
import pytest

from rka_fast.training.config import Config
from rka_fast.training.curves import curve_of
from rka_fast.training.report import curve_png


def scores(sampled, full):
    return {"sampled": {"ndcg@10": sampled}, "full": {"ndcg@10": full}}


LOG = [
    {"step": 1, "loss": 4.0},
    {"step": 2, "loss": 2.0},
    {"step": 2, "epoch": 1, "valid": scores(0.2, 0.03)},
    {"step": 3, "loss": 1.0},
    {"step": 4, "loss": 2.0},
    {"step": 4, "epoch": 2, "valid": scores(0.1, 0.04)},
    {"step": 5, "loss": 9.0},  # of an epoch that has not ended
]
RESULT = {"best_epoch": 1, "popularity": {"valid": scores(0.15, 0.02), "test": scores(1.0, 1.0)}}


def test_epochs_of_a_log():
    found = curve_of(LOG, Config(), RESULT)
    assert found.losses == [(1, 3.0), (2, 1.5), (3, 9.0)]
    assert found.valid == {"sampled": [(1, 0.2), (2, 0.1)], "full": [(1, 0.03), (2, 0.04)]}
    assert (found.best_epoch, found.popularity) == (1, {"sampled": 0.15, "full": 0.02})
    assert (found.title, found.selected) == ("RKSA", "sampled")


def test_a_run_that_has_not_ended_has_the_best_epoch_so_far():
    found = curve_of(LOG, Config(select="full"), None)
    assert (found.best_epoch, found.popularity) == (2, {})
    assert curve_of(LOG, Config(), None).best_epoch == 1
    assert curve_of([], Config(), None).best_epoch == 0


def test_a_run_that_held_nothing_out_has_losses_and_no_best_epoch():
    log = [line for line in LOG if "loss" in line][:4]
    found = curve_of(log, Config(split="none", epochs=2), {"best_epoch": 2})
    assert (found.losses, found.best_epoch) == ([(1, 3.0), (2, 1.5)], 0)
    assert found.valid == {"sampled": [], "full": []} and curve_png(found) is None


def test_the_picture_has_the_words_of_the_tables(monkeypatch):
    drawn = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda f, *a, **k: (drawn.append(f), save(f, *a, **k))
    )
    png = curve_png(curve_of(LOG, Config(), RESULT))
    assert png is not None and png.startswith(b"\x89PNG")
    (figure,) = drawn
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "RKSA, 100 negatives", "popularity, 100 negatives",
        "RKSA, full ranking", "popularity, full ranking",
        "epoch 1, the best on validation (100 negatives)",
    ]  # fmt: skip
    left, right = figure.axes
    assert right.get_ylabel() == "NDCG@10"
    for axes in (left, right):  # the best epoch is marked
        assert any(list(line.get_xdata()) == [1, 1] for line in axes.lines)
    levels = [line.get_ydata()[0] for line in right.lines if line.get_linestyle() == "--"]
    assert levels == pytest.approx([0.15, 0.02])


def test_no_picture_where_nothing_was_evaluated():
    assert curve_png(curve_of(LOG[:2], Config(), None)) is None
