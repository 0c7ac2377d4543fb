"""What SASRec and RKSA take beside the published blocks: gates, temperature, biases, tables."""

import math

import pytest
import torch
from support.transformers import (
    SEQUENTIAL,
    assert_blind_to_the_future,
    assert_learns,
    assert_the_same_in_any_company,
    model_of,
)

from rka_fast.models import RKSA
from rka_fast.models.relative import RelativeBias
from rka_fast.models.rksa import RelationAttention
from rka_fast.models.sasrec import CausalAttention

LEVERS = [
    {"block": "ligr"},
    {"block": "ligr", "expansion": 2, "temperature": 0.2},
    {"temperature": 0.2, "tied": False},
    {"expansion": 3},
]


@pytest.mark.parametrize("levers", LEVERS)
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_a_lever_learns_with_all_its_parameters_and_sees_no_future(name, levers, split, batch):
    model = model_of(name, split, **levers)
    assert_learns(model, batch)
    assert_blind_to_the_future(model.eval(), batch)


BIASES = {"time_bias": True, "position_bias": True}


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_biases_learn_and_see_no_later_time(name, timed_split, timed):
    model = model_of(name, timed_split, **BIASES)
    assert_learns(model, timed)
    before = model.eval().encode(timed)
    requests = timed.request_times.clone()
    requests[:, -1] += 10**8
    after = model.encode(timed._replace(request_times=requests))
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])
    with pytest.raises(ValueError, match="batch.times: expected int64"):
        model.encode(timed._replace(times=None))


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_a_history_with_times_has_its_state_in_any_company(monkeypatch, name, timed_split, timed):
    model = model_of(name, timed_split, **BIASES).eval()
    assert_the_same_in_any_company(model, timed, monkeypatch)


def test_the_biases_by_their_formula(timed):
    """The attention of SASRec with both, for one history, by loops in float64."""
    torch.manual_seed(0)
    attention = CausalAttention(4, 2, 0.0, RelativeBias(8, time=True, position=True)).double()
    row = int(timed.items.count_nonzero(1).argmax())
    n = int(timed.items[row].count_nonzero())
    keys, requests = timed.times[row, -n:], timed.request_times[row, -n:]
    query, x = torch.randn(2, n, 4, dtype=torch.float64)
    q = query @ attention.query.weight.T + attention.query.bias
    k, v = (x @ attention.key_value.weight.T + attention.key_value.bias).chunk(2, -1)
    attended = torch.empty_like(x)
    for h in range(2):
        of_head = slice(2 * h, 2 * h + 2)
        for t in range(n):
            logits = []
            for j in range(t + 1):
                seconds = abs(int(requests[t] - keys[j]))
                bucket = min(int(math.log(max(1, seconds)) / 0.301), 128)
                bias = attention.relative.time[0, bucket] + attention.relative.position[t - j]
                logits.append(q[t, of_head] @ k[j, of_head] / math.sqrt(2) + bias)
            attended[t, of_head] = torch.stack(logits).softmax(0) @ v[: t + 1, of_head]
    expected = attended @ attention.output.weight.T + attention.output.bias
    padding = torch.zeros(1, n, dtype=torch.bool)
    actual = attention(query[None], x[None], padding, (requests[None], keys[None]))[0]
    torch.testing.assert_close(actual, expected)


def test_rksa_adds_the_biases_to_its_location(timed_split, timed):
    """In location mode with the identity it is SASRec's attention of the same weights."""
    torch.manual_seed(0)
    relative = RelativeBias(8, time=True, position=True)
    plain = CausalAttention(12, 2, 0.0, relative)
    ours = RelationAttention(
        12, 2, 0.0, "identity", "auto", "location", "location", 0.5, relative
    )  # fmt: skip
    with torch.no_grad():
        ours.attention.in_proj_weight.copy_(torch.cat((plain.query.weight, plain.key_value.weight)))
        ours.attention.in_proj_bias.copy_(torch.cat((plain.query.bias, plain.key_value.bias)))
        ours.attention.out_proj.load_state_dict(plain.output.state_dict())
    query, x = torch.randn(2, 6, 8, 12)
    padding, times = timed.items == 0, (timed.request_times, timed.times)
    found = [
        attention(query, x, padding, times=times, **more)[~padding]
        for attention, more in ((plain, {}), (ours, {"kernels": None}))
    ]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_the_gated_block_by_its_formula(split, batch):
    """One history, one block, written out from the parameters, in float64."""
    model = model_of("sasrec", split, block="ligr", blocks=1, heads=1).double().eval()
    items = batch.items[batch.items.count_nonzero(1).argmax()]
    items, n = items[items > 0], int((items > 0).sum())
    of = model.blocks[0]

    def norm(layer, x):
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred / (variance + 1e-8).sqrt() * layer.weight + layer.bias

    x = model.items.weight[items] + model.positions.weight[8 - n :]
    y = norm(of.attention_norm, x)
    query = y @ of.attention.query.weight.T + of.attention.query.bias
    key, value = (y @ of.attention.key_value.weight.T + of.attention.key_value.bias).chunk(2, -1)
    attended = torch.empty_like(x)
    for t in range(n):
        weights = torch.softmax(key[: t + 1] @ query[t] / math.sqrt(12), dim=0)
        attended[t] = weights @ value[: t + 1]
    attended = attended @ of.attention.output.weight.T + of.attention.output.bias
    gate = of.attention_gate
    x = x + attended / (1 + torch.exp(-(x @ gate.weight.T + gate.bias)))
    z, ffn = norm(of.feed_forward_norm, x), of.feed_forward
    opened = z @ ffn.gate.weight.T
    hidden = opened / (1 + torch.exp(-opened)) * (z @ ffn.inner.weight.T)
    gate = of.feed_forward_gate
    x = x + hidden @ ffn.outer.weight.T / (1 + torch.exp(-(x @ gate.weight.T + gate.bias)))
    alone = batch._replace(items=items[None], users=batch.users[:1], cooccurrence=None)
    torch.testing.assert_close(model.encode(alone)[0], x)


def test_the_gated_form_starts_xavier_normal():
    torch.manual_seed(0)
    model = RKSA(500, 300, width=64, blocks=1, block="ligr")
    for weight in (
        model.items.weight[1:],
        model.users.weight[1:],
        model.blocks[0].feed_forward.gate.weight,
    ):
        rows, columns = weight.shape
        std = math.sqrt(2 / (rows + columns))
        # The standard deviation of n normal values has itself one of std / sqrt(2 n).
        assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel()))
    assert not model.items.weight[0].any() and not model.users.weight[0].any()


def test_scores_with_a_temperature_are_cosines_over_it(split, batch):
    """Of the state that the model without one has."""
    model = model_of("sasrec", split, temperature=0.25, tied=False).eval()
    scores = model.scores(batch)
    model.temperature = None
    state = model.encode(batch)[:, -1]
    for item in (1, 12):
        vector = model.output.weight[item]
        expected = (state @ vector) / state.norm(dim=-1) / vector.norm() / 0.25
        torch.testing.assert_close(scores[:, item], expected)
