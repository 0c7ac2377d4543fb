import struct

import pytest
import torch
from torch import nn

from rka_fast.errors import CheckpointError
from rka_fast.training.checkpoint import Checkpoint


class Tied(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.embedding, self.out = nn.Embedding(5, width), nn.Linear(width, 5, bias=False)
        self.out.weight = self.embedding.weight
        self.register_buffer("count", torch.tensor(7))


def step(model, optimizer):
    optimizer.zero_grad()
    model.out(model.embedding(torch.arange(5))).square().sum().backward()
    optimizer.step()


@pytest.fixture
def trained():
    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, betas=(0.9, 0.98))
    for _ in range(3):
        step(model, optimizer)
    return model, optimizer


@pytest.fixture
def saved(trained, tmp_path):
    model, optimizer = trained
    path = tmp_path / "last.safetensors"
    Checkpoint(
        model.state_dict(), optimizer.state_dict(), {"step": 3, "best": 0.1}, "catalogue"
    ).save(path)
    return path


def test_a_loaded_checkpoint_goes_on_bit_for_bit(trained, saved):
    model, optimizer = trained
    checkpoint = Checkpoint.load(saved, "catalogue")
    assert checkpoint.meta == {"step": 3, "best": 0.1}
    other = Tied()
    other_optimizer = torch.optim.Adam(other.parameters(), lr=5.0)  # the file knows better
    checkpoint.load_into(other)
    other_optimizer.load_state_dict(checkpoint.optimizer)
    for _ in range(2):
        step(model, optimizer)
        step(other, other_optimizer)
    assert torch.equal(model.embedding.weight, other.embedding.weight)
    assert other.count == 7


def test_weights_alone(trained, tmp_path):
    Checkpoint(trained[0].state_dict(), None, {}, "c").save(tmp_path / "best.safetensors")
    assert Checkpoint.load(tmp_path / "best.safetensors", "c").optimizer is None


def test_every_kind_of_damage_is_noticed(saved):
    whole = saved.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    flipped = bytearray(whole)
    flipped[8 + header + 5] ^= 1  # one bit of one weight
    for damaged in (b"", whole[:20], whole[:-1], bytes(flipped), b"\0" * len(whole)):
        saved.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="last.safetensors is damaged.*--out"):
            Checkpoint.load(saved)


def test_another_catalogue_is_refused(saved):
    with pytest.raises(CheckpointError, match="last.safetensors was written for a different"):
        Checkpoint.load(saved, "other items")


def test_another_architecture_is_refused(saved):
    with pytest.raises(CheckpointError, match="does not fit the model.*embedding.weight"):
        Checkpoint.load(saved).load_into(Tied(width=4))


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint .*x.safetensors"):
        Checkpoint.load(tmp_path / "x.safetensors")
