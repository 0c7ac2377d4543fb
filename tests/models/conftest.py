"""A tiny catalogue for the models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.sequences import sequences_of

from rka_fast.data.batches import Batcher
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.split_rules import leave_one_out


@pytest.fixture
def split():
    """Ten users, twelve items, histories of 4 to 9 events from one seed."""
    rng = np.random.default_rng(0)
    histories = [rng.permutation(np.arange(1, 13))[: rng.integers(4, 10)] for _ in range(10)]
    return leave_one_out(sequences_of(histories, 12))


@pytest.fixture
def batch(split):
    """Six training users with everything a model may want."""
    batcher = Batcher(
        split, CoOccurrence.from_split(split), 8, seed=0, negatives=2, kernel_loss=True
    )
    return batcher.training(np.arange(6), step=1)


@pytest.fixture
def timed_split(split):
    """The same with times: gaps from seconds to years, some of them 0."""
    rng = np.random.default_rng(1)
    gaps = np.floor(10 ** rng.uniform(-1, 7.5, len(split.sequences.items)))
    return leave_one_out(replace(split.sequences, timestamps=1e9 + gaps.cumsum()))


@pytest.fixture
def timed(timed_split):
    """`batch` with times."""
    counts = CoOccurrence.from_split(timed_split)
    batcher = Batcher(timed_split, counts, 8, 0, negatives=2, kernel_loss=True, times=True)
    return batcher.training(np.arange(6), step=1)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
