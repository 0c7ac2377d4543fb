"""Gathering the co-occurrence of a batch beside the training step that it feeds.

128 sequences of up to 50 items. The step is RKSA's on the reference operator with the cheapest
loss (binary cross-entropy, one negative), so the gather's share of it is an upper bound.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rka_fast.data.batches import Batcher
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.filters import build_sequences
from rka_fast.data.readers import read_interactions
from rka_fast.data.split import leave_one_out
from rka_fast.data.synthetic import synthetic
from rka_fast.models import RKSA

BATCH, LENGTH = 128, 50


@pytest.fixture(scope="module", params=["games", "synthetic"])
def batcher(request):
    if request.param == "games":
        folder = request.getfixturevalue("shared_data")
        log = read_interactions(folder / "sasrec" / "video_sasrec.txt.gz")
    else:
        log = synthetic()
    split = leave_one_out(build_sequences(log)[0])
    counts = CoOccurrence.from_split(split)
    return request.param, Batcher(split, counts, LENGTH, 0, negatives=1, term=True)


@pytest.fixture(params=["random", "longest"])
def batch(request, batcher, benchmark):
    """A usual batch, and the worst one: the users with the longest histories."""
    data, batcher = batcher
    benchmark.group = f"{data}, {request.param} users, B{BATCH}-n{LENGTH}"
    if request.param == "longest":
        lengths = batcher.split.sequences.lengths[batcher.training_users]
        users = batcher.training_users[np.argsort(-lengths, kind="stable")[:BATCH]]
    else:
        users = batcher.epoch_order(0)[:BATCH]
    return batcher, batcher.training(users, step=0)


def test_gather(benchmark, batch):
    batcher, batch = batch
    items = batch.items.numpy()
    batcher.cooccurrence.block(items)  # the keys are made once
    block = benchmark(batcher.cooccurrence.block, items, items > 0)
    assert np.array_equal(block, batch.cooccurrence.numpy())


def test_training_step(benchmark, batch):
    batcher, batch = batch
    sequences = batcher.split.sequences
    model = RKSA(sequences.num_items, sequences.num_users, backend="reference")
    optimizer = torch.optim.Adam(model.parameters())
    config = SimpleNamespace(loss="bce")

    def step():
        optimizer.zero_grad()
        loss = model.training_loss(batch, config)["loss"]
        loss.backward()
        optimizer.step()
        return loss

    assert benchmark(step).isfinite()
