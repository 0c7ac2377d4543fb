"""NARM's two encoders and decoder against a literal loop over positions."""

import numpy as np
import torch

from rka_fast.models import NARM


def test_every_position_has_the_attention_of_its_own_prefix(batch):
    torch.manual_seed(0)
    model = NARM(12, width=6).double().eval()
    encoded, scores = model.encode(batch).detach(), model.scores(batch).detach()
    a1, a2, v, b = (
        layer.weight.detach().numpy()
        for layer in (
            model.attention_past, model.attention_now, model.attention_weight, model.decoder
        )
    )  # fmt: skip
    e = model.items.weight.detach().numpy()
    for row, history in enumerate(batch.items.tolist()):
        real = [item for item in history if item]
        h = model.gru(model.items(torch.tensor(real)))[0].detach().numpy()
        for t in range(len(real)):
            local = np.zeros(6)
            for j in range(t + 1):
                alpha = v[0] @ (1 / (1 + np.exp(-(a1 @ h[j] + a2 @ h[t]))))
                local += alpha * h[j]
            state = np.concatenate((h[t], local))
            np.testing.assert_allclose(encoded[row, t - len(real)], b @ state, atol=1e-12)
        bilinear = [e[item] @ b @ state for item in range(1, 13)]
        np.testing.assert_allclose(scores[row, 1:], bilinear, atol=1e-12)
