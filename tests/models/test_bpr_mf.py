"""BPR-MF's step against the derivative of its objective, and its scores against means."""

import numpy as np
import pytest
import torch

from rka_fast.models import BPRMF


def log_sigmoid_sum(users, items, comparisons):
    margins = [users[u] @ (items[p] - items[n]) for u, p, n in comparisons]
    return -np.log1p(np.exp(-np.array(margins))).sum()


def test_a_step_ascends_the_gradient():
    """Central differences of sum log sigmoid(u'(p - n)) in float64, with repeated rows."""
    model = BPRMF(5, 3, width=4, learning_rate=0.3).double()
    comparisons = [(0, 1, 2), (2, 3, 1), (0, 1, 5), (1, 4, 4)]
    rng = np.random.default_rng(0)
    before = {"users": rng.normal(size=(3, 4)), "items": rng.normal(size=(6, 4))}
    for name, table in before.items():
        getattr(model, name).copy_(torch.from_numpy(table))
    model.step(*torch.tensor(comparisons).T)
    for name, table in before.items():
        gradient = np.zeros_like(table)
        for place in np.ndindex(table.shape):
            sides = []
            for shift in (1e-6, -1e-6):
                moved = {key: value.copy() for key, value in before.items()}
                moved[name][place] += shift
                sides.append(log_sigmoid_sum(moved["users"], moved["items"], comparisons))
            gradient[place] = (sides[0] - sides[1]) / 2e-6
        np.testing.assert_allclose(getattr(model, name), table + 0.3 * gradient, atol=1e-8)


def test_a_batch_of_one_is_the_formula():
    model = BPRMF(3, 1, width=2, learning_rate=0.01).double()
    u, p, n = np.array([0.5, -1.0]), np.array([1.0, 2.0]), np.array([-1.0, 0.25])
    model.users.copy_(torch.from_numpy(u[None]))
    model.items.copy_(torch.from_numpy(np.stack([0 * p, p, n, p])))
    model.step(torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))
    rest = 1 - 1 / (1 + np.exp(-(u @ (p - n))))
    np.testing.assert_allclose(model.users[0], u + 0.01 * rest * (p - n))
    np.testing.assert_allclose(model.items[1], p + 0.01 * rest * u)
    np.testing.assert_allclose(model.items[2], n - 0.01 * rest * u)
    np.testing.assert_allclose(model.items[3], p)


def test_the_user_vector_is_the_mean_of_the_history(split, batch):
    model = BPRMF(12, 10, width=5)
    scores = model.scores(batch)
    for row in range(6):
        history = [i for i in batch.items[row].tolist() if i]
        user = np.mean([model.items[i].numpy() for i in history], axis=0)
        np.testing.assert_allclose(scores[row, 1:], model.items[1:].numpy() @ user, atol=1e-7)
    assert (scores[:, 0] == -torch.inf).all()


def test_fitting(split):
    """From U(-.05, .05) the training comparisons come out right more and more; a seed repeats."""
    first, again, longer, other = (
        BPRMF(12, 10, epochs=epochs, learning_rate=0.1, seed=seed)
        for epochs, seed in ((1, 3), (1, 3), (80, 3), (1, 4))
    )
    start = first.items[1:].clone()
    assert 0.045 < start.abs().max() <= 0.05 and start.mean().abs() < 0.01
    objectives = []
    for model in (first, again, longer, other):
        model.fit(split)
        assert not model.items[0].any()  # padding
        objective = 0.0
        for user in range(10):
            had = split.sequences.sequence(user)[:-2].tolist()
            rest = [i for i in range(1, 13) if i not in had]
            margins = model.items[had] @ model.users[user]
            objective += (
                torch.nn.functional.logsigmoid(
                    margins[:, None] - model.items[rest] @ model.users[user]
                )
                .mean()
                .item()
            )
        objectives.append(objective)
    assert objectives[0] == objectives[1] != objectives[3]
    assert objectives[2] > 0.7 * 10 * np.log(0.5) > objectives[0]
    assert torch.equal(first.items, again.items)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_size_of_a_step_hardly_matters_at_a_small_rate(split, batch_size):
    results = []
    for size in (1, batch_size):
        model = BPRMF(12, 10, epochs=2, learning_rate=1e-3, batch_size=size)
        before = model.items.clone()
        model.fit(split)
        results.append(model.items - before)
    difference = (results[0] - results[1]).norm() / results[0].norm()
    assert difference < 0.01
