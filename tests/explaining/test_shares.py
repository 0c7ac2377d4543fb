"""The shares of a score against the same network written out in numpy, and against the score."""

import numpy as np
import pytest
import torch

from rka_fast.data.batches import Batch
from rka_fast.explaining.attending import watched
from rka_fast.explaining.shares import shares
from rka_fast.models.rksa import RKSA
from rka_fast.models.sasrec import SASRec
from rka_fast.ops.api import Covariance, Kernels, Location, Shape, kernelized_attention

ITEMS, USERS, WIDTH, LENGTH = 30, 4, 8, 6
SETTINGS = {
    "as in the paper": {},
    "one block, two heads": {"blocks": 1, "heads": 2},
    "gated": {"block": "ligr"},
    "cosine, output of its own, position bias": {
        "temperature": 0.2,
        "tied": False,
        "position_bias": True,
    },
}


def made(kind, **settings):
    """A model with random weights and biases of a size that matters."""
    torch.manual_seed(0)
    sizes = (ITEMS, USERS) if kind is RKSA else (ITEMS,)
    model = kind(*sizes, max_length=LENGTH, width=WIDTH, **settings).eval()
    with torch.no_grad():
        for name, x in model.named_parameters():
            if name.endswith("bias"):
                x.add_(0.3 * torch.randn_like(x))
            elif "items" in name or "positions" in name or "users" in name or "output.w" in name:
                x.copy_(torch.randn_like(x))
    return model


def batch(history=(3, 7, 3, 12, 20), user=2):
    """Left-padded, with counts of users that are a Gram matrix."""
    items = torch.tensor([[0] * (LENGTH - len(history)) + list(history)])
    had = (torch.rand(50, ITEMS + 1, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    had[:, 0] = 0
    counts = (had.T @ had)[items[0]][:, items[0]]
    return Batch(users=torch.tensor([user]), items=items, cooccurrence=counts[None])


WANTED = torch.tensor([5, 1, 29])


@pytest.mark.parametrize("kind", [RKSA, SASRec])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_they_sum_to_the_score(kind, settings):
    model = made(kind, **settings)
    with torch.no_grad():
        scores = model.scores(batch())[0, WANTED].double()
    found = shares(model, batch(), WANTED)
    total = found.items.sum(1) + found.places.sum(1) + found.constants
    assert found.items.shape == found.places.shape == (3, 5)
    assert (found.constants.abs() > 1e-3).all()  # biases have a part of their own
    # The parts are float64, the score is the model's own in float32.
    torch.testing.assert_close(total, found.scores, rtol=0, atol=1e-10)
    torch.testing.assert_close(total, scores, rtol=0, atol=1e-5)


def test_the_model_is_left_as_it_was():
    model = made(RKSA)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    shares(model, batch(), WANTED)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert model.items.weight.dtype == torch.float32
    assert all(x.grad is None for x in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.blocks[0].modules()
                   if m is not model.blocks[0].attention.attention)  # fmt: skip
    assert len(model.blocks[0].attention.attention._forward_pre_hooks) == 1  # its own


def weights_by_the_reference(model, given):
    """Attention weights (H, n, n) of the only block, from its parameters and the formulas."""
    attention = model.blocks[0].attention.attention
    heads, n = attention.num_heads, 5
    x = model.items.weight[given.items[0, -n:]] * model.scale + model.positions.weight[-n:]
    query = model.blocks[0].attention_norm(x)

    def split(y):
        return y.unflatten(-1, (heads, -1)).transpose(0, 1)[None]

    d = WIDTH
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    location = Location(
        split(query @ weight[:d].T + bias[:d]), split(x @ weight[d : 2 * d].T + bias[d : 2 * d])
    )
    of_query, of_key = query @ attention.spread_query.weight.T, x @ attention.spread_key.weight.T
    user = model.users.weight[given.users + 1]
    kernels = model.kernels
    relations = Kernels(
        model.items.weight[given.items[:, -n:]],
        kernels.log_concentration.exp(),
        (user @ kernels.mixture_weight.T + kernels.mixture_bias).softmax(-1),
        2 * torch.sigmoid(kernels.gate(user)),
        given.cooccurrence[:, -n:, -n:],
    )
    return kernelized_attention(
        location,
        torch.eye(n).expand(1, heads, n, n),
        Covariance(split(of_query[:, :d]), split(of_key[:, :d]), relations, attention.scale_bias),
        Shape(split(of_query[:, d:]), split(of_key[:, d:])),
        is_causal=True,
        mode="mean",
        backend="reference",
    )[0]


def normalised(x, around, norm):
    """A part x (..., d) of the input of a LayerNorm whose whole input is `around`, without bias."""
    deviation = np.sqrt(np.square(around - around.mean()).mean() + norm.eps)
    return (x - x.mean(-1, keepdims=True)) / deviation * norm.weight.detach().double().numpy()


@torch.no_grad()
def test_each_one_is_what_the_network_makes_of_its_part():
    """One block of RKSA, its value path written out: every part is pushed through by itself."""
    model, given = made(RKSA, blocks=1, heads=2), batch()
    attention = model.blocks[0].attention.attention
    weights = weights_by_the_reference(model, given)[:, -1].double().numpy()  # (H, n)

    def array(x):
        return x.double().numpy()

    vectors = array(model.items.weight[given.items[0, -5:]]) * model.scale
    places = array(model.positions.weight[-5:])
    block = model.blocks[0]
    network = block.feed_forward
    x = vectors + places
    w_v, b_v = (
        array(attention.in_proj_weight)[2 * WIDTH :],
        array(attention.in_proj_bias)[2 * WIDTH :],
    )
    w_o, b_o = array(attention.out_proj.weight), array(attention.out_proj.bias)
    half = WIDTH // 2

    def attended(rows, bias=0.0):
        values = rows @ w_v.T + bias
        return (
            np.concatenate([weights[h] @ values[:, h * half : (h + 1) * half] for h in range(2)])
            @ w_o.T
        )

    def one(part, position):
        """Attention of a part (d,) that stands at a position, with the residual of the last."""
        rows = np.zeros((5, WIDTH))
        rows[position] = part
        residual = normalised(part, x[-1], block.attention_norm) if position == 4 else 0.0
        return attended(rows) + residual

    norm_bias = array(block.attention_norm.bias)
    whole = attended(x, b_v) + b_o + normalised(x[-1], x[-1], block.attention_norm) + norm_bias
    y = normalised(whole, whole, block.feed_forward_norm) + array(block.feed_forward_norm.bias)
    inner = array(network.inner.weight) @ y + array(network.inner.bias)
    outer = array(network.outer.weight)
    end = y + outer @ np.maximum(inner, 0) + array(network.outer.bias)

    def through(part):
        """The rest of the network, with its normalisations and ReLU as they are for the whole."""
        part = normalised(part, whole, block.feed_forward_norm)
        part = part + outer @ ((inner > 0) * (array(network.inner.weight) @ part))
        return normalised(part, end, model.norm)

    items = array(model.items.weight[WANTED])
    expected = [
        np.stack([items @ through(one(part[j], j)) for j in range(5)], axis=1)
        for part in (vectors, places)
    ]
    found = shares(model, given, WANTED)
    # What is independent here has the weights in float32.
    np.testing.assert_allclose(found.items, expected[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(found.places, expected[1], rtol=0, atol=2e-5)


@torch.no_grad()
def test_the_weights_are_the_reference_operators():
    model, given = made(RKSA, blocks=1, heads=2), batch()
    with watched(model) as found:
        model.encode(given)
    expected = weights_by_the_reference(model, given)
    assert len(found) == 1 and found[0].shape == (1, 2, 5, 5)
    torch.testing.assert_close(found[0][0], expected, rtol=0, atol=1e-5)
    assert (found[0][0, :, 0, 1:] == 0).all()  # causal
    with watched(model) as last:
        model.scores(given)
    torch.testing.assert_close(last[0], found[0][:, :, -1:], rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_weights_of_plain_attention():
    model, given = made(SASRec, blocks=1, position_bias=True), batch()
    with watched(model) as found:
        states = model.encode(given)
    assert torch.equal(states, model.encode(given))  # watching changes nothing
    with watched(model) as last:
        model.scores(given)
    torch.testing.assert_close(last[0], found[0][:, :, -1:], rtol=0, atol=1e-6)
    attention = model.blocks[0].attention
    x = model.items.weight[given.items[0, -5:]] * model.scale + model.positions.weight[-5:]
    q = attention.query(model.blocks[0].attention_norm(x)).double().numpy()
    k = attention.key_value(x)[:, :WIDTH].double().numpy()
    place = np.arange(5)
    distance = np.maximum(place[:, None] - place, 0)
    bias = attention.relative.position.double().numpy()[distance]
    logits = q @ k.T / np.sqrt(WIDTH) + bias
    logits[place[:, None] < place] = -np.inf
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(found[0][0, 0], expected, rtol=0, atol=1e-5)
