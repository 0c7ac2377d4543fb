"""Random but seeded inputs of the operator, and its literal evaluation one row at a time."""

import math
from typing import NamedTuple

import numpy as np
import torch

from rka_fast import Covariance, Kernels, Location, RelativeTimes, Shape, kernelized_attention

KEY_BUMP = (0x9E3779B9, 0xBB67AE85)
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
ACTIVATIONS = {
    "identity": lambda x: x,
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "relu": lambda x: max(x, 0.0),
    "tanh": math.tanh,
}


def random_inputs(
    batch=2,
    heads=2,
    n=6,
    width=4,
    keys=None,
    value_width=None,
    feature_width=5,
    dtype=torch.float64,
    cooccurrence=True,
    gate=True,
    shape=True,
    spread=True,
    bias=False,
    seed=0,
    requires_grad=False,
):
    """Keyword arguments of `kernelized_attention`, all drawn from one seed."""
    rng = torch.Generator().manual_seed(seed)
    keys = keys or n

    def new(*size):
        x = torch.randn(*size, generator=rng, dtype=torch.float64).to(dtype)
        return x.requires_grad_(requires_grad)

    def pair():
        return new(batch, heads, n, width), new(batch, heads, keys, width)

    inputs = {
        "location": Location(*pair(), new(batch, 1, n, keys) if bias else None),
        "value": new(batch, heads, keys, value_width or width),
    }
    if not spread:
        return inputs
    exact = torch.promote_types(dtype, torch.float32)
    incidence = torch.randint(0, 2, (batch, keys, 7), generator=rng).to(exact)
    mixture = torch.rand(batch, 3, generator=rng, dtype=torch.float64).add(0.1).to(exact)
    kernels = Kernels(
        new(batch, keys, feature_width),
        torch.tensor([1.7, 0.6], dtype=exact, requires_grad=requires_grad),
        mixture.requires_grad_(requires_grad),
        new(batch, feature_width) if gate else None,
        incidence @ incidence.mT if cooccurrence else None,
    )
    inputs["covariance"] = Covariance(*pair(), kernels, new(heads))
    if shape:
        inputs["shape"] = Shape(*pair())
    return inputs


def differentiable(inputs):
    """The leaves of `random_inputs(requires_grad=True)` by name."""
    leaves = {}

    def visit(name, x):
        if isinstance(x, torch.Tensor) and x.requires_grad:
            leaves[name] = x
        elif isinstance(x, tuple):
            for field, y in zip(x._fields, x, strict=True):
                visit(f"{name}.{field}", y)

    for name, x in inputs.items():
        visit(name, x)
    return leaves


def replace(inputs, leaves):
    """The inputs with the leaves named as in `differentiable` exchanged."""

    def visit(name, x):
        if isinstance(x, tuple):
            return type(x)(*(visit(f"{name}.{f}", y) for f, y in zip(x._fields, x, strict=True)))
        return leaves.get(name, x)

    return {name: visit(name, x) for name, x in inputs.items()}


def philox(key, counter):
    """Philox4x32-10 on Python's integers."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0, p1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 % 2**32, (p0 >> 32) ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + KEY_BUMP[0]) % 2**32, (k1 + KEY_BUMP[1]) % 2**32
    return c0, c1, c2, c3


def uniform(word):
    signed = word - 2**32 if word >= 2**31 else word
    signed = -signed - 1 if signed < 0 else signed
    return float(np.float32(signed) * np.float32(4.6566127342e-10))


def normal(seed, column, row, sequence_head, stream):
    words = philox((seed % 2**32, seed >> 32), (column // 4, row, sequence_head, stream))
    first, second = words[column % 4 // 2 * 2 : column % 4 // 2 * 2 + 2]
    radius = math.sqrt(-2 * math.log(max(1e-7, uniform(first))))
    angle = 2 * math.pi * uniform(second)
    return radius * (math.sin(angle) if column % 2 else math.cos(angle))


def literal(
    inputs,
    allowed,
    present,
    mode,
    activation,
    seed,
    dropout=0.0,
    jitter=1e-4,
    scale=None,
    row_offset=0,
):
    """The operator in float64 loops: allowed (B, H, n, m), present (B, m) boolean arrays."""
    x = {
        name: leaf.detach().double().numpy()
        for name, leaf in differentiable(_with_grad(inputs)).items()
    }
    counts = None
    if "covariance" in inputs and inputs["covariance"].kernels.cooccurrence is not None:
        counts = inputs["covariance"].kernels.cooccurrence.double().numpy()
    query = x["location.query"]
    batch, heads, rows, width = query.shape
    m = x["value"].shape[2]
    f = ACTIVATIONS[activation]
    output = np.zeros((batch, heads, rows, x["value"].shape[3]))
    for b in range(batch):
        k = lower = None
        if mode != "location":
            k = _correlation(x, counts, b, present[b], jitter)
            lower = factor(k, jitter)
        for h in range(heads):
            for t in range(rows):
                seen = np.flatnonzero(allowed[b, h, t]).tolist()
                if len(seen) == 0:
                    continue
                z = np.zeros(m)
                for j in seen:
                    factor_of_scores = 1 / math.sqrt(width) if scale is None else scale
                    z[j] = f(query[b, h, t] @ x["location.key"][b, h, j] * factor_of_scores)
                    if "location.times.table" in x:
                        table = x["location.times.table"]
                        z[j] += table[h % len(table), bucket(inputs["location"].times, b, t, j)]
                    if "location.bias" in x:
                        bias = np.broadcast_to(x["location.bias"], (batch, heads, rows, m))
                        z[j] += bias[b, h, t, j]
                if mode != "location":
                    s = _standard(
                        x, counts, b, h, t, seen, k, lower, mode, f, seed, heads, row_offset
                    )
                    for j in seen:
                        raw = x["covariance.query"][b, h, t] @ x["covariance.key"][b, h, j]
                        raw = raw / math.sqrt(x["covariance.query"].shape[-1])
                        if "covariance.bias" in x:
                            raw += x["covariance.bias"][h]
                        z[j] += math.log1p(math.exp(raw)) * s[j]
                weights = np.exp(z[seen] - z[seen].max())
                weights /= weights.sum()
                for w, j in zip(weights, seen, strict=True):
                    if dropout:
                        counter = (j // 4, t + row_offset, b * heads + h, 2)
                        words = philox((seed % 2**32, seed >> 32), counter)
                        w *= (uniform(words[j % 4]) >= dropout) / (1 - dropout)
                    output[b, h, t] += w * x["value"][b, h, j]
    return output


def factor(k, jitter):
    """Lower Cholesky factor, entry by entry; a pivot that is not positive is set, its column ends.

    NumPy's where all pivots are positive.
    """
    n = len(k)
    lower = np.zeros((n, n))
    for j in range(n):
        pivot = k[j, j] - lower[j, :j] @ lower[j, :j]
        if pivot <= 0:
            lower[j, j] = math.sqrt(jitter / (1 + jitter))
            continue
        lower[j, j] = math.sqrt(pivot)
        for i in range(j + 1, n):
            lower[i, j] = (k[i, j] - lower[i, :j] @ lower[j, :j]) / lower[j, j]
    return lower


def _with_grad(inputs):
    def visit(x):
        if isinstance(x, torch.Tensor):
            return x.detach().clone().requires_grad_() if x.is_floating_point() else x
        if isinstance(x, tuple):
            return type(x)(*(visit(y) for y in x))
        return x

    return {name: visit(x) for name, x in inputs.items()}


def _cosine(a, b):
    norm = math.sqrt((a @ a) * (b @ b))
    return a @ b / norm if norm > 0 else 0.0


def _correlation(x, counts, b, present, jitter):
    features = x["covariance.kernels.features"][b]
    gamma = x["covariance.kernels.concentration"]
    r = x["covariance.kernels.mixture"][b].copy()
    gate = x.get("covariance.kernels.gate")
    r[0] *= counts is not None
    r[2] *= gate is not None
    r /= r.sum()
    m = len(features)
    k = np.eye(m)
    for i in range(m):
        for j in range(m):
            if i == j or not (present[i] and present[j]):
                continue
            value = r[1] * math.exp(2 * gamma[0] * (_cosine(features[i], features[j]) - 1))
            if counts is not None and counts[b, i, i] * counts[b, j, j] > 0:
                c = counts[b]
                value += r[0] * c[i, j] / math.sqrt(c[i, i] * c[j, j])
            if gate is not None:
                cosine = _cosine(features[i] * gate[b], features[j] * gate[b])
                value += r[2] * math.exp(2 * gamma[1] * (cosine - 1))
            k[i, j] = value / (1 + jitter)
    return k


def prior(counts, t, seen):
    """alpha-hat over its maximum for one row, from the sum over allowed k of c_jk c_kt."""
    m = len(counts)
    c = counts.astype(float).copy()
    for k in seen:
        others = [counts[k, l] for l in seen if l != k]  # noqa: E741
        c[k, k] = sum(others) / max(len(others), 1)
    row = np.zeros(m)
    for j in seen:
        row[j] = sum(c[j, k] * c[k, t] for k in seen)
    return row / row.max() if row.max() > 0 else np.zeros(m)


def bucket(times, b, t, j):
    """Of the seconds between a row and a key, from the logarithm itself."""
    seconds = abs(int(times.rows[b, t]) - int(times.keys[b, j]))
    return min(math.floor(math.log(max(1, seconds)) / 0.301), 128)


def _standard(x, counts, b, h, t, seen, k, lower, mode, f, seed, heads, row_offset):
    m = len(k)
    alpha = np.zeros(m)
    if "shape.query" in x:
        for j in seen:
            raw = x["shape.query"][b, h, t] @ x["shape.key"][b, h, j]
            alpha[j] = f(raw / math.sqrt(x["shape.query"].shape[-1]))
        if counts is not None:
            alpha *= prior(counts[b], t + row_offset, seen)
    delta = k @ alpha / math.sqrt(1 + alpha @ k @ alpha)
    if mode == "mean":
        return delta * math.sqrt(2 / math.pi)
    row = t + row_offset
    noise = np.array([normal(seed, j, row, b * heads + h, 0) for j in range(m)])
    logits = lower @ noise
    skew = normal(seed, 0, row, b * heads + h, 1)
    half = (alpha @ logits + skew) / math.sqrt(1 + alpha @ k @ alpha)
    if "shape.query" not in x:
        return logits
    return (logits - delta * half) + delta * abs(half)


class Subject(NamedTuple):
    """A backend under test, called like `kernelized_attention` with tensors on the CPU.

    It computes on `device`; float64 is rounded to `dtype` and the output is float64 again, so
    that gradients are too. Other dtypes stay what they are.
    """

    name: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float64

    def __call__(self, location, value, covariance=None, shape=None, **options):
        moved = self.moved(dict(options, location=location, covariance=covariance, shape=shape))
        output = kernelized_attention(value=self.moved(value), backend=self.name, **moved)
        return output.to("cpu", value.dtype)

    def moved(self, x):
        """x, or all in it, as the backend gets it."""
        if isinstance(x, dict):
            return {name: self.moved(y) for name, y in x.items()}
        if isinstance(x, tuple):
            return type(x)(*map(self.moved, x))
        if not isinstance(x, torch.Tensor):
            return x
        return x.to(self.device, self.dtype if x.dtype == torch.float64 else x.dtype)

    @property
    def tolerance(self):
        """Of results in float64: its rounding, or float32's grown by the conditioning of K.

        Rounding K by eps moves its factor by up to eps n over its least eigenvalue, which is
        above .05 in `random_inputs` of 4 to 9 items.
        """
        grown = {"rtol": 0, "atol": 9 * torch.finfo(torch.float32).eps / 0.05}
        return {"rtol": 1e-12, "atol": 1e-12} if self.dtype == torch.float64 else grown


EAGER = Subject("reference", dtype=torch.float32)
EXACT = Subject("reference")


def check_gradients(backend, call, inputs):
    """Of call(backend, *inputs): finite differences, or where the backend has no float64 the
    reference's gradients in float64, up to twice the error of the reference in float32."""
    if backend.dtype == torch.float64:
        assert torch.autograd.gradcheck(lambda *x: call(backend, *x), inputs, atol=1e-6)
        return
    results = [call(subject, *inputs) for subject in (backend, EAGER, EXACT)]
    grad = torch.randn_like(results[0])
    options = {"allow_unused": True, "materialize_grads": True}
    grads = [torch.autograd.grad(x, inputs, grad, **options) for x in results]
    for actual, eager, exact in zip(*grads, strict=True):
        assert largest(actual - exact) <= allowed_error(largest(eager - exact), exact)


def run(inputs, backend, **options):
    """The output and all gradients by name, for a fixed gradient of the output."""
    leaves = differentiable(inputs)
    spread = (inputs.get("covariance"), inputs.get("shape"))
    output = kernelized_attention(
        inputs["location"], inputs["value"], *spread, backend=backend, seed=11, **options
    )
    rng = torch.Generator().manual_seed(1)
    grad = torch.randn(output.shape, generator=rng, dtype=torch.float64).to(output.dtype)
    grads = torch.autograd.grad(output, list(leaves.values()), grad, allow_unused=True)
    return {"output": output.detach()} | {
        n: g for n, g in zip(leaves, grads, strict=True) if g is not None
    }


def with_times(inputs, heads, seed=3):
    """Times from the same second to millions of years apart, and a table of its own per head."""
    rng = torch.Generator().manual_seed(seed)
    location = inputs["location"]
    batch, rows, keys = location.query.shape[0], location.query.shape[2], location.key.shape[2]
    apart = torch.logspace(0, 14, rows + keys, dtype=torch.float64).long() - 1
    order = torch.rand(batch, rows + keys, generator=rng).argsort(-1)
    stamps = 1_700_000_000 - apart[order]
    stamps[:, 1:2] = stamps[:, rows : rows + 1]
    exact = torch.promote_types(location.query.dtype, torch.float32)
    table = torch.randn(heads, 129, generator=rng, dtype=torch.float64).to(exact)
    table.requires_grad_(location.query.requires_grad)
    given = RelativeTimes(stamps[:, :rows], stamps[:, rows:], table)
    return inputs | {"location": location._replace(times=given)}


def rows_of(inputs, first, last, keys):
    """The inputs of queries first .. last - 1 among the keys 0 .. keys - 1."""

    def rows(x):
        return x[:, :, first:last]

    location, covariance, shape = inputs["location"], inputs["covariance"], inputs["shape"]
    kernels = covariance.kernels
    return {
        "location": location._replace(query=rows(location.query), key=location.key[:, :, :keys]),
        "value": inputs["value"][:, :, :keys],
        "covariance": covariance._replace(
            query=rows(covariance.query),
            key=covariance.key[:, :, :keys],
            kernels=kernels._replace(
                features=kernels.features[:, :keys],
                cooccurrence=kernels.cooccurrence[:, :keys, :keys],
            ),
        ),
        "shape": shape._replace(query=rows(shape.query), key=shape.key[:, :, :keys]),
    }


def leaves_of(inputs):
    """The inputs with leaves in the place of what requires a gradient."""
    grown = differentiable(inputs).items()
    return replace(inputs, {n: x.detach().clone().requires_grad_() for n, x in grown})


def some_rows(first, last, n, **case):
    """Inputs and options of queries first .. last - 1 of n, causal, with times and a scale."""
    inputs = random_inputs(n=n, **{"dtype": torch.float32, "requires_grad": True} | case)
    inputs = leaves_of(with_times(rows_of(inputs, first, last, n), case.get("heads", 2)))
    return inputs, {"row_offset": first, "is_causal": True, "scale": -0.3}


def in_double(inputs):
    leaves = differentiable(inputs)
    return replace(inputs, {n: x.detach().double().requires_grad_() for n, x in leaves.items()})


def in_order(inputs, order):
    """The same inputs with the columns of features and gate in another order."""
    kernels = inputs["covariance"].kernels
    leaves = {"features": kernels.features, "gate": kernels.gate}
    moved = {n: x.detach()[..., list(order)].requires_grad_() for n, x in leaves.items()}
    return replace(inputs, {f"covariance.kernels.{n}": x for n, x in moved.items()})


def agrees(backend, inputs, orders=(), **options):
    """Output and gradients in float32 against the reference in float64 on the same inputs.

    Where sums cancel, what the reference in float32 loses hangs on their order. `orders` of the
    features' columns give it more of them, and its largest error counts.
    """
    actual = run(inputs, backend, **options)
    expected = run(in_double(inputs), "reference", **options)
    errors = [reference_errors(inputs, expected, **options)]
    for moved in (in_order(inputs, order) for order in orders):
        exact = run(in_double(moved), "reference", **options)
        errors.append(reference_errors(moved, exact, **options))
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        allowed = allowed_error(max(e[name] for e in errors), x)
        assert largest(actual[name] - x) <= allowed, name


def reference_errors(inputs, exact, **options):
    """Of the reference in float32, by name."""
    eager = run(inputs, "reference", **options)
    return {name: largest(eager[name] - x) for name, x in exact.items()}


def allowed_error(of_reference, exact):
    """At most twice the error of the reference in float32, plus rounding."""
    return 2 * of_reference + 3e-5 * max(largest(exact), 1.0)


def largest(x):
    return x.abs().max().item() if x.numel() else 0.0
