"""The CUDA program on the host, compiled by g++ from the source that nvcc compiles.

The blocks run one after the other, their threads phase by phase between barriers; the operator,
its binding and its autograd are those of the GPU. See csrc/tests/cuda/emulation.cpp.
"""

import shutil
import subprocess
import sys
from itertools import islice, permutations
from pathlib import Path

import pytest
import torch
from support import cases
from support.cases import differentiable, in_double, in_order, largest, random_inputs, replace, run

from rka_fast import Location, kernelized_attention
from rka_fast.ops.arguments import Arguments
from rka_fast.ops.backends import BACKENDS
from rka_fast.ops.library import forward_op
from rka_fast.ops.native import cuda
from rka_fast.ops.reference import covariance

CSRC = Path(__file__).resolve().parents[1] / "csrc"
pytestmark = pytest.mark.slow  # the library alone takes half a minute to compile
SIZES = [1, 2, 15, 17, 50, 64, 65, 128, 200, 256]
KB = 1024


@pytest.fixture(scope="module")
def emulation(tmp_path_factory):
    """The operators of the emulation, as `torch.ops.rka_fast_emulation`."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("needs g++ on Linux")
    home = Path(torch.__file__).parent
    library = tmp_path_factory.mktemp("emulation") / "emulation.so"
    subprocess.run(
        ["g++", "-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC"]
        + ["-DRKA_EMULATION", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
        + ["-I", str(home / "include"), "-o", str(library)]
        + [str(CSRC / "cuda" / "library.cpp")]
        + [str(CSRC / "tests" / "cuda" / f"{name}.cpp") for name in ("emulation", "threads")]
        + [f"-L{home / 'lib'}", "-ltorch_cpu", f"-Wl,-rpath,{home / 'lib'}"],
        check=True,
    )
    torch.ops.load_library(library)
    return torch.ops.rka_fast_emulation


class Emulation:
    name = "emulation"
    checks_calls = True

    def __init__(self, operators):
        self.operators = operators

    def why_not(self, a):
        return []

    def forward(self, a):
        return cuda.forward(self.operators, a)

    def backward(self, grad, needs, a):
        return cuda.backward(self.operators, grad, needs, a)


@pytest.fixture(autouse=True)
def _registered(emulation, monkeypatch):
    monkeypatch.setitem(BACKENDS, "emulation", Emulation(emulation))
    yield
    emulation.set_order(0)
    emulation.set_device(227 * KB, 132, True)


@pytest.fixture(params=[True, False], ids=["tensor cores", "none"])
def either_kernel(emulation, request):
    """With the kernels for short sequences and, as on no supported device, without."""
    emulation.set_device(227 * KB, 132, request.param)


def agrees(inputs, **options):
    cases.agrees("emulation", inputs, **options)


def inputs_of(**case):
    return random_inputs(**{"dtype": torch.float32, "requires_grad": True} | case)


@pytest.mark.usefixtures("either_kernel")
@pytest.mark.parametrize("n", SIZES)
def test_every_length(n):
    heads = 1 if n > 128 else 2
    agrees(inputs_of(n=n, width=20, feature_width=18, heads=heads), is_causal=True)


@pytest.mark.usefixtures("either_kernel")
@pytest.mark.parametrize("mode", ["sample", "mean", "location"])
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
)
@pytest.mark.parametrize("is_causal", [False, True])
def test_modes_and_parts(mode, case, is_causal):
    agrees(inputs_of(n=21, width=6, **case), mode=mode, is_causal=is_causal)


@pytest.mark.usefixtures("either_kernel")
@pytest.mark.parametrize("activation", ["identity", "leaky_relu", "relu", "tanh"])
def test_activations(activation):
    agrees(inputs_of(n=19), activation=activation)


@pytest.mark.usefixtures("either_kernel")
def test_plain_attention_without_spread():
    inputs = inputs_of(n=33, spread=False)
    agrees(inputs, mode="location", activation="identity", dropout_p=0.3)


@pytest.mark.usefixtures("either_kernel")
@pytest.mark.parametrize("mode", ["sample", "mean"])
@pytest.mark.parametrize("shape", [(2, 2, 30, 30), (1, 1, 30, 30), (30, 30), (2, 1, 1, 30)])
def test_masks(shape, mode):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) > 0.4
    padding = torch.zeros(2, 30, dtype=torch.bool)
    padding[0, :9] = padding[1, 5:] = True
    agrees(inputs_of(n=30, bias=True), mask=mask, mode=mode)
    agrees(
        inputs_of(n=30, bias=True), mask=mask, key_padding_mask=padding, mode=mode, dropout_p=0.2
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 18), (2, 1, 18, 1), (1, 2, 18, 18)])
def test_gradient_of_a_broadcast_bias(shape):
    inputs = inputs_of(n=18, bias=True)
    bias = torch.randn(shape, requires_grad=True)
    inputs["location"] = inputs["location"]._replace(bias=bias)
    agrees(inputs, is_causal=True)


def test_shared_mixture():
    inputs = inputs_of(n=18)
    kernels = inputs["covariance"].kernels._replace(mixture=torch.rand(1, 3, requires_grad=True))
    inputs["covariance"] = inputs["covariance"]._replace(kernels=kernels)
    agrees(inputs)


@pytest.mark.usefixtures("either_kernel")
@pytest.mark.parametrize("keys", [7, 40])
def test_queries_that_are_not_the_keys(keys):
    inputs = inputs_of(n=20, keys=keys, value_width=11, cooccurrence=False)
    agrees(inputs, orders=islice(permutations(range(5)), 0, None, 10), dropout_p=0.1)


@pytest.mark.usefixtures("either_kernel")
def test_heads_that_were_transposed():
    inputs = inputs_of(n=20, width=8)
    leaves = differentiable(inputs)
    strided = {
        name: x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
        for name, x in leaves.items()
        if x.dim() == 4
    }
    assert not any(x.is_contiguous() for x in strided.values())
    agrees(replace(inputs, strided))


@pytest.mark.usefixtures("either_kernel")
def test_what_padding_holds_has_no_influence():
    padding = torch.zeros(2, 23, dtype=torch.bool)
    padding[:, :5] = True
    plain = inputs_of(n=23)
    poisoned = {}
    for name, x in differentiable(plain).items():
        y = x.detach().clone()
        if name.endswith((".key", "value")):
            y[:, :, :5] = float("nan")
        elif name.endswith("features"):
            y[:, :5] = float("nan")
        poisoned[name] = y.requires_grad_()
    options = {"key_padding_mask": padding, "is_causal": True}
    expected = run(plain, "emulation", **options)
    actual = run(replace(plain, poisoned), "emulation", **options)
    for name, x in expected.items():
        assert torch.equal(actual[name], x), name
    assert not expected["output"][:, :, :5].any()  # rows that see nothing


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_within_twice_the_eager_error(dtype):
    inputs = inputs_of(n=40, width=16, dtype=dtype)
    actual = run(inputs, "emulation", is_causal=True)
    eager = run(inputs, "reference", is_causal=True)
    exact = run(in_double(inputs), "reference", is_causal=True)
    for name, x in exact.items():
        assert actual[name].dtype == eager[name].dtype, name
        rounding = torch.finfo(actual[name].dtype).eps * largest(x)
        assert largest(actual[name] - x) <= 2 * largest(eager[name] - x) + rounding, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_to_even(dtype):
    bits = torch.arange(-(2**15), 2**15 - 1).to(torch.int16)
    low, high = bits.view(dtype), (bits + 1).view(dtype)
    finite = low.isfinite() & high.isfinite() & (low.sign() == high.sign())
    value = torch.stack((low[finite], high[finite]))[None, None]
    query = torch.zeros(1, 1, 1, 4, dtype=dtype)
    location = Location(query, query.expand(1, 1, 2, 4))
    output = kernelized_attention(location, value, mode="location", backend="emulation")
    expected = value.double().mean(2, keepdim=True).float().to(dtype)
    assert torch.equal(output, expected)


@pytest.mark.parametrize(("n", "limit"), [(70, 30), (200, 99), (300, 227), (400, 99)])
def test_factor_in_global_memory(emulation, n, limit):
    emulation.set_device(limit * KB, 132, True)
    assert emulation.attention_cuda_layout(n, n, True, limit * KB)[2] == 0
    agrees(inputs_of(n=n, width=8, feature_width=24, heads=1, batch=1), is_causal=True)


@pytest.mark.parametrize("n", [33, 70])
@pytest.mark.parametrize("mode", ["sample", "mean"])
@pytest.mark.parametrize("limit", [227, 24])
def test_the_order_of_the_threads_does_not_matter(emulation, n, mode, limit):
    """A phase in which one thread reads what another writes would show here."""
    emulation.set_device(limit * KB, 132, True)
    inputs = inputs_of(n=n, width=9, bias=True)
    options = {"mode": mode, "is_causal": True, "dropout_p": 0.1}
    first = run(inputs, "emulation", **options)
    for order in (1, 2, 3):
        emulation.set_order(order)
        again = run(inputs, "emulation", **options)
        for name, x in first.items():
            assert torch.equal(again[name], x), (name, order)


@pytest.mark.parametrize("n", [50, 57])
@pytest.mark.parametrize("options", [{}, {"mask": True}, {"mode": "mean"}, {"mode": "location"}])
def test_the_order_of_the_threads_of_a_warp_does_not_matter(emulation, options, n):
    """Nor does it whether copies in the background come early: they come when waited for."""
    if "mask" in options:
        mask = torch.rand((2, 2, n, n), generator=torch.Generator().manual_seed(2)) > 0.4
        options = {"mask": mask, "is_causal": False}
    inputs = inputs_of(n=n, heads=2, width=9, bias=True)
    outputs = []
    for order in range(5):
        emulation.set_order(order)
        outputs.append(run(inputs, "emulation", **{"is_causal": True, "dropout_p": 0.1} | options))
    for again in outputs[1:]:
        for name, x in outputs[0].items():
            assert torch.equal(again[name], x), name


@pytest.mark.parametrize("n", [40, 150])
def test_the_number_of_blocks_does_not_matter(emulation, n):
    inputs = inputs_of(n=n, heads=3, width=8)
    outputs = []
    for multiprocessors in (1, 5, 1000):
        emulation.set_device(227 * KB, multiprocessors, True)
        outputs.append(run(inputs, "emulation")["output"])
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize(
    ("launches", "case"),
    [
        (2, {"n": 1}),
        (2, {"n": 56, "width": 56}),
        (2, {"n": 3, "keys": 50, "cooccurrence": False}),
        (1, {"n": 57}),  # forward alone
        (1, {"n": 8, "width": 64}),
        (0, {"n": 65}),
        (0, {"n": 8, "width": 65}),
        (0, {"n": 8, "value_width": 65}),
        (0, {"n": 8, "dtype": torch.bfloat16}),
    ],
)
def test_short_sequences_in_float32_have_kernels_of_their_own(emulation, launches, case):
    before = emulation.strip_launch_count()
    run(inputs_of(**{"heads": 1, "batch": 1} | case), "emulation")
    assert emulation.strip_launch_count() - before == launches


@pytest.mark.usefixtures("either_kernel")
def test_scratch_memory_is_that_of_the_blocks_a_device_holds(emulation, request):
    """And what a block leaves there for its next sequence has no influence."""
    inputs = inputs_of(n=20, batch=7)
    tensor_cores = "tensor" in request.node.name
    emulation.set_device(227 * KB, 132, tensor_cores)
    results = [run(inputs, "emulation", is_causal=True)]
    of_all = emulation.scratch_bytes()
    emulation.set_device(227 * KB, 1, tensor_cores)
    results.append(run(inputs, "emulation", is_causal=True))
    assert emulation.scratch_bytes() * 7 == of_all * (4 if tensor_cores else 2)
    for name, x in results[0].items():
        assert torch.equal(results[1][name], x), name


@pytest.mark.parametrize("width", [64, 65, 130])
def test_features_wider_than_a_square(width):
    agrees(inputs_of(n=33, feature_width=width), is_causal=True)


@pytest.mark.parametrize("factor", [5000.0, 0.1234567])
def test_counts_that_tf32_does_not_hold(factor):
    inputs = inputs_of(n=50)
    kernels = inputs["covariance"].kernels
    kernels = kernels._replace(cooccurrence=kernels.cooccurrence * factor)
    inputs["covariance"] = inputs["covariance"]._replace(kernels=kernels)
    agrees(inputs, is_causal=True)


@pytest.mark.parametrize("n", [50, 64])
@pytest.mark.parametrize("mode", ["sample", "mean"])
def test_three_products_in_tf32_make_up_for_one_in_float32(n, mode):
    """Root mean square error over 20 sequences: at most three times the float32 reference's, and
    of a gradient at most 2e-6 of it. What the reference loses where sums cancel hangs on their
    order, so its largest error over orders of the features' columns counts."""
    inputs = inputs_of(n=n, batch=20, heads=1, width=n, feature_width=n)
    options = {"is_causal": True, "mode": mode}
    exact = run(in_double(inputs), "reference", **options)
    actual, lost = run(inputs, "emulation", **options), dict.fromkeys(exact, 0.0)
    rng = torch.Generator().manual_seed(0)
    for order in (range(n), *(torch.randperm(n, generator=rng).tolist() for _ in range(8))):
        moved = in_order(inputs, order)
        there = run(in_double(moved), "reference", **options)
        for name, x in run(moved, "reference", **options).items():
            lost[name] = max(lost[name], (x - there[name]).norm())
    for name, x in exact.items():
        floor = 0.0 if name == "output" else 2e-6 * x.norm()
        assert (actual[name] - x).norm() <= max(3 * lost[name], floor), name


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3])
def test_items_that_are_nearly_the_same_leave_the_factor_real(spread):
    inputs = inputs_of(n=64, feature_width=64, cooccurrence=False)
    kernels = inputs["covariance"].kernels
    features = kernels.features.detach()
    near = (features[:, :1] + spread * features).requires_grad_()
    inputs["covariance"] = inputs["covariance"]._replace(kernels=kernels._replace(features=near))
    for name, x in run(inputs, "emulation", is_causal=True).items():
        assert x.isfinite().all(), name


def test_one_launch_forward_and_one_backward(emulation):
    before = emulation.launch_count()
    run(inputs_of(n=256, heads=1, batch=1), "emulation")
    assert emulation.launch_count() == before + 2


def test_an_empty_batch():
    inputs = inputs_of(n=5, batch=0)
    assert run(inputs, "emulation")["output"].shape == (0, 2, 5, 4)


@pytest.mark.parametrize("n", [*SIZES, 100, 129])
@pytest.mark.parametrize("backward", [False, True])
def test_shared_memory(emulation, n, backward):
    """Consumer cards hold 128 keys with their factor, sm_90 holds 256."""
    for limit in (99 * KB, 227 * KB):
        used, tile_rows, factor_in_shared = emulation.attention_cuda_layout(n, n, backward, limit)
        assert used <= limit and tile_rows >= 4
        assert factor_in_shared or (limit == 99 * KB and n > 129)
        assert n > 128 or used <= 99 * KB


@pytest.mark.parametrize("limit", [99, 163, 227])
def test_a_thousand_keys_fit_every_card(emulation, limit):
    for n in (257, 512, 1024):
        for backward in (False, True):
            used, tile_rows, _ = emulation.attention_cuda_layout(n, n, backward, limit * KB)
            assert used <= limit * KB and tile_rows >= 4


def test_refusals_name_what_is_wrong():
    x = torch.zeros(1, 1, 1025, 2, dtype=torch.float64)
    reasons = "; ".join(cuda.refusals(Arguments(x, x, x)))
    for part in ("cpu", "float64", "1025 keys"):
        assert part in reasons


def test_the_schema_is_pythons(emulation):
    expected = [(a.name, str(a.type)) for a in forward_op._schema.arguments][:-1]
    actual = emulation.attention_cuda.default._schema.arguments
    assert [(a.name, str(a.type)) for a in actual] == expected


def test_ready_made_relations_are_refused(emulation):
    x, square = torch.ones(1, 1, 3, 2), torch.eye(3)[None]
    spread = {"scale_query": x, "scale_key": x, "mode": "sample", "seed": torch.tensor(1)}
    a = Arguments(x, x, x, **spread, correlation=square, factor=square)
    with pytest.raises(RuntimeError, match="have no ready-made correlation"):
        emulation.attention_cuda(*a)


@pytest.mark.usefixtures("either_kernel")
def test_pivots_that_are_not_positive_are_set_as_in_the_reference():
    inputs = inputs_of(n=12, shape=False)  # whose K alpha the reference takes of K, not of L L'
    kernels = inputs["covariance"].kernels
    counts = kernels.cooccurrence.clone()
    counts[0] = 9.0 - 5.0 * torch.eye(12)  # correlations far beyond 1
    kernels = kernels._replace(cooccurrence=counts)
    inputs["covariance"] = inputs["covariance"]._replace(kernels=kernels)
    agrees(inputs, is_causal=True, check_counts=False)
    x = inputs_of(n=12, cooccurrence=False)
    features = x["covariance"].kernels.features.detach().clone()
    features[1, 3] = torch.nan
    x = replace(x, {"covariance.kernels.features": features})
    assert run(x, "emulation")["output"][1].isnan().all()


@pytest.mark.usefixtures("either_kernel")
def test_near_constant_tokens_are_finite():
    inputs = inputs_of(n=200, heads=1, batch=1, gate=False, cooccurrence=False)
    features = inputs["covariance"].kernels.features.detach()
    features = (features[:, :1] + 1e-4 * features).requires_grad_()
    inputs = replace(inputs, {"covariance.kernels.features": features})
    k = covariance.correlation(
        features.detach(), torch.tensor([2.0, 2.0]), torch.tensor([[0.0, 1.0, 0.0]]),
        None, None, None, 1e-8,
    )  # fmt: skip
    assert torch.linalg.cholesky_ex(k)[1].item()
    for x in run(inputs, "emulation", is_causal=True, jitter=1e-8).values():
        assert x.isfinite().all()
