"""What the measurement of calibrated attention is made of."""

import numpy as np
import pytest
import scipy.stats
import spread


def test_the_area_is_mann_and_whitneys():
    rng = np.random.default_rng(0)
    score, hit = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.3
    u = scipy.stats.mannwhitneyu(score[hit], score[~hit]).statistic
    assert spread.area(score, hit) == pytest.approx(u / (hit.sum() * (~hit).sum()))


def test_calibration_error_by_hand(monkeypatch):
    monkeypatch.setattr(spread, "BINS", 2)
    confidence, right = np.array([0.9, 0.1, 0.3, 0.7]), np.array([1.0, 0.0, 1.0, 1.0])
    # Bins {.1, .3} with .2 against .5 right, and {.7, .9} with .8 against 1.
    assert spread.calibration_error(confidence, right) == pytest.approx((0.3 + 0.2) / 2)
