"""AttRec's attention, distances and hinge against literal NumPy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rka_fast.models import AttRec

WIDTH = 6


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = AttRec(12, 10, width=WIDTH).double().eval()
    for table in (model.users, model.long_items, model.short_items):
        torch.nn.init.normal_(table.weight, std=0.5)  # some longer than 1, some not
    for table in (model.long_items, model.short_items):
        table.weight.data[0] = 0
    return model


def clipped(table):
    rows = table.weight.detach().numpy()
    return rows / np.maximum(1, np.linalg.norm(rows, axis=1, keepdims=True))


def short_term(model, history):
    """m of the last five items of a history."""
    items = history[-5:]
    x, w = clipped(model.short_items)[items], model.projection.weight.detach().numpy()
    signal = np.zeros_like(x)
    for row in range(len(items)):
        place = 5 - len(items) + row  # the newest item is always the fifth
        for k in range(3):
            angle = place / 10000 ** (k / 3)
            signal[row, k], signal[row, 3 + k] = np.sin(angle), np.cos(angle)
    projected = np.maximum(0, (x + signal) @ w.T)
    if len(items) == 1:
        return x[0]
    attended = []
    for i in range(len(items)):
        others = [j for j in range(len(items)) if j != i]
        weights = np.exp([projected[i] @ projected[j] / WIDTH**0.5 for j in others])
        attended.append(weights / weights.sum() @ x[others])
    return np.mean(attended, axis=0)


def distance(model, user, history, item):
    u, v, x = map(clipped, (model.users, model.long_items, model.short_items))
    long = ((u[user] - v[item]) ** 2).sum()
    short = ((short_term(model, history) - x[item]) ** 2).sum()
    return 0.2 * long + 0.8 * short


@pytest.mark.parametrize(
    "history", [[4], [7, 2], [1, 2, 3, 4, 5], [9, 9, 1, 2, 3, 4, 5, 6]], ids=len
)
def test_scores_are_negative_distances(model, history):
    items = torch.tensor([[0] * (8 - len(history)) + history])
    batch = SimpleNamespace(users=torch.tensor([7]), items=items)
    expected = [-distance(model, 7, history, item) for item in range(1, 13)]
    scores = model.scores(batch).detach()
    assert scores[0, 0] == -torch.inf
    np.testing.assert_allclose(scores[0, 1:], expected, atol=1e-12)


def test_the_hinge_on_the_next_three_items(model, batch):
    losses = []
    for row in range(len(batch.items)):
        items = batch.items[row].tolist()
        for t in range(8):
            history = [item for item in items[: t + 1] if item]
            for ahead in range(3):
                if history and t + ahead < 8:
                    target = batch.targets[row, t + ahead].item()
                    for negative in batch.negatives[row, t + ahead].tolist():
                        near, far = (
                            distance(model, batch.users[row], history, item)
                            for item in (target, negative)
                        )
                        losses.append(max(0.0, 0.5 + near - far))
    loss = model.training_loss(batch, "hinge")["loss"]
    assert min(losses) == 0 < loss.item() == pytest.approx(np.mean(losses))


def test_someone_not_in_the_data_is_where_their_items_are(model):
    history = [3, 8, 5]
    items = torch.tensor([[0, *history], [0, *history]])
    scores = model.scores(SimpleNamespace(users=torch.tensor([-1, 2]), items=items)).detach()
    v, x = clipped(model.long_items), clipped(model.short_items)
    centre, m = v[history].mean(0), short_term(model, history)
    for item in range(1, 13):
        far = 0.2 * ((centre - v[item]) ** 2).sum() + 0.8 * ((m - x[item]) ** 2).sum()
        assert scores[0, item].item() == pytest.approx(-far)
        assert scores[1, item].item() == pytest.approx(-distance(model, 2, history, item))
