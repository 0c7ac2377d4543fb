"""What holds for every baseline that encodes a history: no future, no padding, learning."""

import numpy as np
import pytest
import torch

from rka_fast.data.batches import Batcher
from rka_fast.models import MODELS
from rka_fast.training.config import Config

NAMES = ("gru4rec", "narm", "hcrnn", "attrec")


def make(name, split, **settings):
    torch.manual_seed(0)
    config = Config(model=name, width=12, **{"dropout": 0.0, **settings})
    return MODELS[name].from_config(config, split), config


@pytest.mark.parametrize("name", NAMES)
def test_a_position_is_the_last_one_of_its_own_prefix(name, split, batch):
    model = make(name, split)[0].double().eval()
    whole = model.encode(batch)
    for t in range((batch.items > 0).any(0).int().argmax(), 8):
        rows = (batch.items[:, t] > 0).nonzero()[:, 0]
        prefix = batch._replace(users=batch.users[rows], items=batch.items[rows, : t + 1])
        torch.testing.assert_close(model.encode(prefix)[:, -1], whole[rows, t])


@pytest.mark.parametrize("name", NAMES)
def test_padding_has_no_influence(name, split, batch):
    model = make(name, split)[0].double().eval()
    wider = batch._replace(items=torch.nn.functional.pad(batch.items, (5, 0)))
    torch.testing.assert_close(model.encode(wider)[:, 5:], model.encode(batch))
    torch.testing.assert_close(model.scores(wider), model.scores(batch))


@pytest.mark.parametrize("name", NAMES)
def test_rows_keep_apart(name, split, batch):
    model = make(name, split)[0].double().eval()
    together = model.scores(batch)
    for row in range(6):
        one = slice(row, row + 1)
        alone = model.scores(batch._replace(users=batch.users[one], items=batch.items[one]))
        torch.testing.assert_close(alone[0], together[row])


@pytest.mark.parametrize(("name", "loss"), [(n, loss) for n in NAMES for loss in MODELS[n].losses])
def test_every_parameter_learns(name, loss, split):
    model, config = make(name, split, loss=loss)
    batcher = Batcher(split, None, 8, seed=0, negatives=config.negatives_per_position)
    batch = batcher.training(np.arange(10), step=1)
    parts = model.training_loss(batch, config.loss)
    parts["loss"].backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, parameter_name
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx == 0:
            assert not module.weight.grad[0].any()  # padding stays where it is


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_learn_the_training_sequences(name, split, batch):
    model, config = make(name, split)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = model.training_loss(batch, config.loss)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_for_training(name, split, batch):
    model = make(name, split, dropout=0.5)[0]
    assert not torch.equal(model.encode(batch), model.encode(batch))
    model.eval()
    assert torch.equal(model.encode(batch), model.encode(batch))
