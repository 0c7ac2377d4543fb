"""Counts made from an index of users against stored ones and literal loops."""

import dataclasses

import numpy as np
import pytest
import torch
from support.sequences import sequences_of

from rka_fast import native
from rka_fast.data.batches import Batcher
from rka_fast.data.cooccurrence import CoOccurrence, most_pairs
from rka_fast.data.counting import counts_of, describe_counts, form, index_bytes
from rka_fast.data.split_rules import leave_one_out
from rka_fast.data.user_index import UserIndex

ITEMS = 40
needs_library = pytest.mark.skipif(
    bool(native.why_not("_cpp")), reason=f"C++ gather: {'; '.join(native.why_not('_cpp'))}"
)


@pytest.fixture(scope="module")
def split():
    """Popular items and rare ones, items nobody has, somebody who has nearly all."""
    rng = np.random.default_rng(5)
    lists = [1 + (rng.random(rng.integers(3, 15)) ** 3 * 35).astype(int) for _ in range(60)]
    lists += [rng.permutation(38) + 1, [7], [7, 9]]
    return leave_one_out(sequences_of(lists, ITEMS))


def histories(rng, rows=25, length=13):
    items = rng.integers(0, ITEMS + 1, (rows, length))
    items[0], items[1, :9], items[2, 5:] = 0, 0, 0
    items[3] = np.where(items[3] > 20, 3, 1)  # two items, again and again
    return items, rng.random((rows, length)) < 0.5


def literal(split, items, counted):
    """By loops over users and pairs of positions."""
    s, most = split.sequences, split.max_counted
    sets = []
    for user in range(s.num_users):
        begin, end = s.indptr[user], split.train_end[user]
        sets.append(set(s.items[max(begin, end - most) : end].tolist()))
    block = np.zeros((*items.shape, items.shape[1]))
    for row, found, own in zip(items.tolist(), block, counted, strict=True):
        for a, i in enumerate(row):
            for b, j in enumerate(row):
                if i and j:
                    found[a, b] = sum(i in had and j in had for had in sets) - (own[a] and own[b])
    return block


@pytest.mark.parametrize("head", [0, 1, 6, ITEMS])
@pytest.mark.parametrize("most", [3, 5000])
def test_blocks_are_the_literal_counts(split, head, most):
    """Whatever of them is stored: pairs of two kinds, repeated items, padding on both sides."""
    cut = dataclasses.replace(split, max_counted=most)
    items, counted = histories(np.random.default_rng(head))
    index, stored = UserIndex.from_split(cut, head), CoOccurrence.from_split(cut)
    expected = literal(cut, items, counted)
    for found in (index.block(items, counted), index._block(items, counted)):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(stored.block(items, counted), expected)
    plain = literal(cut, items, np.zeros_like(counted))
    np.testing.assert_array_equal(index.block(items), plain)
    assert (plain >= 0).all() and np.linalg.eigvalsh(plain).min() > -1e-9 * plain.max()
    every = np.arange(1, ITEMS + 1)
    np.testing.assert_array_equal(index.submatrix(every), stored.submatrix(every))
    np.testing.assert_array_equal(index.cosines(every), stored.cosines(every))
    np.testing.assert_array_equal(index.support, stored.matrix.diagonal())


@needs_library
def test_somebody_with_very_many_items_and_many_threads():
    """One search an item of the history where a user has more than 16 times as many."""
    rng = np.random.default_rng(0)
    lists = [rng.permutation(3000)[: rng.integers(3, 3000)] + 1 for _ in range(40)]
    split = leave_one_out(sequences_of(lists, 3000))
    items = rng.integers(0, 3001, (9, 17))
    index, stored = UserIndex.from_split(split, head=50), CoOccurrence.from_split(split)
    np.testing.assert_array_equal(index.block(items), stored.block(items))


def test_what_a_user_adds_is_taken_out_exactly(split):
    """The counts of a batch of training are those of all the other users."""
    index = UserIndex.from_split(split, head=5)
    batch = Batcher(split, index, 8, seed=0).training(np.arange(50), 0)
    same = Batcher(split, CoOccurrence.from_split(split), 8, seed=0).training(np.arange(50), 0)
    assert torch.equal(batch.cooccurrence, same.cooccurrence)
    for user, items, block in zip(batch.users, batch.items, batch.cooccurrence, strict=True):
        others = [split.sequences.sequence(u) for u in range(63) if u != user]
        alone = UserIndex.from_split(leave_one_out(sequences_of(others, ITEMS)), head=5)
        np.testing.assert_array_equal(block, alone.block(items.numpy()[None])[0])
        assert block.min() >= 0 and torch.linalg.eigvalsh(block.double()).min() > -1e-9


def test_counts_of_shards_add(split):
    """Users in one shard or another, as days or machines have them."""
    items, _ = histories(np.random.default_rng(1))
    whole = UserIndex.from_split(split, head=6).block(items)
    lists = [split.sequences.sequence(u) for u in range(63)]
    shards = [leave_one_out(sequences_of(part, ITEMS)) for part in (lists[:20], lists[20:])]
    np.testing.assert_array_equal(
        sum(UserIndex.from_split(shard, head=6).block(items) for shard in shards), whole
    )


def test_rows_of_popular_items_are_made_in_parts(split, monkeypatch):
    monkeypatch.setattr("rka_fast.data.user_index.AT_ONCE", 5)
    items, index = np.arange(ITEMS + 1), UserIndex.from_split(split, head=9)
    stored = CoOccurrence.from_split(split)
    np.testing.assert_array_equal(index.cosines(items), stored.cosines(items))
    np.testing.assert_array_equal(index.block(items[None]), stored.block(items[None]))


def test_the_size_chooses_and_a_setting_forces(split, monkeypatch):
    assert form(split) == "pairs" and form(split, "index") == "index"
    assert isinstance(counts_of(split), CoOccurrence)
    assert isinstance(counts_of(split, "index"), UserIndex)
    facts, lines = describe_counts(split, "index")
    assert facts == {} and "not stored but counted for each batch" in lines[0]
    with pytest.raises(ValueError, match="counting='all'"):
        form(split, "all")
    index = UserIndex.from_split(split)
    size = sum(getattr(index, field.name).nbytes for field in dataclasses.fields(index))
    assert 0.8 < index_bytes(split) / size < 1.25
    monkeypatch.setattr("rka_fast.data.counting.STORED", 8 * most_pairs(split) - 1)
    assert form(split) == "index" and form(split, "pairs") == "pairs"
    assert isinstance(counts_of(split), UserIndex)


@needs_library
def test_an_index_that_does_not_fit_together_is_refused(split):
    index = UserIndex.from_split(split, head=3)
    items, fields = np.arange(1, ITEMS + 1)[None], dataclasses.fields(index)
    for name, place, value in (
        ("user_begin", 5, 10**9), ("item_begin", 20, -1), ("user_items", slice(None), ITEMS + 1),
        ("item_users", slice(None), 63), ("head", 7, 3),
    ):  # fmt: skip
        arrays = {field.name: getattr(index, field.name).copy() for field in fields}
        arrays[name][place] = value
        with pytest.raises(RuntimeError, match="expected"):
            UserIndex(**arrays).block(items)
    with pytest.raises(RuntimeError, match="expected 0 .. 40, got 41"):
        index.block(items + 1)
    with pytest.raises(RuntimeError, match="counted"):
        index.block(items, np.ones((1, 3), bool))
