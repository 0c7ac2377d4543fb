"""The figure of the table: its legend, its words and which bars have whiskers."""

import matplotlib.figure
import numpy as np

from rka_fast.reproduction.datasets import DATASETS
from rka_fast.reproduction.figure import png
from rka_fast.reproduction.results import Outcome
from rka_fast.training.metrics import METRICS, RANKINGS


def outcome(seeds):
    """Of two models: the value of a seed is the seed itself, in tenths."""
    found = Outcome(DATASETS["citeulike"], {"users": 1, "items": 1, "events": 1}, planned=1)
    for model, number in seeds.items():
        for seed in range(number):
            scores = {ranking: dict.fromkeys(METRICS, seed / 10) for ranking in RANKINGS}
            ranks = dict.fromkeys(RANKINGS, np.ones(3))
            found.add(model, seed, {"test": scores, "valid": scores}, ranks)
    return found


def drawn(monkeypatch, outcomes):
    figures = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda f, *a, **k: (figures.append(f), save(f, *a, **k)),
    )
    assert png(outcomes).startswith(b"\x89PNG")
    return figures[0]


def words(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_colours_and_whiskers_are_told(monkeypatch):
    figure = drawn(monkeypatch, [outcome({"sasrec": 1, "rksa": 3})])
    whisker = "± sample standard deviation over the seeds"
    assert words(figure) == ["RKSA", "the other models", whisker]
    panel = figure.axes[0]
    assert panel.get_ylabel() == "citeulike\n100 negatives" and panel.get_title() == "Hit@5"
    (bars,) = panel.containers[1:]
    colours = [bar.get_facecolor() for bar in bars]
    patches = [patch.get_facecolor() for patch in figure.legends[0].get_patches()]
    assert colours == [patches[1], patches[0]]  # SASRec, RKSA
    lows, highs = zip(*(s[:, 1] for s in bars.errorbar[2][0].get_segments() if len(s)), strict=True)
    whole = [high - low for low, high in zip(lows, highs, strict=True) if np.isfinite(high)]
    np.testing.assert_allclose(whole, [0.2])  # 0, .1, .2 deviate by .1; one seed has no whisker


def test_one_seed_has_nothing_to_tell_of_deviations(monkeypatch):
    assert words(drawn(monkeypatch, [outcome({"rksa": 1})])) == ["RKSA", "the other models"]
