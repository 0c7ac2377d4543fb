"""SASRec and RKSA: what they compute and what they must not see."""

import math

import numpy as np
import pytest
import torch
from support.transformers import (
    CONFIG,
    SEQUENTIAL,
    assert_blind_to_the_future,
    assert_learns,
    assert_the_same_in_any_company,
    model_of,
)
from torch.nn.utils import prune

from rka_fast.data.batches import Batcher
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.models import MODELS, RKSA, SASRec, groups
from rka_fast.models.losses import kernel_loss

COUNTS = ("cooccurrence", "kernel_counts")


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_no_position_sees_its_future(name, split, batch):
    model = MODELS[name].from_config(CONFIG, split).eval()
    assert_blind_to_the_future(model, batch)


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_padding_to_a_longer_window_changes_nothing(name, split):
    """Left padding is invisible but for the learned positions, which end at the newest item."""
    counts = CoOccurrence.from_split(split)
    model = MODELS[name].from_config(CONFIG, split).eval()
    users = np.flatnonzero(split.train_end - split.sequences.indptr[:-1] <= 4)
    batches = [Batcher(split, counts, n, 0).evaluation(users, "valid") for n in (4, 8)]
    short, long = (model.scores(b) for b in batches)
    torch.testing.assert_close(short[:, 1:], long[:, 1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_a_history_has_its_state_in_any_company(monkeypatch, name, split, batch):
    model = MODELS[name].from_config(CONFIG, split).eval()
    assert_the_same_in_any_company(model, batch, monkeypatch)


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_scores_are_inner_products_with_the_item_embedding(name, split, batch):
    model = MODELS[name].from_config(CONFIG, split).eval()
    scores = model.scores(batch)
    state = model.encode(batch)[:, -1]
    assert scores.shape == (6, 13) and (scores[:, 0] == -torch.inf).all()
    for item in (1, 12):
        torch.testing.assert_close(scores[:, item], state @ model.items.weight[item])


@pytest.mark.parametrize("loss", ["ce", "bce", "sampled_ce"])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_every_parameter_learns(name, loss, split, batch):
    model = MODELS[name].from_config(CONFIG, split)
    model.training_loss(batch, loss)["loss"].backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, parameter_name
    assert model.items.weight.grad[0].abs().max() == 0  # padding stays where it is


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_loss_is_cross_entropy_and_the_kernel_loss(name, split, batch):
    model = MODELS[name].from_config(CONFIG, split).double()
    batch = batch._replace(**{key: getattr(batch, key).double() for key in COUNTS})
    torch.manual_seed(3)  # of the draws
    states, items = model.encode(batch), model.items.weight
    losses = []
    for row, t in (batch.targets > 0).nonzero().tolist():
        scores = [(states[row, t] @ items[item]).item() for item in range(1, 13)]
        target = scores[batch.targets[row, t] - 1]
        losses.append(math.log(sum(map(math.exp, scores))) - target)
    torch.manual_seed(3)
    parts = model.training_loss(batch, "ce")
    if name == "sasrec":
        assert set(parts) == {"loss"}
        assert parts["loss"].item() == pytest.approx(np.mean(losses))
    else:
        gamma = model.kernels.concentration[0]
        kernel = kernel_loss(items[batch.kernel_items], batch.kernel_counts, gamma)
        assert set(parts) == {"loss", "recommendation", "kernel"}
        assert parts["recommendation"].item() == pytest.approx(np.mean(losses))
        assert parts["kernel"].item() == pytest.approx(0.5 * kernel.item())
        assert parts["loss"].item() == pytest.approx(np.mean(losses) + 0.5 * kernel.item())


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_a_few_steps_learn_the_training_sequences(name, split, batch):
    assert_learns(model_of(name, split), batch)


@pytest.mark.parametrize("training", [False, True])
def test_rksa_in_location_mode_ignores_every_relation(training, split, batch):
    mode = {"train_mode" if training else "eval_mode": "location"}
    model = RKSA(12, 10, width=12, max_length=8, dropout=0.0, **mode).train(training)
    other = batch._replace(cooccurrence=batch.cooccurrence * 0, users=batch.users + 1)
    assert torch.equal(model.encode(batch), model.encode(other))


def test_rksa_uses_users_and_counts(split, batch):
    model = RKSA(12, 10, width=12, max_length=8).eval()
    torch.nn.init.normal_(model.users.weight)
    state = model.encode(batch)
    unrelated = model.encode(batch._replace(cooccurrence=batch.cooccurrence * 0))
    unknown = model.encode(batch._replace(users=torch.full_like(batch.users, -1)))
    assert not torch.allclose(state, unrelated) and not torch.allclose(state, unknown)


@pytest.mark.parametrize("kernels", ["item", "cooccurrence,item", "cooccurrence", "item,user"])
def test_rksa_without_some_of_its_kernels(kernels, split, batch):
    model = RKSA(12, 10, width=12, max_length=8, kernels=kernels).eval()
    torch.nn.init.normal_(model.users.weight)
    seen = groups.LengthGroups(batch.items)
    vectors = model.items(batch.items[seen.present])
    mixtures = [x["kernels"].mixture for x in model.attention_inputs(batch, seen, vectors)]
    for column, name in enumerate(("cooccurrence", "item", "user")):
        assert all((m[:, column] > 0).all() == (name in kernels) for m in mixtures)
    state = model.encode(batch)
    assert state.isfinite().all()
    other = model.encode(batch._replace(users=batch.users.flip(0)))
    assert torch.equal(state, other) == (kernels in ("item", "cooccurrence"))


def test_the_initial_scale_is_that_of_the_attention(split, batch):
    model = RKSA(12, 10, width=12, max_length=8, heads=2, initial_scale=0.125)
    for block in model.blocks:
        bias = block.attention.attention.scale_bias
        torch.testing.assert_close(torch.nn.functional.softplus(bias), torch.full((2,), 0.125))


def test_rksa_without_the_kernel_loss_has_none(split, batch):
    model = RKSA(12, 10, width=12, max_length=8, kernel_weight=0.0)
    assert not model.uses_kernel_loss
    assert set(model.training_loss(batch, "ce")) == {"loss"}


def test_a_block_by_hand():
    """query = LN(x), key = value = x, LN(x) is the residual; then LN and the ReLU network's own."""
    model = SASRec(12, width=12, max_length=8, heads=1, blocks=1, dropout=0.0).eval()
    block, x = model.blocks[0], torch.randn(5, 12)
    for parameter in block.parameters():  # so that no scale is 1 and no offset 0
        torch.nn.init.normal_(parameter)

    def norm(x, layer):
        centred = x - x.mean(1, keepdim=True)
        unit = centred / (centred.square().mean(1, keepdim=True) + 1e-8).sqrt()
        return unit * layer.weight + layer.bias

    query = norm(x, block.attention_norm)
    y = query + block.attention(query[None], x[None], torch.zeros(1, 5, dtype=torch.bool))[0]
    z = norm(y, block.feed_forward_norm)
    network = block.feed_forward
    hidden = (z @ network.inner.weight.T + network.inner.bias).clamp_min(0)
    expected = z + hidden @ network.outer.weight.T + network.outer.bias
    actual = block(x, groups.LengthGroups(torch.ones(1, 5, dtype=torch.int64)), [{}])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_sasrec_attention_is_a_literal_softmax(split, batch):
    model = SASRec(12, width=12, max_length=8, heads=1, blocks=1, dropout=0.0).eval()
    attention = model.blocks[0].attention
    query, x = torch.randn(1, 5, 12), torch.randn(1, 5, 12)
    padding = torch.tensor([[True, False, False, False, False]])
    output = attention(query, x, padding)[0]
    key, value = attention.key_value(x[0]).chunk(2, -1)
    q = attention.query(query[0])
    for t in range(1, 5):
        weights = torch.tensor([(q[t] @ key[j] / 12**0.5).item() for j in range(1, t + 1)])
        expected = attention.output(weights.softmax(0) @ value[1 : t + 1])
        torch.testing.assert_close(output[t], expected, rtol=1e-5, atol=1e-6)


LAST = [
    ("rksa", {}),
    ("rksa", {"heads": 1, "eval_mode": "sample"}),
    ("rksa", {"block": "ligr", "temperature": 0.3, "blocks": 1}),
    ("rksa", {"time_bias": True, "position_bias": True, "eval_mode": "sample"}),
    ("rksa", {"position_bias": True, "eval_mode": "location", "blocks": 3}),
    ("sasrec", {"heads": 4}),
    ("sasrec", {"block": "ligr", "temperature": 0.3, "blocks": 1}),
    ("sasrec", {"time_bias": True}),
    ("sasrec", {"position_bias": True, "heads": 1}),
]


@pytest.mark.parametrize("rows_of_a_group", [1, 10**9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "settings"), LAST)
def test_the_last_states_are_those_of_the_whole_pass(
    monkeypatch, name, settings, dtype, rows_of_a_group, timed_split
):
    """They compute less, in another order, so they differ by rounding.

    Of sums of tens of terms of size 1 or so, one behind another: 200 of the dtype's steps. The
    draws are those of the whole pass, which, where gradients are wanted, projects all. bfloat16 as
    evaluation has it, under autocast.
    """
    monkeypatch.setattr(groups, "WORTH_A_GROUP", rows_of_a_group)
    counts, seen = CoOccurrence.from_split(timed_split), timed_split.sequences
    batcher = Batcher(timed_split, counts, 8, seed=0, times="time_bias" in settings)
    batch = batcher.evaluation(np.arange(len(timed_split.targets("test").users)), "test")
    torch.manual_seed(0)
    made = MODELS[name](
        *([seen.num_items, seen.num_users][: 1 + (name == "rksa")]),
        **{"max_length": 8, "width": 8, "heads": 2, **settings},
    ).eval()
    for parameter in made.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    rounded = dtype == torch.bfloat16
    if not rounded:
        made, batch = made.to(dtype), batch._replace(cooccurrence=batch.cooccurrence.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=rounded):
        torch.manual_seed(3)
        whole = made.encode(batch)[:, -1].detach().to(torch.float64)
        with torch.no_grad():
            torch.manual_seed(3)
            last = made.last_states(batch).to(torch.float64)
            torch.manual_seed(3)
            folded = made.encode(batch)[:, -1].to(torch.float64)
    assert last.shape == whole.shape and len(last) > 5
    steps = 10 if rounded else 200  # of bfloat16, those that add up on the way alone
    error = steps * torch.finfo(dtype).eps * whole.abs().max()
    torch.testing.assert_close(last, whole, rtol=0, atol=float(error))
    torch.testing.assert_close(folded, whole, rtol=0, atol=float(error))
    assert not torch.equal(last, whole)  # they are made otherwise


@pytest.mark.parametrize(
    ("name", "layer", "weight"),
    [
        ("sasrec", "output", "weight"),
        ("rksa", "attention.out_proj", "weight"),
        ("rksa", "attention", "in_proj_weight"),
    ],
)
def test_a_pruned_layer_is_called_where_others_are_folded(name, layer, weight, timed_split):
    """Its weights are made when it is called: those of before a step of the optimiser are old."""
    seen = timed_split.sequences
    batcher = Batcher(timed_split, CoOccurrence.from_split(timed_split), 8, seed=0)
    batch = batcher.evaluation(np.arange(len(timed_split.targets("test").users)), "test")
    torch.manual_seed(0)
    made = MODELS[name](
        *([seen.num_items, seen.num_users][: 1 + (name == "rksa")]),
        max_length=8, width=8, heads=1, blocks=1,
    ).eval()  # fmt: skip
    pruned = made.blocks[0].attention.get_submodule(layer)
    prune.l1_unstructured(pruned, weight, 0.5)
    whole = made.encode(batch)[:, -1]
    with torch.no_grad():
        getattr(pruned, f"{weight}_orig").mul_(-3.0)
        last = made.last_states(batch)
    assert not torch.allclose(last, whole, atol=0.01)
    torch.testing.assert_close(last, made.encode(batch)[:, -1].detach(), rtol=0, atol=1e-5)
