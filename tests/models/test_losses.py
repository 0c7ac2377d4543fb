"""Losses against literal sums."""

import math

import pytest
import torch

from rka_fast.models import losses
from rka_fast.models.losses import LossOptions, kernel_loss, recommendation_loss

STATES = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
VECTORS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGETS = torch.tensor([2, 5, 1])
NEGATIVES = torch.tensor([[1, 3], [2, 2], [4, 5]])


def score(p, item):
    return sum(STATES[p, c].item() * VECTORS[item, c].item() for c in range(4))


def test_cross_entropy_is_over_items_without_padding():
    expected = 0.0
    for p, target in enumerate(TARGETS.tolist()):
        total = sum(math.exp(score(p, item)) for item in range(1, 6))
        expected -= math.log(math.exp(score(p, target)) / total) / 3
    assert recommendation_loss("ce", STATES, TARGETS, VECTORS, None).item() == pytest.approx(
        expected
    )


def test_binary_cross_entropy():
    expected = 0.0
    for p, target in enumerate(TARGETS.tolist()):
        expected -= log_sigmoid(score(p, target)) / 3
        expected -= sum(log_sigmoid(-score(p, i)) for i in NEGATIVES[p].tolist()) / 6
    actual = recommendation_loss("bce", STATES, TARGETS, VECTORS, NEGATIVES).item()
    assert actual == pytest.approx(expected)


def test_sampled_cross_entropy():
    expected = 0.0
    for p, target in enumerate(TARGETS.tolist()):
        candidates = [target, *NEGATIVES[p].tolist()]
        total = sum(math.exp(score(p, item)) for item in candidates)
        expected -= math.log(math.exp(score(p, target)) / total) / 3
    actual = recommendation_loss("sampled_ce", STATES, TARGETS, VECTORS, NEGATIVES).item()
    assert actual == pytest.approx(expected)


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def test_calibrated_binary_cross_entropy():
    """The positive's logit as the paper transforms it: log(1 / (sigma(s)^-beta - 1))."""
    for t in (0.0, 0.75, 1.0):
        alpha = 2 / 4  # two of the four other items
        beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
        expected = 0.0
        for p, target in enumerate(TARGETS.tolist()):
            probability = 1 / (1 + math.exp(-score(p, target)))
            transformed = math.log(1 / (probability**-beta - 1))
            expected -= log_sigmoid(transformed) / 9
            expected -= sum(log_sigmoid(-score(p, i)) for i in NEGATIVES[p].tolist()) / 9
        actual = recommendation_loss(
            "gbce", STATES, TARGETS, VECTORS, NEGATIVES, options=LossOptions(calibration=t)
        )
        assert actual.item() == pytest.approx(expected)


def test_sampled_cross_entropy_with_all_other_items_and_log_q_is_cross_entropy():
    """Drawing half of the others counts each twice; drawing all of them counts each once."""
    options = LossOptions(log_q=True)
    others = torch.tensor([[i for i in range(1, 6) if i != t] for t in TARGETS.tolist()])
    whole = recommendation_loss("sampled_ce", STATES, TARGETS, VECTORS, others, options=options)
    torch.testing.assert_close(whole, recommendation_loss("ce", STATES, TARGETS, VECTORS, None))
    half = recommendation_loss("sampled_ce", STATES, TARGETS, VECTORS, NEGATIVES, options=options)
    twice = torch.cat((NEGATIVES, NEGATIVES), dim=1)
    expected = recommendation_loss("sampled_ce", STATES, TARGETS, VECTORS, twice)
    torch.testing.assert_close(half, expected)


@pytest.mark.parametrize("loss", ["bce", "gbce", "sampled_ce"])
@pytest.mark.parametrize("sharing", ["sequence", "batch"])
def test_shared_negatives_equal_the_same_ones_of_every_position(loss, sharing):
    """In value and gradient; positions 0 and 2 of row 0 and 2, none of row 1."""
    rows = torch.tensor([0, 2, 2]) if sharing == "sequence" else None
    negatives = torch.tensor([[1, 3], [2, 2], [4, 3]]) if sharing == "sequence" else NEGATIVES[0]
    each = negatives[rows] if sharing == "sequence" else negatives.expand(3, 2)
    targets = torch.tensor([2, 5, 2])  # never one of the negatives
    found = []
    for given, of_rows in ((negatives, rows), (each, None)):
        states, vectors = STATES.clone().requires_grad_(), VECTORS.clone().requires_grad_()
        value = recommendation_loss(loss, states, targets, vectors, given, of_rows)
        found.append([value, *torch.autograd.grad(value, (states, vectors))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_a_shared_negative_that_is_the_target_does_not_count():
    shared = torch.tensor([2, 3])  # the first target, and nobody's
    states = STATES.clone().requires_grad_()
    value = recommendation_loss("sampled_ce", states, TARGETS, VECTORS, shared)
    expected = 0.0
    for p, target in enumerate(TARGETS.tolist()):
        total = sum(math.exp(score(p, i)) for i in {target, 2, 3})
        expected -= math.log(math.exp(score(p, target)) / total) / 3
    assert value.item() == pytest.approx(expected)
    value.backward()
    assert states.grad.isfinite().all()


def test_cross_entropy_in_chunks_is_the_plain_one(monkeypatch):
    found = []
    for whole in (losses.WHOLE, 0):
        monkeypatch.setattr(losses, "WHOLE", whole)
        monkeypatch.setattr(losses, "CHUNK", 10)  # two of the three positions at once
        states, vectors = STATES.clone().requires_grad_(), VECTORS.clone().requires_grad_()
        value = recommendation_loss("ce", states, TARGETS, vectors, None)
        found.append([value, *torch.autograd.grad(value, (states, vectors))])
    for plain, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, plain)


def test_cross_entropy_in_chunks_never_holds_all_products(monkeypatch):
    """What is kept for the backward pass, all in all, is less than the products."""
    monkeypatch.setattr(losses, "WHOLE", 0)
    monkeypatch.setattr(losses, "CHUNK", 200)
    states = torch.randn(50, 4, requires_grad=True)
    vectors = torch.randn(101, 4, requires_grad=True)
    saved = []

    def keep(x):
        saved.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        recommendation_loss("ce", states, torch.arange(1, 51), vectors, None)
    assert sum(saved) < 50 * 100


def test_negatives_are_asked_for():
    with pytest.raises(ValueError, match="negatives: expected a tensor with loss 'bce', got None"):
        recommendation_loss("bce", STATES, TARGETS, VECTORS, None)


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match="expected one of ce, bce, gbce, sampled_ce, got 'hinge'"):
        recommendation_loss("hinge", STATES, TARGETS, VECTORS, NEGATIVES)


def test_kernel_loss():
    """Items 0..2 co-occur, item 3 with nobody: it is left out of the mean."""
    counts = torch.tensor(
        [[4.0, 2.0, 1.0, 0.0], [2.0, 3.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 2.0]],
        dtype=torch.float64,
    )
    vectors, gamma = VECTORS[:4], 1.5
    expected = 0.0
    for i in range(3):
        others = [j for j in range(4) if j != i]
        relation = [counts[i, j] / math.sqrt(counts[i, i] * counts[j, j]) for j in others]
        logits = [
            2 * gamma * torch.cosine_similarity(vectors[i], vectors[j], dim=0).item()
            for j in others
        ]
        total = sum(math.exp(x) for x in logits)
        for weight, logit in zip(relation, logits, strict=True):
            expected -= weight / sum(relation) * math.log(math.exp(logit) / total) / 3
    actual = kernel_loss(vectors, counts, torch.tensor(gamma, dtype=torch.float64))
    assert actual.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("items", [1, 3])
def test_kernel_loss_without_any_relation_is_zero_with_finite_gradients(items):
    vectors = VECTORS[:items].clone().requires_grad_()
    gamma = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    term = kernel_loss(vectors, torch.diag(torch.tensor([2.0, 1.0, 0.0])[:items]).double(), gamma)
    term.backward()
    assert term == 0 and vectors.grad.isfinite().all() and gamma.grad.isfinite()


def test_kernel_loss_falls_as_related_items_come_together():
    counts = torch.tensor([[2.0, 2.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    together = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    gamma = torch.tensor(2.0)
    assert kernel_loss(together, counts, gamma) < kernel_loss(apart, counts, gamma)
