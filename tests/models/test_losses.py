"""Losses against literal sums."""

import math

import pytest
import torch

from rka_fast.models.losses import kernel_loss, recommendation_loss

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
    def log_sigmoid(x):
        return -math.log1p(math.exp(-x))

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


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match="expected one of ce, bce, sampled_ce, got 'hinge'"):
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
