"""HCRNN against its equations in a literal NumPy loop over one sequence, and torch's KL."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from rka_fast.models import HCRNN
from rka_fast.models.steps import StepPacking

WIDTH, TOPICS = 6, 4


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = HCRNN(12, width=WIDTH, topics=TOPICS).double().eval()
    for parameter in model.parameters():  # larger than initially, so that nothing is nearly linear
        torch.nn.init.normal_(parameter, std=0.7)
    model.items.weight.data[0] = 0
    return model


@pytest.fixture
def weights(model):
    return {name: p.detach().numpy() for name, p in model.named_parameters()}


def literal_topics(w, items):
    """mu and s after every item."""
    bag, mu, s = np.zeros(WIDTH), [], []
    for item in items:
        bag = bag + w["items.weight"][item]
        e = w["context.weight"] @ bag + w["context.bias"]
        e = np.where(e > 0, e, np.exp(e) - 1)
        mu.append(w["topic_mean.weight"] @ e + w["topic_mean.bias"])
        scale = w["topic_scale.weight"] @ e + w["topic_scale.bias"]
        s.append(1e-6 + np.log1p(np.exp(scale)))
    return np.array(mu), np.array(s)


def literal_cell(w, inputs, theta):
    """h and c after every step."""
    topics = w["cell.topics"]
    x_gate, x_reset, x_update, x_candidate = np.split(w["cell.from_input.weight"], 4)
    b_gate, b_reset, b_update, b_candidate = np.split(w["cell.from_input.bias"], 4)
    h_gate, h_reset, h_update, h_attend = np.split(w["cell.from_state.weight"], 4)
    c_update, c_gate = np.split(w["cell.from_local.weight"], 2)
    h, c, states, contexts = np.zeros(WIDTH), np.zeros(WIDTH), [], []
    for x, weight in zip(inputs, theta, strict=True):
        logits = [
            w["cell.attend_weight.weight"][0]
            @ sigmoid(w["cell.attend_topics.weight"] @ (weight[k] * topics[k]) + h_attend @ h)
            for k in range(TOPICS)
        ]
        proposal = sum(
            a * topic for a, topic in zip(softmax(np.array(logits)), topics, strict=True)
        )
        t1 = sigmoid(x_gate @ x + h_gate @ h + c_gate @ c + b_gate)
        c = (1 - t1) * c + t1 * proposal
        t2 = sigmoid(abs(w["cell.temporary.weight"]) @ (x * c) + w["cell.temporary.bias"])
        r = sigmoid(x_reset @ x + h_reset @ h + b_reset)
        new = np.tanh(x_candidate @ x + w["cell.candidate.weight"] @ (r * t2 * h) + b_candidate)
        z = sigmoid(x_update @ x + h_update @ h + c_update @ c + b_update)
        h = (1 - z) * h + z * new
        states.append(h)
        contexts.append(c)
    return np.array(states), np.array(contexts)


def literal_encoding(w, h, c, t):
    glob, local = (
        softmax(np.array(logits))
        for logits in (
            [
                (w["global_past.weight"] @ c[j]) @ (w["global_now.weight"] @ c[t]) / WIDTH**0.5
                for j in range(t + 1)
            ],
            [
                w["local_weight.weight"][0]
                @ sigmoid(w["local_past.weight"] @ h[j] + w["local_now.weight"] @ h[t])
                for j in range(t + 1)
            ],
        )
    )
    pooled = (glob @ h[: t + 1], local @ h[: t + 1], h[t])
    return w["decoder.weight"] @ np.concatenate(pooled)


def test_the_cell(model, weights):
    rng = np.random.default_rng(0)
    x, theta = rng.normal(size=(5, WIDTH)), rng.dirichlet(np.ones(TOPICS), size=5)
    packing = StepPacking(torch.tensor([[0, 3, 1, 2, 2, 5]]))
    actual = model.cell(packing, torch.from_numpy(x), torch.from_numpy(theta))
    for got, expected in zip(actual, literal_cell(weights, x, theta), strict=True):
        np.testing.assert_allclose(got.detach(), expected, atol=1e-12)


def test_the_states_of_every_position(model, weights, batch):
    encoded, scores = model.encode(batch).detach(), model.scores(batch).detach()
    for row, history in enumerate(batch.items.tolist()):
        real = [item for item in history if item]
        theta = np.array([softmax(mu) for mu in literal_topics(weights, real)[0]])
        h, c = literal_cell(weights, weights["items.weight"][real], theta)
        for t in range(len(real)):
            state = literal_encoding(weights, h, c, t)
            np.testing.assert_allclose(encoded[row, t - len(real)], state, atol=1e-11)
        np.testing.assert_allclose(scores[row, 1:], weights["items.weight"][1:] @ state, atol=1e-11)


def test_the_topics_are_noisy_in_training_only(model, weights, monkeypatch):
    model.train()
    model.input_dropout.p = model.dropout.p = 0.0
    items = [4, 7, 1]
    noise = np.random.default_rng(0).normal(size=(3, TOPICS))
    monkeypatch.setattr(torch, "randn_like", lambda s: torch.from_numpy(noise))
    encoded = model.encode(SimpleNamespace(items=torch.tensor([items])))[0].detach()
    mu, s = literal_topics(weights, items)
    theta = np.array([softmax(row) for row in mu + s * noise])
    h, c = literal_cell(weights, weights["items.weight"][items], theta)
    np.testing.assert_allclose(encoded[2], literal_encoding(weights, h, c, 2), atol=1e-11)


def test_the_divergence_of_the_topics(model, weights, batch):
    total, count = 0.0, 0
    for items, targets in zip(batch.items.tolist(), batch.targets.tolist(), strict=True):
        real = [item for item in items if item]
        count += sum(target > 0 for target in targets)
        mu, s = map(torch.from_numpy, literal_topics(weights, real))
        total += kl_divergence(Normal(mu, s), Normal(0.0, 1.0)).sum().item()
    parts = model.training_loss(batch, "ce")
    assert parts["kl"].item() == pytest.approx(0.001 * total / count)
    assert parts["loss"].item() == pytest.approx((parts["recommendation"] + parts["kl"]).item())
