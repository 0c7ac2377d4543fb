"""The arrays every later step uses: look-ups, storage, membership."""

import numpy as np
import pytest
from support.sequences import sequences_of

from rka_fast.data.sequences import Sequences, UserItems, distinct, left_padded
from rka_fast.errors import DataError


def make(timestamps=None):
    return sequences_of(
        [[2, 1, 2], [3]], user_ids=["ann", "007"], item_ids=["x", "ü", "z"], timestamps=timestamps
    )


def test_lookups():
    s = make()
    assert (s.num_users, s.num_items) == (2, 3)
    assert s.sequence(0).tolist() == [2, 1, 2]
    assert s.user_index("007") == 1 and s.item_id(1) == "x"
    assert s.item_indices(["z", "x"]).tolist() == [3, 1]
    assert s.lengths.tolist() == [3, 1] and s.event_users.tolist() == [0, 0, 0, 1]


def test_unknown_ids_are_named():
    with pytest.raises(DataError, match="unknown user id '7'; ids look like ann, 007"):
        make().user_index("7")
    with pytest.raises(DataError, match="unknown item id 'w'"):
        make().item_indices(["x", "w"])
    for index in (0, 4):
        with pytest.raises(DataError, match=f"item index {index} is outside 1..3"):
            make().item_id(index)


@pytest.mark.parametrize("timestamps", [None, np.array([1.0, 2.0, 3.5, 0.0])])
def test_saved_and_loaded(tmp_path, timestamps):
    s = make(timestamps)
    s.save(tmp_path / "new")
    t = Sequences.load(tmp_path / "new")
    assert (t.indptr == s.indptr).all() and (t.items == s.items).all()
    assert t.indptr.dtype == np.int64 and t.items.dtype == np.int32
    assert t.user_ids == s.user_ids and t.item_ids == s.item_ids
    assert t.timestamps is None if timestamps is None else (t.timestamps == timestamps).all()
    assert t.fingerprint() == s.fingerprint()
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["ids.json", "sequences.npz"]


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(DataError, match="cannot load the sequences in"):
        Sequences.load(tmp_path)
    make().save(tmp_path)
    content = (tmp_path / "sequences.npz").read_bytes()
    (tmp_path / "sequences.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot load the sequences in"):
        Sequences.load(tmp_path)
    (tmp_path / "sequences.npz").write_bytes(content)
    (tmp_path / "ids.json").write_text('{"users": ["ann"], "items": ["x"]}')
    with pytest.raises(DataError, match="do not fit together"):
        Sequences.load(tmp_path)


def test_fingerprint_tells_catalogues_apart():
    def of(*ids):
        return Sequences(np.array([0, 0]), np.array([], np.int32), ["u"], list(ids)).fingerprint()

    prints = {of("a", "b"), of("b", "a"), of("ab"), of("a,b"), of("a", "b", "c"), of('a", "b')}
    assert len(prints) == 6


def test_membership():
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 20, 100), rng.integers(1, 16, 100)
    has = {(int(u), int(i)) for u, i in zip(users, items, strict=True)}
    owned = UserItems(users, items, 20, 15)
    answer = owned.contains(np.arange(-1, 20)[:, None], np.arange(16))
    expected = [[(u, i) in has for i in range(16)] for u in range(-1, 20)]
    assert answer.tolist() == expected
    some = np.array([7, 0, 7, 19])
    assert owned.mask(some).tolist() == [[i == 0 or (u, i) in has for i in range(16)] for u in some]
    assert owned.distinct.tolist() == [sum(u == v for v, _ in has) for u in range(20)]
    assert owned.of(3).tolist() == sorted(i for u, i in has if u == 3)


def test_left_padded():
    items = np.arange(10, 20, dtype=np.int32)
    rows = left_padded(items, np.array([0, 3, 7]), np.array([3, 9, 7]), 4)
    assert rows.tolist() == [[0, 10, 11, 12], [15, 16, 17, 18], [0, 0, 0, 0]]


@pytest.mark.parametrize("values", [[], [3], [5, 5], [3, -1, 3, 7, -1, 0]])
def test_distinct_values(values):
    given = np.array(values, np.int64)
    assert distinct(given).tolist() == sorted(set(values))
    assert given.tolist() == values  # left as they were


def test_who_has_what_as_rows():
    having = UserItems(np.array([2, 0, 0, 2, 2]), np.array([4, 3, 1, 4, 2]), 4, 5)
    begin, items = having.rows()
    assert begin.tolist() == [0, 2, 2, 4, 4] and items.tolist() == [1, 3, 2, 4]
    assert begin.dtype == np.int64 and items.dtype == np.int32
