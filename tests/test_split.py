"""Leave-one-out against plain lists."""

import numpy as np
import pytest

from rka_fast.data.errors import DataError
from rka_fast.data.sequences import Sequences
from rka_fast.data.split import leave_one_out

LISTS = [[1, 2, 3, 4], [5, 5, 1], [2, 3], [4], [3, 1, 3, 3, 2]]


def make(lists):
    return Sequences(
        np.cumsum([0, *map(len, lists)]),
        np.array(sum(lists, []), np.int32),
        [f"u{k}" for k in range(len(lists))],
        [f"i{k}" for k in range(1, 6)],
    )


def test_targets_histories_and_training_events():
    split = leave_one_out(make(LISTS))
    for user, events in enumerate(LISTS):
        train = split.sequences.items[split.sequences.indptr[user] : split.train_end[user]]
        if len(events) < 3:
            assert train.tolist() == events
            assert split.valid_target[user] == split.test_target[user] == 0
            for stage in ("valid", "test"):
                with pytest.raises(DataError, match=f"user 'u{user}' has no {stage} target"):
                    split.history(user, stage)
        else:
            assert train.tolist() == events[:-2] == split.history(user, "valid").tolist()
            assert split.history(user, "test").tolist() == events[:-1]
            assert [split.valid_target[user], split.test_target[user]] == events[-2:]
    assert split.users("valid").tolist() == split.users("test").tolist() == [0, 1, 4]
    assert split.targets("valid").tolist() == [3, 5, 0, 0, 3]
    trained = sum((e if len(e) < 3 else e[:-2] for e in LISTS), [])
    assert split.train_counts().tolist() == [trained.count(i) for i in range(6)]
    with pytest.raises(ValueError, match="stage='dev': expected one of valid, test"):
        split.users("dev")


def test_no_user_with_three_events():
    with pytest.raises(DataError, match="no user has 3 events .the longest of 3 has 2.*relax"):
        leave_one_out(make([[1, 2], [3], [4, 5]]))
