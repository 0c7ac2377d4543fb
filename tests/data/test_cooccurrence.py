"""Counts against literal loops over users and pairs."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
import torch
from support.sequences import sequences_of

from rka_fast import native
from rka_fast.data import cooccurrence
from rka_fast.data.batches import Batcher
from rka_fast.data.cooccurrence import CoOccurrence, likely_pairs, most_pairs
from rka_fast.data.counting import describe_counts
from rka_fast.data.split import MAX_COUNTED
from rka_fast.data.split_rules import leave_one_out

ITEMS = 12
needs_library = pytest.mark.skipif(
    bool(native.why_not("_cpp")), reason=f"C++ gather: {'; '.join(native.why_not('_cpp'))}"
)


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(3)
    lists = [rng.integers(1, ITEMS + 1, rng.integers(1, 9)) for _ in range(30)]
    return leave_one_out(sequences_of(lists, ITEMS))


def train_sets(split):
    s = split.sequences
    return [set(s.items[s.indptr[u] : split.train_end[u]].tolist()) for u in range(s.num_users)]


def count(sets, i, j):
    return sum(i in items and j in items for items in sets)


def test_matrix_counts_training_users(split):
    counts = CoOccurrence.from_split(split)
    sets = train_sets(split)
    expected = [[count(sets, i, j) for j in range(ITEMS + 1)] for i in range(ITEMS + 1)]
    assert counts.matrix.toarray().tolist() == expected
    assert counts.matrix.dtype == np.int32 and counts.matrix.format == "csr"
    assert counts.matrix[0].nnz == counts.matrix[:, 0].nnz == 0


def test_block_with_padding_and_repeats(split):
    counts, sets = CoOccurrence.from_split(split), train_sets(split)
    items = np.array([[0, 0, 3, 5, 3], [1, 2, 3, 4, 12], [0, 0, 0, 0, 0], [0, 0, 0, 0, 7]])
    block = counts.block(items)
    assert block.dtype == np.float32 and block.shape == (4, 5, 5)
    expected = [
        [[count(sets, i, j) if i and j else 0 for j in row] for i in row] for row in items.tolist()
    ]
    assert block.tolist() == expected
    assert counts.submatrix(np.array([2, 7, 9])).tolist() == [
        [count(sets, i, j) for j in (2, 7, 9)] for i in (2, 7, 9)
    ]


def test_leave_self_out_is_a_count_without_the_user(split):
    """Taking m m^T away gives what counting all the other users alone gives."""
    counts, sets = CoOccurrence.from_split(split), train_sets(split)
    users = [u for u in range(30) if len(sets[u]) >= 2]
    items = np.zeros((len(users), 8), np.int64)
    for row, user in enumerate(users):
        # The whole sequence, targets included: those are not all in the counts.
        sequence = split.sequences.sequence(user)
        items[row, 8 - len(sequence) :] = sequence
    counted = split.training_items.contains(np.array(users)[:, None], items)
    block = counts.block(items, counted)
    for row, user in enumerate(users):
        others = sets[:user] + sets[user + 1 :]
        for a, i in enumerate(items[row]):
            for b, j in enumerate(items[row]):
                assert block[row, a, b] == (count(others, i, j) if i and j else 0)
    eigenvalues = np.linalg.eigvalsh(block.astype(np.float64))
    assert eigenvalues.min() > -1e-9  # still a Gram matrix


def test_padding_marked_as_counted_changes_nothing(split):
    counts = CoOccurrence.from_split(split)
    items = np.array([[0, 3, 5]])
    everything = counts.block(items, np.ones((1, 3), bool))
    assert (everything[0, 0] == 0).all() and (everything[0, :, 0] == 0).all()


@needs_library
@pytest.mark.parametrize("table", [300, 301])
@pytest.mark.parametrize("counted", [False, True])
def test_gather_equals_the_plain_one(monkeypatch, counted, table):
    """Repeated items, padding on both sides, rows longer than the steps of the search.

    table: items with the padding up to which a table of all pairs is made of the 301.
    """
    monkeypatch.setattr(cooccurrence, "HEAD", table)
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 400, 9000), 1 + rng.integers(0, 300, 9000) ** 2 // 300
    incidence = scipy.sparse.csr_matrix((np.ones(9000, np.int32), (users, items)), (400, 301))
    incidence.data[:] = 1
    counts = (incidence.T @ incidence).tocsr()
    counts.sort_indices()
    batch = rng.integers(0, 301, (20, 37))
    batch[0], batch[1, :30], batch[2, 20:] = 0, 0, 0
    marks = rng.random((20, 37)) < 0.5 if counted else None
    dense = counts.toarray()[batch[:, :, None], batch[:, None, :]].astype(np.float32)
    if counted:
        present = marks & (batch > 0)
        dense -= present[:, :, None] & present[:, None, :]
    block = CoOccurrence.of([counts]).block(batch, marks)
    assert block.dtype == np.float32
    np.testing.assert_array_equal(block, dense)
    np.testing.assert_array_equal(CoOccurrence.of([counts])._block(batch, marks), dense)
    np.testing.assert_array_equal(
        CoOccurrence.of([counts.astype(float)]).block(batch, marks), dense
    )
    with pytest.raises(RuntimeError, match="expected 0 .. 300, got 301"):
        CoOccurrence.of([counts]).block(batch + 1)


@needs_library
def test_gather_refuses_other_types():
    parts = [torch.tensor([0, 0, 1]), torch.tensor([1]).int(), torch.tensor([3]).int()]
    items, gather = torch.tensor([[1, 1]]), torch.ops.rka_fast_native.gather
    assert gather(*parts, items, None).tolist() == [[[3.0, 3.0], [3.0, 3.0]]]
    for i, name in enumerate(("indptr", "indices", "data")):
        wrong = [*parts[:i], parts[i].double(), *parts[i + 1 :]]
        with pytest.raises(RuntimeError, match=name):
            gather(*wrong, items, None)
    with pytest.raises(RuntimeError, match="items"):
        gather(*parts, items.int(), None)
    with pytest.raises(RuntimeError, match="counted"):
        gather(*parts, items, torch.ones(1, 3, dtype=torch.bool))


def longer(split, seed):
    """A split of the same users and more, of whom some had more, under other numbers."""
    rng, old = np.random.default_rng(seed), split.sequences
    names = rng.permutation(ITEMS + 4) + 1  # new number of every item: 4 of them are new
    histories = []
    for user in range(old.num_users + 5):
        history = old.sequence(user).tolist() if user < old.num_users else []
        history = [int(names[i - 1]) for i in history]
        more = int(rng.integers(0, 3)) if history else 5
        histories.append(history + rng.integers(1, ITEMS + 5, more).tolist())
    order = rng.permutation(len(histories))
    ids = [f"i{int(np.flatnonzero(names == number)[0]) + 1}" for number in range(1, ITEMS + 5)]
    users = [f"u{user}" for user in order]
    return leave_one_out(sequences_of([histories[u] for u in order], user_ids=users, item_ids=ids))


@pytest.mark.parametrize("seed", range(5))
def test_added_counts_are_those_counted_anew_bit_for_bit(split, seed):
    """New users, items and numbers; events that were held out train, and other ones are held."""
    after = longer(split, seed)
    found = CoOccurrence.from_split(split).updated(split, after)
    expected = CoOccurrence.from_split(after)
    same(found, expected)
    sets = train_sets(after)
    literal = [[count(sets, i, j) for j in range(ITEMS + 5)] for i in range(ITEMS + 5)]
    assert found.matrix.toarray().tolist() == literal


def test_a_file_of_counts_has_them_all(split):
    counts = CoOccurrence.from_split(split)
    same(CoOccurrence.from_content(counts.content()), counts)


def same(found, expected):
    for name in ("indptr", "indices", "data"):
        got, right = getattr(found, name), getattr(expected, name)
        assert got.dtype == right.dtype == (np.int64 if name == "indptr" else np.int32)
        assert got.tolist() == right.tolist()


@pytest.mark.parametrize("pairs", [1, 7, 50])
def test_counts_do_not_depend_on_how_many_are_made_together(split, monkeypatch, pairs):
    """Blocks of one row and of some, to the counts of one block, bit for bit."""
    after = longer(split, 3)
    counts = CoOccurrence.from_split(split)
    made = counts.updated(split, after), counts + counts, counts.content(), counts.support
    monkeypatch.setattr(cooccurrence, "AT_ONCE", pairs)
    again = CoOccurrence.from_split(split)
    same(again, counts)
    same(again.updated(split, after), made[0])
    same(again + again, made[1])
    assert (again + again).matrix.toarray().tolist() == (2 * counts.matrix.toarray()).tolist()
    assert again.content() == made[2]
    same(CoOccurrence.from_content(made[2]), counts)
    assert again.support.tolist() == made[3].tolist() == counts.matrix.diagonal().tolist()
    assert abs(likely_pairs(split) - len(counts.data)) < 4 / 2000**0.5 * most_pairs(split)


def peak(action):
    """What an action returns, and the bytes that numpy's arrays take at its peak."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        made = action()
        return made, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_a_pair_takes_eight_bytes_and_is_there_once(monkeypatch):
    """At the peak too, beside a block and who has what; twice while a half is made whole."""
    monkeypatch.setattr(cooccurrence, "AT_ONCE", 2**15)
    rng = np.random.default_rng(0)
    lists = [rng.permutation(2500)[:100] + 1 for _ in range(500)]
    split = leave_one_out(sequences_of(lists, 2500))
    beside = 12 * 8 * 2**15 + 100 * len(split.counted_events)
    counts, taken = peak(lambda: CoOccurrence.from_split(split))
    size = 8 * len(counts.data)
    held = sum(array.nbytes for array in (counts.indptr, counts.indices, counts.data))
    assert held == size + 8 * 2502 and size > 2 * beside
    assert size < taken < size + beside
    assert peak(lambda: counts + counts)[1] < size + beside
    assert peak(lambda: counts.updated(split, split))[1] < size + beside
    half = scipy.sparse.csr_matrix(scipy.sparse.triu(counts.matrix))
    assert peak(lambda: CoOccurrence.from_half(half))[1] < 1.5 * size + beside
    assert np.shares_memory(counts.matrix.data, counts.data)
    assert np.shares_memory(counts.matrix.indices, counts.indices)


LIBRARY = [pytest.param(head, marks=needs_library) for head in (0, 4)]


@pytest.mark.parametrize("head", [None, *LIBRARY])
def test_rows_that_begin_beyond_32_bits(monkeypatch, tmp_path, head):
    """Of 2^31 pairs in front, which are holes in files, none is read.

    head: items up to which the library looks in a table; None is without the library.
    """
    monkeypatch.setattr(cooccurrence, "HEAD", head)
    begin = 2**31 + 5
    arrays = []
    for name, values in (("indices", [1, 3, 2, 3, 1, 2, 3]), ("data", [4, 2, 7, 5, 2, 5, 9])):
        array = np.memmap(tmp_path / name, np.int32, "w+", shape=begin + 7)
        array[begin:] = values
        arrays.append(array)
    counts = CoOccurrence(np.array([0, begin, begin + 2, begin + 4, begin + 7]), *arrays)
    dense = np.array([[0, 0, 0, 0], [0, 4, 0, 2], [0, 0, 7, 5], [0, 2, 5, 9]])
    items = np.array([[0, 3, 1, 2, 3]])
    block = counts._block(items, None) if head is None else counts.block(items)
    np.testing.assert_array_equal(block, dense[items[:, :, None], items[:, None, :]])
    assert counts.rows(1, 4).toarray().tolist() == dense[1:].tolist()


def capped(split, most):
    """The last `most` training events of every user, as sets."""
    s = split.sequences
    return [
        set(s.items[max(s.indptr[u], split.train_end[u] - most) : split.train_end[u]].tolist())
        for u in range(s.num_users)
    ]


@pytest.mark.parametrize("most", [1, 2, 4, 6])
def test_the_last_events_of_a_user_count(split, most):
    """A Gram matrix, of which a user's own part can be taken exactly, padding and all."""
    cut, sets = dataclasses.replace(split, max_counted=most), capped(split, most)
    counts, rng = CoOccurrence.from_split(cut), np.random.default_rng(most)
    expected = [[count(sets, i, j) for j in range(ITEMS + 1)] for i in range(ITEMS + 1)]
    assert counts.matrix.toarray().tolist() == expected
    assert counts.matrix.nnz <= most_pairs(cut) <= sum(len(items) ** 2 for items in sets)
    assert (sets != train_sets(split)) == (most < 6)
    batcher = Batcher(cut, counts, 8, seed=0)
    users = np.array([u for u in range(30) if len(split.sequences.sequence(u)) >= 4])
    batch = batcher.training(rng.permutation(users), 0)
    rows = (x.numpy() for x in (batch.users, batch.items, batch.cooccurrence))
    for user, items, block in zip(*rows, strict=True):
        others = sets[:user] + sets[user + 1 :]
        wanted = [[count(others, i, j) if i and j else 0 for j in items] for i in items]
        assert block.tolist() == wanted
        assert np.linalg.eigvalsh(block.astype(np.float64)).min() > -1e-9


def test_counts_of_changed_users_are_capped_too(split):
    """What is updated equals what is counted anew, also where the number itself changed."""
    before = dataclasses.replace(split, max_counted=2)
    after = dataclasses.replace(split, max_counted=4)
    updated = CoOccurrence.from_split(before).updated(before, after).matrix
    assert (updated != CoOccurrence.from_split(after).matrix).nnz == 0


def test_a_bot_takes_no_gibibytes_and_is_told():
    """60,000 items of one user beside small ones would be 3.6e9 pairs, 27 GiB."""
    items, rng = 60_000, np.random.default_rng(0)
    lists = [rng.permutation(items) + 1, *([7, 9, 11, 7, 3] for _ in range(20))]
    split = leave_one_out(sequences_of(lists, items))
    assert most_pairs(split) <= MAX_COUNTED**2 + 20 * 3**2
    facts, lines = describe_counts(split)
    left_out = items - 2 - MAX_COUNTED
    assert facts == {"counted": {"most": MAX_COUNTED, "users": 1, "left_out": left_out}}
    assert "1 user has more than 5,000" in lines[0] and f"{left_out:,} do not" in lines[0]
    assert "0.19 GiB" in lines[1] and "--max-counted" in lines[1]
    small = dataclasses.replace(split, max_counted=100)
    matrix = CoOccurrence.from_split(small).matrix
    kept = lists[0][-102:-2]
    assert matrix.nnz <= 100**2 + 3**2
    assert matrix[kept][:, kept].min() == 1 and matrix[7, 9] == 20 + np.isin([7, 9], kept).all()
    whole = dataclasses.replace(split, max_counted=items)
    facts, lines = describe_counts(whole)  # nothing is counted yet
    assert facts == {} and "26.82 GiB, are not stored" in lines[0]


@pytest.mark.parametrize(("users", "length"), [(300, 8), (300, 60)])
def test_about_how_many_pairs(users, length):
    """Sparse counts and dense ones, where the bound is far off; 500 of 1,000 items are looked at.

    A share of 0 to 1 has a deviation of 1/2 at most: the mean of 500 is within 4 / sqrt(2000) but
    once in 16,000.
    """
    rng = np.random.default_rng(length)
    lists = [(rng.random(length) ** 2 * 1000).astype(int) + 1 for _ in range(users)]
    split = leave_one_out(sequences_of(lists, 1000))
    pairs, most = CoOccurrence.from_split(split).matrix.nnz, most_pairs(split)
    assert most > (1.05 if length == 8 else 1.4) * pairs
    assert abs(likely_pairs(split) - pairs) < 4 / 2000**0.5 * most
    assert likely_pairs(split) == likely_pairs(split)


def test_nothing_is_told_of_small_logs(split):
    assert describe_counts(split) == ({}, [])
