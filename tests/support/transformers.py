"""SASRec and RKSA in small, and what every form of them must hold to."""

from types import SimpleNamespace
from typing import Any

import torch

from rka_fast.data.batches import Batch
from rka_fast.data.split import Split
from rka_fast.models import MODELS, Recommender, groups

CONFIG = SimpleNamespace(
    max_length=8, width=12, blocks=2, heads=2, dropout=0.0, activation="leaky_relu",
    kernel_weight=0.5, train_mode="sample", eval_mode="mean", backend="auto", 
    kernels="cooccurrence,item,user", initial_scale=0.5,
)  # fmt: skip
SEQUENTIAL = ("sasrec", "rksa")


def model_of(name: str, split: Split, **settings: Any) -> Recommender:
    """The same weights at every call."""
    torch.manual_seed(0)
    return MODELS[name].from_config(SimpleNamespace(**{**vars(CONFIG), **settings}), split)


def assert_learns(model: Recommender, batch: Batch) -> None:
    """Every parameter has a gradient, the padding item has none, and 40 steps lower the loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = model.training_loss(batch, "ce")["loss"]
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if len(losses) == 1:
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None and parameter.grad.any(), name
            assert not model.items.weight.grad[0].any()
        optimizer.step()
    assert losses[-1] < 0.75 * losses[0]


def assert_blind_to_the_future(model: Recommender, batch: Batch) -> None:
    """Other items at the end change the last state, and none before them."""
    before = model.encode(batch)
    items = batch.items.clone()
    items[:, -2:] = items[:, -2:] % 12 + 1
    after = model.encode(batch._replace(items=items))
    assert torch.equal(before[:, :-2], after[:, :-2])
    assert not torch.allclose(before[:, -1], after[:, -1])


def assert_the_same_in_any_company(model: Recommender, batch: Batch, monkeypatch) -> None:
    """Each row by itself, unpadded, has its state in a batch with groups and in one without."""
    for worth in (1, 10**9):
        monkeypatch.setattr(groups, "WORTH_A_GROUP", worth)
        states = model.encode(batch)
        for row, items in enumerate(batch.items):
            n, one = int((items > 0).sum()), slice(row, row + 1)
            events = {name: getattr(batch, name) for name in ("items", "times", "request_times")}
            alone = batch._replace(
                users=batch.users[one],
                cooccurrence=batch.cooccurrence[one, -n:, -n:],
                **{name: x[one, -n:] for name, x in events.items() if x is not None},
            )
            found = model.encode(alone)[0]
            torch.testing.assert_close(states[row, -n:], found, rtol=1e-5, atol=1e-5)
            assert (states[row, :-n] == 0).all()
