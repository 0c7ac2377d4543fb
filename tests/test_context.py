"""Relations and modes that reach attentions deep in a model."""

import threading

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint

from rka_fast import KernelizedAttention
from rka_fast.context import use_draws, use_relations

B, N, D, H, U = 3, 7, 12, 2, 4


class Block(nn.Module):
    """Two self-attentions and what a caller of a deep model can reach: x alone."""

    def __init__(self, user_dim: int | None = U):
        super().__init__()
        new = {"batch_first": True, "user_dim": user_dim}
        self.first = KernelizedAttention(D, H, **new)
        self.second = KernelizedAttention(D, H, **new)

    def forward(self, x: torch.Tensor, **options) -> torch.Tensor:
        x = x + self.first(x, x, x, need_weights=False, **options)[0]
        return x + self.second(x, x, x, need_weights=False, **options)[0]


def counts(seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    incidence = torch.randint(0, 2, (B, N, 6), generator=rng).float()
    return incidence @ incidence.mT


def test_relations_are_those_given_directly():
    model, x, user = Block().eval(), torch.randn(B, N, D), torch.randn(B, U)
    plain = model(x)
    with use_relations(model, cooccurrence=counts(), user=user):
        inside = model(x)
    assert torch.equal(inside, model(x, cooccurrence=counts(), user=user))
    assert torch.equal(model(x), plain) and not torch.allclose(inside, plain)


def test_gradients_reach_the_users():
    model, x = Block(), torch.randn(B, N, D)
    user = torch.randn(B, U, requires_grad=True)
    with use_relations(model, user=user):
        model(x).square().sum().backward()
    assert user.grad.abs().max() > 0


def test_what_is_given_directly_comes_first_and_inner_blocks_before_outer():
    model, x = Block().eval(), torch.randn(B, N, D)
    one, other = model(x, cooccurrence=counts(1)), model(x, cooccurrence=counts(2))
    with use_relations(model, cooccurrence=counts(2)):
        assert torch.equal(model(x, cooccurrence=counts(1)), one)
        with use_relations(model, cooccurrence=counts(1)):
            assert torch.equal(model(x), one)
        with use_draws(model):  # leaves the counts alone
            torch.manual_seed(0)
            drawn = model(x)
        torch.manual_seed(0)
        assert torch.equal(drawn, model(x, mode="sample"))
        assert torch.equal(model(x), other)


def test_only_the_named_model_sees_them():
    model, neighbour, x = Block().eval(), Block().eval(), torch.randn(B, N, D)
    plain = neighbour(x)
    with use_relations(model, cooccurrence=counts()), use_draws(model.first):
        assert torch.equal(neighbour(x), plain)
        torch.manual_seed(0)
        half = model(x)
        torch.manual_seed(0)
        with use_draws(model):
            assert not torch.equal(half, model(x))


def test_a_model_in_evaluation_draws():
    model, x = Block().eval(), torch.randn(B, N, D)
    with use_draws(model):
        first, second = model(x), model(x)
    assert not torch.equal(first, second)
    assert torch.equal(model(x), model(x))
    model.train()
    with use_draws(model, mode="mean"):
        assert torch.equal(model(x), model(x))


def test_they_end_with_the_block_even_by_an_exception():
    model, x = Block().eval(), torch.randn(B, N, D)
    plain = model(x)
    with pytest.raises(KeyError), use_relations(model, cooccurrence=counts()):
        raise KeyError
    assert torch.equal(model(x), plain)


@pytest.mark.parametrize("compiled", [False, True])
def test_each_thread_sees_its_own(compiled):
    torch._dynamo.reset()
    model, x = Block().eval(), torch.randn(B, N, D)
    call = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
    expected = {seed: model(x, cooccurrence=counts(seed)) for seed in (1, 2)}
    with use_relations(model, cooccurrence=counts(1)):
        call(x)  # compile once, before the threads
    inside, failures = threading.Barrier(2), []

    def work(seed: int) -> None:
        try:
            with use_relations(model, cooccurrence=counts(seed)):
                for _ in range(20):
                    inside.wait(timeout=60)
                    torch.testing.assert_close(call(x), expected[seed], rtol=1e-5, atol=1e-6)
        except BaseException as error:
            failures.append(error)
            inside.abort()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    torch.testing.assert_close(call(x), model(x), rtol=1e-5, atol=1e-6)


def test_at_most_two_graphs():
    torch._dynamo.reset()
    model, x, counter = Block().eval(), torch.randn(B, N, D), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for seed in range(4):
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)
        with use_relations(model, cooccurrence=counts(seed)):
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)
    assert counter.frame_count == 2


def test_a_checkpointed_block_sees_them_where_it_runs_again():
    """In the block, or by PyTorch's own `context_fn` where the backward pass is elsewhere."""
    model, c = Block(), counts()
    x = torch.randn(B, N, D)

    def gradient(run):
        model.zero_grad()
        torch.manual_seed(3)
        run()
        return model.second.in_proj_weight.grad.clone()

    def block():
        return use_relations(model, cooccurrence=c)

    def plain():
        with block():
            model(x).square().sum().backward()

    def inside(reentrant):
        with block():
            y = checkpoint(model, x.clone().requires_grad_(), use_reentrant=reentrant)
            y.square().sum().backward()

    def elsewhere():
        y = checkpoint(model, x, use_reentrant=False, context_fn=lambda: (block(), block()))
        y.square().sum().backward()

    expected = gradient(plain)
    for run in (lambda: inside(True), lambda: inside(False), elsewhere):
        assert torch.equal(gradient(run), expected)


def test_cross_attention_takes_counts_only_as_aligned():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.attention = nn.LayerNorm(D), KernelizedAttention(D, H, batch_first=True)

        def forward(self, x):
            return self.attention(self.norm(x), x, x)[0]

    model, x = Normed().eval(), torch.randn(B, N, D)
    message = "self-attention.*model.encoder.*aligned=True"
    with use_relations(model, cooccurrence=counts()), pytest.raises(ValueError, match=message):
        model(x)
    with use_relations(model, cooccurrence=counts(), aligned=True):
        actual = model(x)
    ready = model.attention.kernels(x, None, counts())
    assert torch.equal(actual, model.attention(model.norm(x), x, x, kernels=ready)[0])


def test_errors():
    message = "KernelizedAttention.*got Linear.*swap_attention"
    with pytest.raises(ValueError, match=message), use_draws(nn.Linear(2, 2)):
        pass
    message = "mode: expected one of sample.*'median'"
    with pytest.raises(ValueError, match=message), use_draws(Block(), mode="median"):
        pass
    stranger = use_relations(Block(user_dim=None), user=torch.zeros(B, U))
    with pytest.raises(ValueError, match="user: .*user_dim=4"), stranger:
        pass
    for given, message in (
        ({"cooccurrence": [[1]]}, "cooccurrence: expected a tensor or None, got list"),
        ({"user": [1, 2]}, "user: expected a tensor or None, got list"),
        ({"aligned": "yes"}, "aligned: expected a bool, got str"),
    ):
        with pytest.raises(TypeError, match=message), use_relations(Block(), **given):
            pass
    message = "model: expected a torch.nn.Module, got the class Linear"
    with pytest.raises(TypeError, match=message), use_draws(nn.Linear):
        pass
    with pytest.raises(ValueError, match="mode: expected one of sample.*got 16"):
        use_draws(Block(), 16).__enter__()
    model = Block()
    message = "user: expected torch.float32.*got torch.float64"
    with use_relations(model, user=torch.zeros(B, U).double()):  # noqa: SIM117
        with pytest.raises(TypeError, match=message):
            model(torch.zeros(B, N, D))
