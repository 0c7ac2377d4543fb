"""Row offset, scale and relative times, on every backend that has them."""

import math
from bisect import bisect
from decimal import Decimal

import numpy as np
import pytest
import torch
from support import cases
from support.agreement import check_gradients, equals_literal
from support.cases import rows_of, with_times
from support.slow import slow

from rka_fast import Location, RelativeTimes, kernelized_attention
from rka_fast.ops.arguments import MODES, time_edges
from rka_fast.ops.reference import times

N = 9


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("first", "last", "keys"), [(0, 1, 1), (4, 5, 5), (8, 9, 9), (3, 6, 9)])
def test_rows_of_a_sequence_draw_what_the_whole_draws(backend, mode, first, last, keys):
    """As in decoding: the last queries, and with them the keys up to the last or more."""
    inputs = cases.random_inputs(n=N)
    padding = torch.zeros(2, N, dtype=torch.bool)
    padding[1, :4] = True
    options = {"is_causal": True, "mode": mode, "seed": 7, "dropout_p": 0.2}
    whole = backend(**inputs, key_padding_mask=padding, **options)
    part = backend(
        **rows_of(inputs, first, last, keys), key_padding_mask=padding[:, :keys],
        row_offset=first, **options,
    )  # fmt: skip
    torch.testing.assert_close(part, whole[:, :, first:last], **backend.tolerance)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_an_offset_equals_the_literal_evaluation(backend, mode, causal):
    inputs = rows_of(cases.random_inputs(n=N), 2, 5, 7)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[0, :3] = padding[1, 6:] = True
    allowed = np.tril(np.ones((3, 7), bool), 2) if causal else np.ones((3, 7), bool)
    allowed = allowed & ~padding.numpy()[:, None, None, :] & np.ones((2, 2, 3, 7), bool)
    options = {"mode": mode, "seed": 5, "dropout_p": 0.2, "row_offset": 2}
    told = {"key_padding_mask": padding, "is_causal": causal}
    equals_literal(backend, inputs, allowed, ~padding.numpy(), options, **told)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_scale_and_times_equal_the_literal_evaluation(backend, mode, heads):
    inputs = with_times(cases.random_inputs(bias=heads == 2), heads)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[0, :2] = padding[1, 5:] = True
    allowed = np.tril(np.ones((6, 6), bool)) & ~padding.numpy()[:, None, None, :]
    allowed = allowed & np.ones((2, 2, 6, 6), bool)
    options = {"mode": mode, "seed": 5, "scale": 0.2}
    told = {"key_padding_mask": padding, "is_causal": True}
    equals_literal(backend, inputs, allowed, ~padding.numpy(), options, **told)


@pytest.mark.parametrize("heads", [1, slow(2)])
@pytest.mark.parametrize("mode", [mode if mode == "sample" else slow(mode) for mode in MODES])
def test_their_gradients(backend, mode, heads):
    inputs = rows_of(cases.random_inputs(n=5, batch=2, requires_grad=True), 1, 4, 5)
    inputs = with_times(inputs, heads)
    inputs = cases.replace(inputs, cases.fresh_leaves(inputs))
    check_gradients(backend, inputs, is_causal=True, mode=mode, scale=0.4, row_offset=1)


def test_a_scale_is_that_of_scaled_dot_product_attention(backend):
    query, key, value = torch.randn(3, 2, 2, 6, 4, dtype=torch.float64)
    location = cases.random_inputs(spread=False)["location"]._replace(query=query, key=key)
    options = {"mode": "location", "activation": "identity", "scale": 0.9}
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=0.9)
    torch.testing.assert_close(backend(location, value, **options), expected, **backend.tolerance)


def test_edges_are_where_the_logarithm_steps():
    """Every edge of up to 277,000 years and the seconds beside it, against exact logarithms."""
    edges = time_edges()
    assert len(edges) == 129 and edges[:6] == (1, 2, 2, 3, 4, 5)
    seconds = sorted({s for edge in edges[:100] for s in (edge - 1, edge, edge + 1)})
    stamps = torch.tensor([seconds])
    actual = times.buckets(torch.zeros(1, 1, dtype=torch.int64), stamps)[0, 0]
    expected = [math.floor(Decimal(max(1, s)).ln() / Decimal("0.301")) for s in seconds]
    assert actual.tolist() == expected
    far = times.buckets(torch.zeros(1, 1, dtype=torch.int64), torch.tensor([[2**62]]))
    assert far.item() == 128


LEAST, MOST = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
STAMPS = {
    "edges": [[0, *(edge + s for edge in time_edges()[k : k + 10] for s in (-1, 0, 1))]
              for k in range(0, 130, 10)],
    "before": [[-1, -2, -3, -61, -3600, -(10**9), -(10**12)]],
    "ends of int64": [[LEAST, LEAST + 1, -(2**62), -1, 0, 1, 2**62, MOST - 1, MOST]],
}  # fmt: skip


@pytest.mark.parametrize("case", STAMPS)
def test_every_backend_has_the_bucket_of_every_difference(backend, case):
    """Weights and the gradient of the table, from buckets by Python's whole numbers."""
    keys = [(x + [0] * 31)[: max(map(len, STAMPS[case]))] for x in STAMPS[case]]
    rows = [x if case == "ends of int64" else [0, 1] for x in keys]
    bucket = np.array([
        [[bisect(time_edges(), max(1, abs(i - j))) - 1 for j in y] for i in x]
        for x, y in zip(rows, keys, strict=True)
    ])  # fmt: skip
    batch, n, m = bucket.shape
    rng = np.random.default_rng(1)
    table, grad = rng.uniform(-1, 1, 129), rng.uniform(-1, 1, bucket.shape)
    weights = np.exp(table[bucket])
    weights /= weights.sum(-1, keepdims=True)
    d_table = np.zeros(129)
    np.add.at(d_table, bucket, weights * (grad - (weights * grad).sum(-1, keepdims=True)))

    leaf = torch.tensor(table[None], requires_grad=True)
    given = RelativeTimes(torch.tensor(rows), torch.tensor(keys), leaf)
    x = torch.zeros(batch, 1, m, 1, dtype=torch.float64)
    location = Location(x[:, :, :n], x, times=given)
    value = torch.eye(m, dtype=torch.float64).expand(batch, 1, m, m)
    output = backend(location, value, mode="location", activation="identity")
    output.backward(torch.tensor(grad[:, None]))
    torch.testing.assert_close(output[:, 0], torch.tensor(weights), **backend.tolerance)
    torch.testing.assert_close(leaf.grad[0], torch.tensor(d_table), **backend.tolerance)


X = cases.random_inputs(n=N, dtype=torch.float32)
GIVEN = with_times(X, 2)["location"].times
REFUSED = {
    "offset": ({"row_offset": 1}, ("row_offset", "at most 0", "got 1")),
    "negative": ({"row_offset": -1}, ("row_offset", "0 or more", "-1")),
    "offset kind": ({"row_offset": 1.0}, ("row_offset", "int", "float")),
    "scale kind": ({"scale": "2"}, ("scale", "number", "str")),
    "scale": ({"scale": float("inf")}, ("scale", "finite", "inf")),
    "times": ({"times": 3}, ("location.times", "RelativeTimes", "int")),
    "rows": (
        {"times": GIVEN._replace(rows=GIVEN.rows[:, 1:])}, ("location.times.rows", "(2, 9)"),
    ),
    "keys": ({"times": GIVEN._replace(keys=GIVEN.keys[:1])}, ("location.times.keys", "(2, 9)")),
    "seconds": ({"times": GIVEN._replace(keys=GIVEN.keys.float())}, ("times.keys", "int64")),
    "buckets": ({"times": GIVEN._replace(table=GIVEN.table[:, 1:])}, ("times.table", "(2, 129)")),
    "heads": ({"times": GIVEN._replace(table=torch.ones(3, 129))}, ("times.table", "(2, 129)")),
    "no table": ({"times": GIVEN._replace(table=None)}, ("location.times.table", "tensor", "None")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_the_message(case):
    changes, expected = REFUSED[case]
    changes = dict(changes)
    location = X["location"]._replace(times=changes.pop("times", None))
    with pytest.raises((ValueError, TypeError)) as error:
        kernelized_attention(**{**X, "location": location}, seed=1, **changes)
    for part in expected:
        assert part in str(error.value)
