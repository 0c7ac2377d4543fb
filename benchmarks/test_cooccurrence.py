"""Gathering the co-occurrence of a batch beside the training step that it feeds.

128 sequences of up to 50 items. The step is RKSA's, forward, backward and Adam, with the cheapest
loss (binary cross-entropy, one negative), so the gather's share of it is an upper bound.
"""

import numpy as np
import pytest
import torch

from rka_fast import available_backends, native
from rka_fast.data.batches import Batcher
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.filters import build_sequences
from rka_fast.data.readers import read_interactions
from rka_fast.data.split_rules import leave_one_out
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
    return request.param, Batcher(split, counts, LENGTH, 0, negatives=1, kernel_loss=True)


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


@pytest.mark.parametrize("peer", ["reference", "cpp"])
def test_gather(benchmark, batch, peer):
    batcher, batch = batch
    counts, items = batcher.cooccurrence, batch.items.numpy()
    if peer == "cpp" and native.why_not("_cpp"):
        pytest.skip("; ".join(native.why_not("_cpp")))
    gather = counts._block if peer == "reference" else counts.block  # numpy, C++
    gather(items, items > 0)  # the keys are made once
    note(benchmark, "gather", peer)
    block = benchmark(gather, items, items > 0)
    assert np.array_equal(block, batch.cooccurrence.numpy())


@pytest.mark.parametrize("backend", [n for n in ("reference", "cpp") if n in available_backends()])
def test_training_step(benchmark, batch, backend):
    batcher, batch = batch
    sequences = batcher.split.sequences
    model = RKSA(sequences.num_items, sequences.num_users, backend=backend)
    optimizer = torch.optim.Adam(model.parameters())

    def step():
        optimizer.zero_grad()
        loss = model.training_loss(batch, "bce")["loss"]
        loss.backward()
        optimizer.step()
        return loss

    note(benchmark, "training step", backend, passes="forward+backward")
    assert benchmark(step).isfinite()


def note(benchmark, op, backend, passes="forward"):
    """What the summary table says of a result; the operations of these are not counted."""
    data, users, shape = benchmark.group.split(", ")
    benchmark.extra_info.update(
        op=f"{op} ({data}, {users})",
        backend=backend,
        shape=shape,
        gflops=None,
        bytes=None,
        **{"pass": passes},
    )
