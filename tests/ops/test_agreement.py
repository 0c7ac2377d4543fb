"""Every backend within its budgets of the reference in float64: output and every gradient.

The cases lie where kernels change: at lengths and widths around their tiles, at each combination
of the operator's parts, masks and layouts, and at each dtype.
"""

import pytest
import torch
from support.agreement import SEED, agrees
from support.cases import fresh_leaves, random_inputs, replace, some_rows, with_kernels
from support.slow import slow

from rka_fast import Location
from rka_fast.ops.arguments import ACTIVATIONS, MODES
from rka_fast.ops.triton import interpreted

HALVES = (torch.bfloat16, torch.float16)


def inputs_of(**case):
    return random_inputs(**{"batch": 2, "heads": 1, "width": 6, "dtype": torch.float32} | case)


LONG = [slow(n) for n in (200, 256)]


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 50, 64, 65, 100, 128, *LONG])
def test_every_length(compared, n):
    size = {"batch": 1} if n > 64 else {"heads": 2 if n < 17 else 1}
    agrees(compared, inputs_of(n=n, width=20, feature_width=18, **size), is_causal=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"shape": False},
        {"gate": False},
        {"cooccurrence": False},
        {"gate": False, "cooccurrence": False, "shape": False},
        {"bias": True, "heads": 3, "batch": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("is_causal", [False, True])
def test_modes_and_parts(compared, mode, case, is_causal):
    inputs = inputs_of(n=9, **case)
    if {"gate", "cooccurrence"} <= case.keys():  # the only kernel's weight has no gradient
        inputs = with_kernels(inputs, mixture=None)
    agrees(compared, inputs, mode=mode, is_causal=is_causal)


@pytest.mark.parametrize("mode", ["sample", "mean"])
def test_shapes_of_keys_that_a_long_row_does_not_see(compared, mode):
    """Without co-occurrence there is no prior that is zero there."""
    padding = torch.zeros(1, 70, dtype=torch.bool)
    padding[0, :5] = True
    inputs = inputs_of(n=70, batch=1, cooccurrence=False)
    agrees(compared, inputs, mode=mode, is_causal=True, key_padding_mask=padding)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(compared, mode, activation):
    agrees(compared, inputs_of(n=19), mode=mode, activation=activation)


def test_plain_attention(compared):
    inputs = inputs_of(n=33, spread=False)
    agrees(compared, inputs, mode="location", activation="identity", dropout_p=0.3)


MASKS = [
    ((2, 2, 35, 35), False),
    ((2, 2, 35, 35), True),
    ((1, 2, 35, 35), True),
    ((2, 1, 35, 35), False),
    ((1, 1, 1, 35), True),
    ((2, 1, 35, 1), False),
    ((35, 35), True),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "causal"), MASKS)
def test_masks_padding_bias_and_dropout(compared, shape, causal, mode):
    """The bias broadcasts like the mask, and its gradient is summed."""
    rng = torch.Generator().manual_seed(3)
    mask = torch.rand(shape, generator=rng) > 0.3
    if shape[-2] > 1:
        mask[..., 5, :] = False  # a row that may see nothing
    padding = torch.zeros(2, 35, dtype=torch.bool)
    padding[0, :18] = padding[1, 7:9] = padding[1, 33:] = True
    inputs = inputs_of(n=35, heads=2)
    bias = torch.randn(shape, generator=rng)
    bias = bias if bias.dim() == 4 else bias[None, None]
    inputs["location"] = inputs["location"]._replace(bias=bias)
    options = {"mask": mask, "key_padding_mask": padding, "is_causal": causal}
    agrees(compared, inputs, mode=mode, dropout_p=0.25, **options)


@pytest.mark.parametrize("keys", [7, 40])
@pytest.mark.parametrize("sequences", [1, 2])
def test_queries_that_are_not_the_keys(compared, keys, sequences):
    """With a mixture of each sequence, and one that all share."""
    inputs = inputs_of(n=20, keys=keys, value_width=11, cooccurrence=False)
    mixture = inputs["covariance"].kernels.mixture[:sequences]
    agrees(compared, with_kernels(inputs, mixture=mixture), dropout_p=0.1)


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_several_tiles_with_times_and_a_scale(compared, mode):
    inputs, options = some_rows(21, 69, 70, batch=2, width=6)
    padding = torch.zeros(2, 70, dtype=torch.bool)
    padding[0, 30:36] = True
    agrees(compared, inputs, mode=mode, key_padding_mask=padding, dropout_p=0.2, **options)


@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "identity"])
@pytest.mark.parametrize("mode", MODES)
def test_a_scale_below_zero(compared, mode, activation):
    options = {"mode": mode, "activation": activation, "scale": -0.4, "is_causal": True}
    agrees(compared, inputs_of(n=33), **options)


@pytest.mark.parametrize("width", [33, 64, 65, 130])
def test_wide_heads_values_and_features(compared, width):
    inputs = inputs_of(n=18, batch=1, width=width, feature_width=width, value_width=65)
    agrees(compared, inputs, is_causal=True)


def test_slices_and_transposed_heads_give_the_same_bits(compared):
    """Of one projection, whose gradient is strided as well."""
    plain = inputs_of(n=20, width=8, heads=2)
    views = {}
    for name, x in fresh_leaves(plain).items():
        x = x.detach()
        if x.dim() == 4:
            packed = torch.cat((x, x, x), -1).transpose(1, 2).contiguous().transpose(1, 2)
            x = packed[..., x.shape[-1] : 2 * x.shape[-1]]
        elif x.dim() == 3:
            x = x.mT.contiguous().mT
        views[name] = x.requires_grad_()
    assert not any(x.is_contiguous() for name, x in views.items() if x.dim() >= 3)
    grad = torch.randn(2, 20, 2, 8).transpose(1, 2)
    results = []
    for leaves, g in ((fresh_leaves(plain), grad.contiguous()), (views, grad)):
        output = compared(**replace(plain, leaves), is_causal=True, seed=SEED)
        results.append([output, *torch.autograd.grad(output, list(leaves.values()), g)])
    for name, first, second in zip(["output", *views], *results, strict=True):
        assert torch.equal(first, second), name
    agrees(compared, replace(plain, views), is_causal=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("jitter", [1e-4, 1e-2])
def test_repeated_items(compared, dtype, jitter):
    """K is singular but for its jitter: terms of its gradient are far larger than their sum."""
    compared.needs(dtype=dtype)
    inputs = inputs_of(n=18, dtype=dtype)
    kernels, item = inputs["covariance"].kernels, torch.arange(18) // 3
    counts = kernels.cooccurrence[:, item][:, :, item]
    inputs = with_kernels(inputs, features=kernels.features[:, item], cooccurrence=counts)
    agrees(compared, inputs, is_causal=True, jitter=jitter)


@pytest.mark.parametrize("factor", [5000.0, 0.1234567])
def test_counts_of_more_bits_than_tf32_holds(compared, factor):
    inputs = inputs_of(n=33, batch=1)
    counts = inputs["covariance"].kernels.cooccurrence * factor
    agrees(compared, with_kernels(inputs, cooccurrence=counts), is_causal=True)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
@pytest.mark.parametrize("n", [24, 40])
def test_other_dtypes(compared, dtype, n):
    compared.needs(dtype=dtype)
    agrees(compared, inputs_of(n=n, width=16, batch=1, heads=2, dtype=dtype), is_causal=True)


@pytest.mark.parametrize("dtype", HALVES)
def test_features_in_float32_beside_half_precision(compared, dtype):
    """As under autocast."""
    inputs = inputs_of(n=24, width=16, dtype=dtype)
    kernels = inputs["covariance"].kernels
    wide = {"features": kernels.features.float(), "gate": kernels.gate.float()}
    agrees(compared, with_kernels(inputs, **wide), is_causal=True)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_rounds_to_even(compared, dtype):
    """The mean of two neighbours lies half way between them."""
    if interpreted() and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter cuts bfloat16 off, which the devices round")
    bits = torch.arange(-(2**15), 2**15 - 1).to(torch.int16)
    low, high = bits.view(dtype), (bits + 1).view(dtype)
    finite = low.isfinite() & high.isfinite() & (low.sign() == high.sign())
    value = torch.stack((low[finite], high[finite]))[None, None]
    query = torch.zeros(1, 1, 1, 4, dtype=dtype)
    output = compared(Location(query, query.expand(1, 1, 2, 4)), value, mode="location")
    expected = value.double().mean(2, keepdim=True).float().to(dtype)
    assert torch.equal(output, expected)


def test_only_the_gradients_that_are_needed(compared):
    inputs = inputs_of(n=18)
    options = {"is_causal": True, "seed": SEED}

    def grads(leaves):
        output = compared(**replace(inputs, leaves), **options)
        return torch.autograd.grad(output.square().sum(), list(leaves.values()))

    every = fresh_leaves(inputs)
    expected = dict(zip(every, grads(every), strict=True))
    for name in ("value", "covariance.bias", "shape.key", "covariance.kernels.concentration"):
        assert torch.equal(grads({name: every[name]})[0], expected[name]), name
