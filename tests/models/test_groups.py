"""Packed histories: every item once, in order, whatever the groups."""

import pytest
import torch

from rka_fast.models import groups
from rka_fast.models.groups import LengthGroups

ITEMS = torch.tensor(
    [[0, 0, 0, 0, 0, 0, 0, 4], [1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 0, 0, 0, 5, 9], [0] * 8]
)


def test_unpacked_values_stand_where_their_items_do(monkeypatch):
    monkeypatch.setattr(groups, "WORTH_A_GROUP", 1)
    packed = LengthGroups(ITEMS)
    values = ITEMS[ITEMS > 0].float()[:, None]
    # Lengths 1 and none, 2, and 8: at most an eighth, a quarter and all of 8.
    assert [group.rows.tolist() for group in packed.groups] == [[0, 3], [2], [1]]
    parts = packed.unpack(values)
    assert [part[..., 0].tolist() for part in parts] == [[[4], [0]], [[5, 9]], [[*range(1, 9)]]]
    assert [group.padding.tolist() for group in packed.groups[:2]] == [
        [[False], [True]],
        [[False, False]],
    ]
    assert torch.equal(packed.pack(parts), values)
    assert torch.equal(packed.unpack_all(values)[..., 0], ITEMS.float())
    assert packed.position.tolist() == [7, *range(8), 6, 7]


@pytest.mark.parametrize(("worth", "lengths"), [(1, [1, 2, 8]), (3, [2, 8]), (10**9, [8])])
def test_a_group_is_made_where_it_saves_enough(monkeypatch, worth, lengths):
    monkeypatch.setattr(groups, "WORTH_A_GROUP", worth)
    assert [group.places.shape[1] for group in LengthGroups(ITEMS).groups] == lengths


def test_gradients_come_back_to_their_places(monkeypatch):
    monkeypatch.setattr(groups, "WORTH_A_GROUP", 1)
    packed = LengthGroups(ITEMS)
    x = torch.randn(len(packed.position), 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: packed.pack(packed.unpack(x.sin())), x)
    assert torch.autograd.gradcheck(lambda x: packed.unpack_all(x.sin()), x)
