"""Several draws of a model, their mean and their spread."""

import pytest
import torch
from torch import nn

from rka_fast.context import use_draws, use_relations
from rka_fast.prediction import predict
from rka_fast.swap import swap_attention

B, N, D, H = 3, 7, 16, 4


@pytest.fixture
def model() -> nn.Module:
    layer = nn.TransformerEncoderLayer(D, H, 32, 0.1, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    swap_attention(encoder, start="rksa")
    return encoder.eval()


def test_mean_and_spread_are_those_of_the_draws(model):
    x = torch.randn(B, N, D)
    torch.manual_seed(3)
    mean, std, draws = predict(model, x, draws=5, return_draws=True)
    torch.manual_seed(3)
    with torch.no_grad(), use_draws(model):
        expected = torch.stack([model(x) for _ in range(5)])
    assert torch.equal(draws, expected) and not mean.requires_grad
    torch.testing.assert_close(mean, expected.double().mean(0).float())
    torch.testing.assert_close(std, expected.double().std(0).float())
    assert std.min() > 0 and predict(model, x, draws=2).draws is None


def test_a_generator_repeats_them_and_leaves_pytorchs_alone(model):
    x = torch.randn(B, N, D)
    before = torch.get_rng_state()
    first = predict(model, x, draws=3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
    again = predict(model, x, draws=3, generator=torch.Generator().manual_seed(1))
    other = predict(model, x, draws=3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(first.mean, again.mean) and not torch.equal(first.mean, other.mean)


def test_keywords_outputs_and_relations(model):
    x, mask = torch.randn(B, N, D), torch.arange(N) >= torch.tensor([4, 7, 2])[:, None]
    counts = torch.eye(N).expand(B, -1, -1) + 1
    keywords = {"src_key_padding_mask": mask, "output": lambda y: y[:, 0].softmax(-1)}
    torch.manual_seed(1)
    plain = predict(model, x, **keywords)
    assert plain.mean.shape == (B, D)
    torch.testing.assert_close(plain.mean.sum(-1), torch.ones(B))
    torch.manual_seed(1)
    with use_relations(model, cooccurrence=counts):
        assert not torch.allclose(predict(model, x, **keywords).mean, plain.mean)


def test_errors(model):
    x = torch.randn(B, N, D)
    with pytest.raises(ValueError, match="draws: expected at least 2.*got 1"):
        predict(model, x, draws=1)
    with pytest.raises(ValueError, match=r"training: model.eval\(\)"):
        predict(model.train(), x)
    with pytest.raises(ValueError, match="KernelizedAttention.*got Linear"):
        predict(nn.Linear(2, 2).eval(), torch.zeros(1, 2))
    with pytest.raises(TypeError, match="output: .*tuple"):
        predict(model.eval().layers[0].self_attn, x, x, x)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": lambda x: x}, TypeError, "model: expected a torch.nn.Module, got function"),
        ({"draws": 2.5}, TypeError, "draws: expected an int, got float"),
        ({"draws": "16"}, TypeError, "draws: expected an int, got str"),
        ({"draws": True}, TypeError, "draws: expected an int, got bool"),
        ({"generator": 3}, TypeError, "generator: expected a torch.Generator or None, got int"),
        ({"return_draws": "all"}, TypeError, "return_draws: expected a bool, got str"),
        ({"output": "logits"}, TypeError, "output: expected a function.*got str"),
        ({"output": torch.fft.fft}, ValueError, "output: expected real numbers, got torch.complex"),
        (
            {"output": lambda y: y.flatten()[: 1 + int(99 * y[0, 0, 0].abs())]},
            ValueError,
            r"output: expected the first draw's shape \(\d+,\), got",
        ),
    ],
)
def test_wrong_arguments_are_named(model, options, error, message):
    torch.manual_seed(1)
    with pytest.raises(error, match=message):
        predict(options.pop("model", model), torch.randn(B, N, D), **options)


def test_a_compiled_model_draws(model):
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(B, N, D)
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        predict(compiled.train(), x)
    found = predict(compiled.eval(), x, draws=3, return_draws=True)
    assert found.std.min() > 0
