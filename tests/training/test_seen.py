"""What was had before: one rule for evaluation, sampled negatives and recommending."""

import json

import numpy as np
import pytest
from support.runs import train

from rka_fast.run import Run


def write(path, histories):
    lines = (f"u{user} i{item}\n" for user, items in enumerate(histories) for item in items)
    path.write_text("".join(lines))
    return path


def result_of(run):
    return json.loads((run / "result.json").read_text())


@pytest.fixture(scope="module")
def cycles(tmp_path_factory):
    """Users go round four of their own items: what comes next is known, and was had before."""
    folder = tmp_path_factory.mktemp("cycles")
    histories = [[4 * (u % 30) + (u + k) % 4 for k in range(14)] for u in range(240)]
    log = write(folder / "log.txt", histories)
    for seen in ("hide", "keep"):
        flags = ("--model", "sasrec", "--epochs", "25", "--seen", seen, "--learning-rate", "0.01")
        assert train(log, folder / seen, *flags) == 0
    return folder, histories


def test_kept_items_are_candidates_in_evaluation_and_recommending(cycles):
    folder, histories = cycles
    result = result_of(folder / "keep")
    assert result["test"]["full"]["hit@5"] > 0.95
    assert result["data"]["evaluation"]["targets_had"] == {"valid": 1.0, "test": 1.0}
    run = Run(str(folder / "keep"))
    shown = [run.recommend([[f"i{i}" for i in h[:-1]]], top=4)["item"] for h in histories[:20]]
    right = [f"i{h[-1]}" in s for h, s in zip(histories, shown, strict=False)]
    assert np.mean(right) > 0.9


def test_hidden_items_are_misses_in_evaluation_and_never_recommended(cycles):
    folder, histories = cycles
    result = result_of(folder / "hide")
    for ranking in ("sampled", "full"):
        assert set(result["test"][ranking].values()) == {0.0}
    run = Run(str(folder / "hide"))
    for history in histories[:5]:
        shown = set(run.recommend([[f"i{i}" for i in history]], top=1000)["item"])
        assert shown == {f"i{i}" for i in range(120)} - {f"i{i}" for i in history}


def test_the_report_says_how_many_and_what_to_do(cycles, capsys):
    folder, _histories = cycles
    log = folder / "log.txt"
    for seen, expected in (
        ("hide", "warning: 100.0% of the test targets were had before"),
        ("keep", "100.0% of the test targets were had before by their user; they may be shown"),
    ):
        assert train(log, folder / f"pop-{seen}", "--model", "pop", "--seen", seen) == 0
        printed = capsys.readouterr().out
        assert expected in printed
        assert ("--seen keep makes every item a candidate" in printed) == (seen == "hide")


def test_noise_with_repeats_scores_as_chance(tmp_path):
    """Of every second user the last event repeats the one before: no model may profit."""
    rng = np.random.default_rng(0)
    histories = [rng.choice(500, 6, replace=False).tolist() for _ in range(600)]
    for history in histories[::2]:
        history[-1] = history[-2]
    log = write(tmp_path / "log.txt", histories)
    assert train(log, tmp_path / "run", "--model", "sasrec", "--epochs", "5") == 0
    result = result_of(tmp_path / "run")
    assert result["data"]["evaluation"]["targets_had"]["test"] == pytest.approx(0.5)
    assert result["test"]["full"]["ndcg@10"] <= 0.02


def test_a_small_catalogue_and_a_heavy_user_are_evaluated(tmp_path, capsys):
    """60 items, and a user who has had all but ten: as many negatives as are left, and said."""
    rng = np.random.default_rng(1)
    histories = [rng.choice(60, 8, replace=False).tolist() for _ in range(80)]
    histories[3] = rng.permutation(60)[:50].tolist()
    log = write(tmp_path / "log.txt", histories)
    assert train(log, tmp_path / "run", "--model", "pop") == 0
    printed = capsys.readouterr().out
    assert "80 of the 80 test targets are ranked against fewer than 100 sampled" in printed
    assert "(the fewest: 10)" in printed and "warning: only 80 users are tested" in printed
    ranks = np.load(tmp_path / "run" / "ranks.npz")
    assert ranks["sampled"][3] <= 11
    # All that is left is every candidate, so both rankings are one.
    assert (ranks["sampled"] == ranks["full"]).all()


def test_lists_are_kept_and_hold_the_targets_that_hit(tmp_path):
    rng = np.random.default_rng(2)
    histories = [rng.choice(40, 7, replace=False).tolist() for _ in range(50)]
    log = write(tmp_path / "log.txt", histories)
    assert train(log, tmp_path / "run", "--model", "item_knn") == 0
    sequences = Run(str(tmp_path / "run")).sequences
    kept, ranks = np.load(tmp_path / "run/lists.npz"), np.load(tmp_path / "run/ranks.npz")
    assert kept["items"].shape == (50, 10) and kept["users"].tolist() == list(range(50))
    for row, items in enumerate(kept["items"].tolist()):
        history = sequences.sequence(row).tolist()
        assert not set(items) & set(history[:-1]) and len(set(items) - {0}) == 10
        if ranks["full"][row] <= 10:
            assert history[-1] in items
    assert (ranks["full"] <= 10).any()
