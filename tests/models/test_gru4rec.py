"""GRU4Rec against the GRU's equations, one history and one step at a time."""

import numpy as np
import torch

from rka_fast.models import GRU4Rec


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def literal_gru(gru, inputs):
    """States of inputs (T, width) by the equations of the GRU, in NumPy."""
    w, u, b, c = (
        getattr(gru, f"{name}_l0").detach().numpy()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h, states = np.zeros(gru.hidden_size, inputs.dtype), []
    for x in inputs:
        (xr, xz, xn), (hr, hz, hn) = np.split(w @ x + b, 3), np.split(u @ h + c, 3)
        z = sigmoid(xz + hz)
        h = (1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * h
        states.append(h)
    return np.array(states)


def test_states_and_scores_are_those_of_a_literal_loop(batch):
    torch.manual_seed(0)
    model = GRU4Rec(12, width=6).double().eval()
    encoded, scores = model.encode(batch), model.scores(batch)
    items, output = (t.weight.detach().numpy() for t in (model.items, model.output))
    for row, history in enumerate(batch.items.tolist()):
        real = [item for item in history if item]
        expected = literal_gru(model.gru, items[real])
        np.testing.assert_allclose(encoded[row, -len(real) :].detach(), expected, atol=1e-12)
        assert not encoded[row, : -len(real)].any()
        np.testing.assert_allclose(scores[row, 1:].detach(), output[1:] @ expected[-1], atol=1e-12)


def test_dropout_is_half_as_strong_on_the_inputs():
    model = GRU4Rec(12, width=6, dropout=0.4)
    assert (model.input_dropout.p, model.dropout.p) == (0.2, 0.4)
    assert model.item_vectors() is model.output.weight is not model.items.weight
