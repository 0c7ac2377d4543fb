"""Random but seeded inputs of the operator."""

import torch

from rka_fast import Covariance, Kernels, Location, RelativeTimes, Shape
from rka_fast.verification import bounds

replace = bounds.replaced


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
    return {name: x for name, x in bounds.leaves(inputs).items() if x.requires_grad}


def fresh_leaves(inputs):
    """Copies of every float tensor but the counts, by name, that ask for their gradients."""
    return {n: x.detach().clone().requires_grad_() for n, x in bounds.leaves(inputs).items()}


def with_kernels(inputs, **changes):
    """The inputs with fields of their kernels exchanged."""
    covariance = inputs["covariance"]
    kernels = covariance.kernels._replace(**changes)
    return inputs | {"covariance": covariance._replace(kernels=kernels)}


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


def some_rows(first, last, n, **case):
    """Inputs and options of queries first .. last - 1 of n, causal, with times and a scale."""
    inputs = random_inputs(n=n, **{"dtype": torch.float32} | case)
    inputs = with_times(rows_of(inputs, first, last, n), case.get("heads", 2))
    return inputs, {"row_offset": first, "is_causal": True, "scale": -0.3}
