"""What the measurement of risk, coverage and conformal sets is made of."""

import json

import numpy as np
import pytest
import risk
from support.runs import train, write_log


def test_the_area_under_risk_and_coverage_by_a_loop():
    rng = np.random.default_rng(0)
    confidence, missed = rng.random(40), (rng.random(40) < 0.6).astype(float)
    order = sorted(range(40), key=lambda user: -confidence[user])
    risks = [np.mean([missed[u] for u in order[: served + 1]]) for served in range(40)]
    assert risk.aurc(confidence, missed) == pytest.approx(np.mean(risks))
    assert risk.aurc(np.zeros(40), missed) == pytest.approx(missed.mean())
    # Half of the users missed, the surer half right: 0 up to one half, then 1 - half / served.
    right_first = np.repeat([1.0, 0.0], 20)
    expected = np.mean([max(0.0, 1 - 20 / served) for served in range(1, 41)])
    assert risk.aurc(right_first, 1 - right_first) == pytest.approx(expected)


def test_conformal_quantile_by_hand():
    assert risk.quantile(np.array([3.0, 1.0, 2.0]), 0.5) == 2.0  # the 2nd of 3
    assert risk.quantile(np.array([3.0, 1.0, 2.0]), 0.25) == 3.0  # the 3rd
    assert risk.quantile(np.array([3.0, 1.0, 2.0]), 0.2) == np.inf  # there is no 4th


def test_sets_hold_their_targets_as_often_as_asked_and_adapt():
    """Targets drawn from the probabilities themselves: sets by probability are the smallest."""
    rng = np.random.default_rng(1)
    sharp = np.where(rng.random((600, 1)) < 0.5, 8.0, 1.0)
    p = np.exp(sharp * rng.random((600, 30)))
    p /= p.sum(1, keepdims=True)
    p = -np.sort(-p, 1)
    place = np.array([rng.choice(30, p=row) for row in p])
    found = risk.set_sizes(risk.Sorted(p, place), 0.2, rng)
    for size, held in found.values():
        # Halves of 300 users: five deviations of their share, which both halves have.
        assert abs(held - 0.8) < 5 * np.sqrt(2 * 0.8 * 0.2 / 300) and 1 <= size <= 30
    assert found["by probability"][0] < found["same size"][0]


def test_a_target_that_is_never_shown_is_in_no_set():
    x = risk.Sorted(np.array([[0.5, 0.3, 0.2]] * 4), np.array([0, 3, 1, 3]))
    for scores in risk.set_scores(x).values():
        assert np.isinf(x.at_target(scores)).tolist() == [False, True, False, True]


def test_a_small_run(tmp_path):
    log, out = write_log(tmp_path / "log.txt"), tmp_path / "run"
    assert train(log, out, "--model", "rksa", "--epochs", "1") == 0
    found = risk.summary(str(out))
    result = json.loads((out / "result.json").read_text())["test"]["full"]
    assert found["misses"] == pytest.approx(1 - result["hit@10"])
    assert found["AURC, no order"] == pytest.approx(found["misses"])
    areas = [value for name, value in found.items() if name.startswith("AURC")]
    assert min(areas) == found["AURC, misses last"]
    sizes = [value for name, value in found.items() if name.startswith("items for 80%")]
    assert len(sizes) == 6 and all(1 <= size <= 130 for size in sizes)
