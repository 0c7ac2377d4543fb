"""Encoders that turn padding into nested tensors."""

import copy
import warnings

import pytest
import torch
from torch import nn

from rka_fast import KernelizedAttention
from rka_fast.context import use_relations

B, N, D, H = 3, 7, 12, 2


def padding() -> torch.Tensor:
    return torch.arange(N) >= torch.tensor([4, 6, 2])[:, None]  # nobody fills all N


def swap(layer: nn.Module) -> None:
    """The layer's attention for ours with its weights, in deterministic terms the same function."""
    for name in ("self_attn", "multihead_attn"):
        if isinstance(theirs := getattr(layer, name, None), nn.MultiheadAttention):
            ours = KernelizedAttention(D, H, batch_first=True, activation="identity")
            ours.load_state_dict(theirs.state_dict(), strict=False)
            nn.init.zeros_(ours.spread_query.weight)  # no skewness: the mean is the location
            setattr(layer, name, ours)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_a_built_encoder_with_ours_put_in_is_what_it_was(norm, masked):
    layer = nn.TransformerEncoderLayer(D, H, 16, 0.0, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 2, nn.LayerNorm(D) if norm else None).eval()
    ours = copy.deepcopy(theirs)
    for block in ours.layers:
        swap(block)
    ours.eval()
    x = torch.randn(B, N, D)
    mask = torch.zeros(N, N).masked_fill(torch.ones(N, N).triu(1) > 0, -torch.inf)
    options = {"mask": mask if masked else None, "src_key_padding_mask": padding()}
    if masked:  # their own fast path does not take both
        options["src_key_padding_mask"] = torch.zeros(B, N).masked_fill(padding(), -torch.inf)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype
        calls = []
        ours.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
        actual, expected = ours(x, **options), theirs(x, **options)
    assert calls == [1]
    there = ~padding()
    torch.testing.assert_close(actual[there], expected[there], rtol=1e-5, atol=1e-5)


def test_a_built_transformer_with_ours_put_in_is_what_it_was():
    theirs = nn.Transformer(D, H, 2, 2, 16, 0.0, batch_first=True).eval()
    ours = copy.deepcopy(theirs)
    for block in (*ours.encoder.layers, *ours.decoder.layers):
        swap(block)
    ours.eval()
    source, target = torch.randn(B, N, D), torch.randn(B, 5, D)
    options = {"src_key_padding_mask": padding(), "memory_key_padding_mask": padding()}
    with torch.no_grad():
        torch.testing.assert_close(
            ours(source, target, **options), theirs(source, target, **options),
            rtol=1e-5, atol=1e-5,
        )  # fmt: skip


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_each_sequence_is_attended_alone(layout):
    ours = KernelizedAttention(D, H, batch_first=True).eval()
    sequences = [torch.randn(n, D) for n in (3, 5, 1)]
    x = torch.nested.nested_tensor(sequences, layout=layout)
    output, weights = ours(x, x, x, need_weights=False)
    assert output.is_nested and output.layout == layout and weights is None
    (x + output).unbind()  # the residual of the layer around it
    for y, sequence in zip(output.unbind(), sequences, strict=True):
        alone = ours(sequence, sequence, sequence)[0]
        torch.testing.assert_close(y, alone, rtol=1e-5, atol=1e-6)


def test_gradients_reach_a_nested_input():
    ours = KernelizedAttention(D, H, batch_first=True).eval()
    sequences = [torch.randn(n, D, requires_grad=True) for n in (3, 5)]
    x = torch.nested.as_nested_tensor(sequences)
    output = ours(x, x, x, need_weights=False)[0]
    grads = torch.autograd.grad(sum(y.square().sum() for y in output.unbind()), sequences)
    for grad, sequence in zip(grads, sequences, strict=True):
        alone = ours(sequence, sequence, sequence)[0].square().sum()
        expected = torch.autograd.grad(alone, sequence)[0]
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-5)


def test_counts_come_along_in_a_nested_encoder():
    layer = nn.TransformerEncoderLayer(D, H, 16, 0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1).eval()
    encoder.layers[0].self_attn = KernelizedAttention(D, H, batch_first=True).eval()
    x, incidence = torch.randn(B, N, D), torch.randint(0, 2, (B, N, 6)).float()
    counts = incidence @ incidence.mT
    with torch.no_grad(), use_relations(encoder, cooccurrence=counts):
        nested = encoder(x, src_key_padding_mask=padding())
        encoder.enable_nested_tensor = encoder.use_nested_tensor = False
        dense = encoder(x, src_key_padding_mask=padding())
    torch.testing.assert_close(nested[~padding()], dense[~padding()], rtol=1e-5, atol=1e-5)


def test_errors():
    ours = KernelizedAttention(D, H, batch_first=True)
    x = torch.nested.nested_tensor([torch.randn(n, D) for n in (3, 5)])
    with pytest.raises(ValueError, match="three nested tensors.*True, False, False"):
        ours(x, torch.zeros(2, 5, D), torch.zeros(2, 5, D))
    with pytest.raises(ValueError, match="key_padding_mask: expected None"):
        ours(x, x, x, key_padding_mask=torch.zeros(2, 5, dtype=torch.bool))
