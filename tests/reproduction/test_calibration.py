"""What the measurement of calibrated attention is made of."""

import json

import calibration
import numpy as np
import pytest
import scipy.stats
from support.runs import train, write_log


def test_the_area_is_mann_and_whitneys():
    rng = np.random.default_rng(0)
    score, hit = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.3
    u = scipy.stats.mannwhitneyu(score[hit], score[~hit]).statistic
    assert calibration.area(score, hit) == pytest.approx(u / (hit.sum() * (~hit).sum()))


def test_calibration_error_by_hand(monkeypatch):
    monkeypatch.setattr(calibration, "BINS", 2)
    confidence, right = np.array([0.9, 0.1, 0.3, 0.7]), np.array([1.0, 0.0, 1.0, 1.0])
    # Bins {.1, .3} with .2 against .5 right, and {.7, .9} with .8 against 1.
    assert calibration.calibration_error(confidence, right) == pytest.approx((0.3 + 0.2) / 2)


def test_ranks_by_the_mean_logits_are_those_of_the_run(tmp_path):
    """`summary` ranks by its own log-probabilities, the run by the scores of its evaluation."""
    log, out = write_log(tmp_path / "log.txt"), tmp_path / "run"
    assert train(log, out, "--model", "rksa", "--epochs", "1") == 0
    found = calibration.summary(str(out))
    result = json.loads((out / "result.json").read_text())["test"]["full"]
    assert found["NDCG@10, mean logits"] == pytest.approx(result["ndcg@10"])
    drawn = [value for name, value in found.items() if name.startswith("NDCG@10, ")]
    assert len(drawn) == 4 and all(0 < value < 1 for value in drawn)
