"""What is special to the CUDA program on the host: orders of threads, memory, launches.

The operator's own tests, tests/ops, run over it as over every backend.
"""

import pytest
import torch
from support.agreement import agrees
from support.cases import random_inputs
from support.emulation import EMULATIONS, KB, operators
from support.subjects import Subject

from rka_fast import kernelized_attention
from rka_fast.ops.arguments import Arguments
from rka_fast.ops.backends import BACKENDS
from rka_fast.ops.library import forward_op
from rka_fast.ops.native import cuda
from rka_fast.verification import bounds

pytestmark = pytest.mark.slow
SIZES = [1, 2, 15, 17, 50, 64, 65, 128, 200, 256]
EMULATION = Subject("emulation", dtype=torch.float32)


@pytest.fixture
def device(monkeypatch):
    """Emulates a device with so much shared memory in KB, multiprocessors and tensor cores."""
    backend = EMULATIONS["emulation"]
    monkeypatch.setitem(BACKENDS, "emulation", backend)

    def new(limit=227, multiprocessors=132, tensor_cores=True):
        monkeypatch.setattr(backend, "device", (limit * KB, multiprocessors, tensor_cores))

    return new


@pytest.fixture
def emulation(device):
    """The operators, with which the threads run in their own order again after the test."""
    yield operators()
    operators().set_order(0)
    operators().set_workspace(128 * KB * KB)


def inputs_of(**case):
    return random_inputs(**{"dtype": torch.float32} | case)


def run(inputs, **options):
    return bounds.evaluate(inputs, "emulation", **{"seed": 11} | options)


@pytest.mark.parametrize(("n", "limit"), [(70, 30), (200, 99), (300, 227), (400, 99)])
def test_factor_in_global_memory(emulation, device, n, limit):
    device(limit, tensor_cores=False)
    assert emulation.attention_cuda_layout(n, n, True, limit * KB)[2] == 0
    agrees(EMULATION, inputs_of(n=n, width=8, feature_width=24, heads=1, batch=1), is_causal=True)


@pytest.mark.parametrize("n", [33, 70])
@pytest.mark.parametrize("mode", ["sample", "mean"])
@pytest.mark.parametrize("limit", [227, 24])
def test_the_order_of_the_threads_does_not_matter(emulation, device, n, mode, limit):
    """A phase in which one thread reads what another writes would show here."""
    device(limit, tensor_cores=False)
    inputs = inputs_of(n=n, width=9, bias=True)
    options = {"mode": mode, "is_causal": True, "dropout_p": 0.1}
    first = run(inputs, **options)
    for order in (1, 2, 3):
        emulation.set_order(order)
        again = run(inputs, **options)
        for name, x in first.items():
            assert torch.equal(again[name], x), (name, order)


@pytest.mark.parametrize("n", [50, 57, 70])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mask": True},
        {"mode": "mean"},
        {"mode": "location", "activation": "tanh"},
        {"dtype": torch.float16},
    ],
    ids=str,
)
def test_the_order_of_the_threads_of_a_warp_does_not_matter(emulation, options, n):
    """Nor does it whether copies in the background come at once or when they are waited for."""
    if "mask" in options:
        mask = torch.rand((2, 2, n, n), generator=torch.Generator().manual_seed(2)) > 0.4
        options = {"mask": mask, "is_causal": False}
    dtype = options.pop("dtype", torch.float32)
    inputs = inputs_of(n=n, heads=2, width=9, bias=True, dtype=dtype)
    outputs = []
    for order in range(5):
        emulation.set_order(order)
        outputs.append(run(inputs, **{"is_causal": True, "dropout_p": 0.1} | options))
    for again in outputs[1:]:
        for name, x in outputs[0].items():
            assert torch.equal(again[name], x), name


@pytest.mark.parametrize("n", [50, 190])
def test_nor_does_it_where_squares_and_chunks_of_columns_take_turns_in_a_place(emulation, n):
    """Three squares of keys, two chunks of features, queries and values."""
    inputs = inputs_of(n=n, heads=1, batch=1, width=70, feature_width=70)
    outputs = []
    for order in range(2):
        emulation.set_order(order)
        with torch.no_grad():
            outputs.append(kernelized_attention(**inputs, backend="emulation", seed=11))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("n", [40, 150])
def test_the_number_of_blocks_does_not_matter(emulation, device, n):
    inputs = inputs_of(n=n, heads=3, width=8)
    outputs = []
    for multiprocessors in (1, 5, 1000):
        device(multiprocessors=multiprocessors)
        outputs.append(run(inputs))
    for again in outputs[1:]:
        for name, x in outputs[0].items():
            assert torch.equal(again[name], x), name


@pytest.mark.parametrize(
    ("launches", "case"),
    [
        (4, {"n": 1}),
        (4, {"n": 64, "width": 64}),
        (4, {"n": 3, "keys": 50, "cooccurrence": False}),
        (4, {"n": 8, "dtype": torch.bfloat16}),
        (4, {"n": 8, "dtype": torch.float16}),
        (4, {"n": 8, "width": 130, "value_width": 70}),
        (2, {"n": 8, "mode": "location"}),
        (2, {"n": 8, "mode": "mean", "shape": False}),
        (0, {"n": 65}),
        (0, {"n": 3, "keys": 65, "cooccurrence": False}),
    ],
)
def test_short_sequences_have_kernels_of_their_own(emulation, launches, case):
    """One forward, three backward: relations, heads and covariance; without a covariance one."""
    mode = {"mode": case.pop("mode", "sample")}
    before = emulation.strip_launch_count()
    run(inputs_of(**{"heads": 1, "batch": 1} | case), **mode)
    assert emulation.strip_launch_count() - before == launches


@pytest.mark.parametrize(
    ("blocks", "n", "limit", "tensor_cores"),
    [
        (2, 20, 227, False),
        (4, 20, 227, True),  # of 51 KB with what the system takes, of 228
        (3, 57, 227, True),  # of 74 KB
        (2, 57, 163, True),
        (1, 20, 99, True),
    ],
)
def test_scratch_memory_is_that_of_the_blocks_a_device_holds(
    emulation, device, blocks, n, limit, tensor_cores
):
    """And what a block leaves there for its next sequence has no influence."""
    inputs = inputs_of(n=n, batch=7, heads=1)
    device(limit, tensor_cores=tensor_cores)
    results = [run(inputs, is_causal=True)]
    of_all = emulation.scratch_bytes()
    device(limit, multiprocessors=1, tensor_cores=tensor_cores)
    results.append(run(inputs, is_causal=True))
    assert emulation.scratch_bytes() * 7 == of_all * blocks
    for name, x in results[0].items():
        assert torch.equal(results[1][name], x), name


@pytest.mark.parametrize(
    ("launches", "case"),
    [
        (2, {"n": 65}),
        (2, {"n": 8, "keys": 200, "cooccurrence": False}),
        (2, {"n": 200, "dtype": torch.bfloat16, "width": 70}),
        (0, {"n": 64}),
    ],
)
def test_long_sequences_have_kernels_of_their_own(emulation, launches, case):
    before = emulation.long_launch_count()
    run(inputs_of(**{"heads": 1, "batch": 1} | case))
    assert emulation.long_launch_count() - before == launches


def test_long_sequences_come_in_as_many_launches_as_the_workspace_makes_of_them(emulation):
    """And what a launch leaves there for the next has no influence."""
    mask = torch.rand((5, 2, 70, 70), generator=torch.Generator().manual_seed(2)) > 0.4
    inputs = inputs_of(n=70, batch=5, heads=2)
    results = []
    # Of 177 KB a sequence forward, and of 514 backward, where twice the memory may be taken.
    for kilobytes, launches in ((1024, 1 + 2), (400, 3 + 5), (1, 5 + 5)):
        emulation.set_workspace(kilobytes * KB)
        before = emulation.long_launch_count()
        results.append(run(inputs, mask=mask))
        assert emulation.long_launch_count() - before == launches
    for again in results[1:]:
        for name, x in results[0].items():
            assert torch.equal(again[name], x), name


@pytest.mark.parametrize(
    ("batch", "multiprocessors", "forward", "backward"), [(1, 132, 12, 4), (8, 2, 8, 6)]
)
def test_long_sequences_set_aside_what_the_blocks_at_a_time_need(
    emulation, device, batch, multiprocessors, forward, backward
):
    """Forward a block for each of 3 rows of squares of 4 heads, backward for each head, or as many
    as the device holds."""
    device(multiprocessors=multiprocessors)
    inputs = inputs_of(n=130, batch=batch, heads=4, width=4)
    row = 3 * 64 * 64 * 4
    with torch.no_grad():
        kernelized_attention(**inputs, backend="emulation", seed=11)
    assert emulation.scratch_bytes() == forward * 2 * row
    run(inputs)
    assert emulation.scratch_bytes() == backward * 8 * row


@pytest.mark.parametrize("case", [{"n": 50}, {"n": 64}, {"n": 130, "batch": 2}], ids=str)
@pytest.mark.parametrize("mode", ["sample", "mean"])
def test_three_products_in_tf32_make_up_for_one_in_float32(emulation, case, mode):
    """With full tiles: one product alone would lose 2^-11 of each number."""
    n = case["n"]
    inputs = inputs_of(**{"batch": 20, "heads": 1, "width": n, "feature_width": n} | case)
    agrees(EMULATION, inputs, is_causal=True, mode=mode)


def test_one_launch_forward_and_one_backward(emulation, device):
    device(tensor_cores=False)
    before = emulation.launch_count()
    run(inputs_of(n=256, heads=1, batch=1))
    assert emulation.launch_count() == before + 2


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
