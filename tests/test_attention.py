"""KernelizedAttention in place of nn.MultiheadAttention."""

import copy
import io
import math
import pickle

import pytest
import torch
from support.slow import slow
from torch import nn

from rka_fast import KernelizedAttention, Kernels

B, N, D, H = 3, 7, 12, 3


def pair(batch_first=True, bias=True, **sizes):
    """MultiheadAttention and ours with its weights, in deterministic terms the same function."""
    mha = nn.MultiheadAttention(D, H, bias=bias, batch_first=batch_first, **sizes)
    if bias:  # they start at zero, which would hide a bias that is not carried over
        nn.init.normal_(mha.in_proj_bias)
        nn.init.normal_(mha.out_proj.bias)
    ours = KernelizedAttention(
        D, H, bias=bias, batch_first=batch_first, activation="identity", **sizes
    )
    result = ours.load_state_dict(mha.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert not any("proj" in name for name in result.missing_keys)
    return mha.eval(), ours.eval()


def close(actual, expected):
    """Equal up to float32 rounding of sums over at most N * D terms of size about one."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-6)


def padding():
    mask = torch.zeros(B, N, dtype=torch.bool)
    mask[0, :3] = mask[1, 5:] = True
    return mask


CAUSAL = torch.ones(N, N, dtype=torch.bool).triu(1)
ADDITIVE = torch.randn(N, N, generator=torch.Generator().manual_seed(1))
MASKS = {
    "none": {},
    "boolean": {"attn_mask": CAUSAL},
    "additive": {"attn_mask": ADDITIVE.masked_fill(CAUSAL, -math.inf)},
    "per head": {
        "attn_mask": torch.rand(B * H, N, N, generator=torch.Generator().manual_seed(2)) > 0.7
    },
    "additive per head": {
        "attn_mask": torch.randn(B * H, N, N, generator=torch.Generator().manual_seed(3))
    },
    "padding": {"key_padding_mask": padding()},
    "additive padding": {
        "key_padding_mask": torch.zeros(B, N).masked_fill(padding(), -math.inf)
        + torch.arange(N) / 5
    },
    "both": {
        "attn_mask": ADDITIVE,
        "key_padding_mask": torch.zeros(B, N).masked_fill(padding(), -math.inf),
    },
    "causal hint": {"attn_mask": CAUSAL, "is_causal": True},
}


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_deterministic_mode_is_multihead_attention(masks, batch_first):
    mha, ours = pair(batch_first)
    x = torch.randn(B, N, D)
    x = x if batch_first else x.transpose(0, 1)
    for average in (True, False):
        options = {**MASKS[masks], "average_attn_weights": average}
        expected = mha(x, x, x, **options)
        actual = ours(x, x, x, **options, mode="location")
        close(actual[0], expected[0])
        close(actual[1], expected[1])
    close(ours(x, x, x, **MASKS[masks], mode="location", need_weights=False)[0], expected[0])
    assert ours(x, x, x, mode="location", need_weights=False)[1] is None


@pytest.mark.parametrize("sizes", [{}, {"kdim": 5, "vdim": 9}])
@pytest.mark.parametrize("bias", [True, False])
def test_cross_attention_is_multihead_attention(bias, sizes):
    mha, ours = pair(bias=bias, **sizes)
    query = torch.randn(B, 4, D)
    key = torch.randn(B, N, sizes.get("kdim", D))
    value = torch.randn(B, N, sizes.get("vdim", D))
    for actual, expected in zip(
        ours(query, key, value, mode="location"), mha(query, key, value), strict=True
    ):
        close(actual, expected)


def test_unbatched_input():
    mha, ours = pair()
    x = torch.randn(N, D)
    for masks in ({}, {"key_padding_mask": padding()[0]}, {"attn_mask": CAUSAL}):
        for actual, expected in zip(
            ours(x, x, x, mode="location", **masks), mha(x, x, x, **masks), strict=True
        ):
            close(actual, expected)


def test_gradients_are_multihead_attentions():
    mha, ours = pair()
    x = torch.randn(B, N, D)
    mask = torch.randn(N, N, requires_grad=True)
    other = mask.detach().clone().requires_grad_()
    mha(x, x, x, attn_mask=mask)[0].square().sum().backward()
    ours(x, x, x, attn_mask=other, mode="location")[0].square().sum().backward()
    torch.testing.assert_close(other.grad, mask.grad, rtol=1e-4, atol=1e-5)
    for name, parameter in mha.named_parameters():
        torch.testing.assert_close(
            ours.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-4
        )


def relations(n=N, users=6):
    incidence = torch.randint(0, 2, (B, n, users)).float()
    return incidence @ incidence.mT


def test_the_weights_are_those_that_were_applied():
    ours = KernelizedAttention(D, H, dropout=0.3, batch_first=True)
    with torch.no_grad():  # make the output the weighted values themselves
        ours.out_proj.weight.copy_(torch.eye(D))
        ours.out_proj.bias.zero_()
        ours.in_proj_weight[2 * D :].copy_(torch.eye(D))
    x = torch.randn(B, N, D)
    output, weights = ours(x, x, x, average_attn_weights=False, cooccurrence=relations(), seed=3)
    heads = x.unflatten(-1, (H, D // H)).transpose(1, 2)
    close(output, (weights @ heads).transpose(1, 2).flatten(2))
    assert ((weights == 0).float().mean() - 0.3).abs() < 0.15


def test_train_draws_eval_takes_the_mean_and_modes_can_be_asked_for():
    ours = KernelizedAttention(D, H, batch_first=True)
    x = torch.randn(B, N, D)

    def call(**options):
        return ours(x, x, x, need_weights=False, cooccurrence=relations_, **options)[0]

    relations_ = relations()
    torch.manual_seed(1)
    first = call()
    assert not torch.equal(first, call())
    torch.manual_seed(1)
    assert torch.equal(first, call())
    ours.eval()
    assert torch.equal(call(), call(mode="mean"))
    assert not torch.equal(call(), call(mode="location"))
    draws = torch.stack([call(mode="sample", seed=s) for s in range(400)])
    assert (draws[0] - draws[1]).abs().max() > 1e-3
    logit_free = (draws.mean(0) - call(mode="mean")).abs().max()
    assert logit_free < draws.std(0).max()  # the mean of the logits is near the mean output


def test_co_occurrence_and_user_change_the_result():
    ours = KernelizedAttention(D, H, batch_first=True, user_dim=4)
    x, user = torch.randn(B, N, D), torch.randn(B, 4)
    plain = ours(x, x, x, seed=1)[0]
    related = ours(x, x, x, cooccurrence=relations(), seed=1)[0]
    personal = ours(x, x, x, user=user, seed=1)[0]
    assert not torch.allclose(plain, related) and not torch.allclose(plain, personal)
    ours(x, x, x, cooccurrence=relations(), user=user, seed=1)[0].square().sum().backward()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_every_row_is_the_last_of_its_prefix():
    ours = KernelizedAttention(D, H, batch_first=True)
    x, counts = torch.randn(B, N, D), relations()
    whole = ours(x, x, x, is_causal=True, cooccurrence=counts, seed=2)[0]
    for t in (1, 4):
        y = x[:, :t]
        prefix = ours(y, y, y, is_causal=True, cooccurrence=counts[:, :t, :t], seed=2)[0]
        close(prefix[:, -1], whole[:, t - 1])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_inside_an_encoder_layer(train, norm_first):
    """The layer must call the module: PyTorch's fused path would ignore everything we add."""
    layer = nn.TransformerEncoderLayer(D, H, 16, 0.0, batch_first=True, norm_first=norm_first)
    layer.self_attn = KernelizedAttention(D, H, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(train)
    calls = []
    for block in encoder.layers:
        block.self_attn.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(B, N, D)
    with torch.set_grad_enabled(train):
        output = encoder(x, mask=CAUSAL, src_key_padding_mask=padding(), is_causal=True)
    assert len(calls) == 2
    # Row 0 of sequence 0 sees padding only, so everything is finite here, where PyTorch gives NaN.
    assert output.isfinite().all()


def test_a_trained_encoder_keeps_its_function_in_location_mode():
    layer = nn.TransformerEncoderLayer(D, H, 16, 0.0, batch_first=True).eval()
    swapped = copy.deepcopy(layer)
    ours = KernelizedAttention(D, H, batch_first=True, activation="identity").eval()
    ours.load_state_dict(layer.self_attn.state_dict(), strict=False)
    original = ours.forward
    ours.forward = lambda *a, **k: original(*a, **k, mode="location")
    swapped.self_attn = ours
    x = torch.randn(B, N, D)
    with torch.no_grad():
        close(swapped(x, src_mask=CAUSAL), layer(x, src_mask=CAUSAL))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    ours = KernelizedAttention(D, H, batch_first=True, user_dim=4)
    x = torch.randn(B, N, D, requires_grad=True)
    user, counts = torch.randn(B, 4), relations()
    exact = ours(x, x, x, user=user, cooccurrence=counts, seed=1)[0]
    with torch.autocast("cpu", dtype=dtype):
        output = ours(x, x, x, user=user, cooccurrence=counts, seed=1)[0]
    assert output.dtype == dtype
    # Two chained projections and one rounding of logits of size about one.
    assert (output - exact).abs().max() < 16 * torch.finfo(dtype).eps * exact.abs().max()
    output.float().square().sum().backward()
    assert x.grad.isfinite().all()


def test_copies_pickles_and_state():
    ours = KernelizedAttention(D, H, batch_first=True, user_dim=4, activation="tanh").eval()
    x, user = torch.randn(B, N, D), torch.randn(B, 4)
    expected = ours(x, x, x, user=user)[0]
    stream = io.BytesIO()
    torch.save(ours.state_dict(), stream)
    stream.seek(0)
    loaded = KernelizedAttention(D, H, batch_first=True, user_dim=4, activation="tanh").eval()
    loaded.load_state_dict(torch.load(stream, weights_only=True))
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), loaded):
        assert torch.equal(other(x, x, x, user=user)[0], expected)


@pytest.mark.parametrize("need_weights", [True, slow(False)])
def test_compiles_in_one_graph(need_weights):
    ours = KernelizedAttention(D, H, batch_first=True, user_dim=4).eval()
    x, user, counts = torch.randn(B, N, D), torch.randn(B, 4), relations()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    options = {
        "user": user, "cooccurrence": counts, "key_padding_mask": padding(),
        "need_weights": need_weights, "is_causal": True, "mode": "sample",
        "seed": torch.tensor(4),
    }  # fmt: skip
    close(compiled(x, x, x, **options)[0], ours(x, x, x, **options)[0])


def test_cross_attention_with_co_occurrence_is_refused():
    ours = KernelizedAttention(D, H, batch_first=True)
    x = torch.randn(B, N, D)
    for query in (torch.randn(B, 4, D), torch.randn(B, N, D)):
        with pytest.raises(ValueError, match=r"cooccurrence.*self-attention.*kernels="):
            ours(query, x, x, cooccurrence=relations())
    with pytest.raises(ValueError, match="cooccurrence: expected None beside kernels"):
        ours(x, x, x, cooccurrence=relations(), kernels=Kernels(x))


def test_ready_kernels_stand_for_the_modules_own():
    ours = KernelizedAttention(D, H, batch_first=True, user_dim=4)
    x, user, counts = torch.randn(B, N, D), torch.randn(B, 4), relations()
    own = ours(x, x, x, user=user, cooccurrence=counts, seed=1)[0]
    ready = ours(x, x, x, kernels=ours.kernels(x, user, counts), seed=1)[0]
    assert torch.equal(own, ready)
    other = ours(x, x, x, kernels=Kernels(torch.randn(B, N, 3)), seed=1)[0]
    assert not torch.allclose(own, other)


def test_a_person_without_a_vector_has_no_user_kernel():
    kernels = KernelizedAttention(D, H, batch_first=True, user_dim=4).kernels
    x, user = torch.randn(2, N, D), torch.randn(2, 4)
    mixture = kernels(x, user, known_user=torch.tensor([True, False])).mixture
    assert mixture[0].min() > 0
    assert mixture[1, 2] == 0 and mixture[1, :2].min() > 0


MESSAGES = {
    "query": ({"query": torch.zeros(B, N, D + 1)}, "query: expected.*12 channels.*13"),
    "attn_mask": ({"attn_mask": torch.zeros(N, N + 1)}, r"attn_mask: expected shape \(7, 7\)"),
    "padding": (
        {"key_padding_mask": torch.zeros(N, B, dtype=torch.bool)},
        r"key_padding_mask: expected shape \(3, 7\)",
    ),
    "mask dtype": ({"attn_mask": torch.zeros(N, N, dtype=torch.int32)}, "attn_mask.*int32"),
    "mask kind": ({"attn_mask": [[0.0]]}, "attn_mask: expected a tensor or None, got list"),
    "padding kind": (
        {"key_padding_mask": [[True]]},
        "key_padding_mask: expected a tensor or None, got list",
    ),
    "user kind": ({"user": "u7"}, "user: expected a tensor or None, got str"),
    "mode": ({"mode": "median"}, "mode: expected one of sample.*'median'"),
    "numpy": ({"query": torch.zeros(B, N, D).numpy()}, "query: expected a tensor, got ndarray"),
    "kernels": ({"kernels": {}}, r"covariance.kernels: expected rka_fast.Kernels\(.*got dict"),
    "no mode": ({"mode": ()}, "mode: expected one of sample"),
    "seed": ({"mode": "sample", "seed": "1"}, "seed: expected an int.*got str"),
    "a mask for weights": (
        {"need_weights": torch.zeros(N, N)},
        "need_weights: expected a bool, got Tensor",
    ),
    "user": ({"user": torch.zeros(B, 3)}, "user: .*user_dim"),
    "counts": ({"cooccurrence": torch.zeros(B, 2, 2)}, r"cooccurrence: expected shape \(3, 7, 7\)"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_errors_of_a_call(case):
    changes, message = MESSAGES[case]
    x = torch.zeros(B, N, D)
    ours = KernelizedAttention(D, H, batch_first=True)
    with pytest.raises((ValueError, TypeError), match=message):
        ours(**{"query": x, "key": x, "value": x, **changes})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"add_bias_kv": True}, "add_bias_kv"),
        ({"add_zero_attn": True}, "add_zero_attn"),
        ({"activation": "gelu"}, "activation: expected.*'gelu'"),
        ({"initial_scale": 0.0}, "initial_scale"),
        ({"num_heads": 5}, "embed_dim: expected a multiple of num_heads, got 12 for 5 heads"),
        ({"num_heads": 0}, "num_heads: expected 1 or more, got 0"),
        ({"kdim": 2.5}, "kdim: expected an int, got float"),
        ({"embed_dim": None}, "embed_dim: expected an int, got NoneType"),
        ({"dropout": 1.0}, "dropout: expected 0 <= dropout < 1, got 1.0"),
        ({"dropout": "0.1"}, "dropout: expected a number, got str"),
        ({"batch_first": 1}, "batch_first: expected a bool, got int"),
        ({"add_zero_attn": torch.ones(2)}, "add_zero_attn: expected a bool, got Tensor"),
    ],
)
def test_errors_of_the_constructor(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        KernelizedAttention(**{"embed_dim": D, "num_heads": H, **options})
