"""SASRec and RKSA in small, and what every form of them must hold to."""

from types import SimpleNamespace
from typing import Any

import torch

from rka_fast.data.batches import Batch
from rka_fast.data.split import Split
from rka_fast.models import MODELS, Recommender

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
