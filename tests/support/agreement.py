"""How far results may be from what they are compared with, and what is said where they are not.

The one measure is rka_fast.verification.bounds: a budget for each result of each call, made of
what the reference loses and of roundings put into it.
"""

import torch
from support import literal
from support.cases import differentiable, replace
from support.subjects import Subject

from rka_fast.verification import bounds

SEED = 11


def agrees(backend: Subject, inputs, exact_inputs=None, **options):
    """Output and gradients are within their budgets of the reference in float64."""
    calls = (backend.moved(x) for x in (inputs, exact_inputs, {"seed": SEED} | options))
    inputs, exact_inputs, options = calls
    kept(bounds.compare(inputs, backend.name, exact_inputs, **options))


def kept(found: dict[str, bounds.Comparison]):
    beyond = [f"{name}: {x}" for name, x in found.items() if x.ratio > 1]
    assert found and not beyond, "; ".join(beyond)


def close(actual, expected, budget):
    """The largest difference is within a budget for numbers of size 1, grown by their size."""
    actual, expected = (torch.as_tensor(x).detach().double() for x in (actual, expected))
    size = max(bounds.largest(expected), 1.0)
    kept({"result": bounds.Comparison(bounds.largest(actual - expected), budget * size, size)})


def equals_literal(backend: Subject, inputs, allowed, present, options, **told):
    """The output of a call is that of the loops: `options` of both, `told` by masks or numbers.

    Normals of the loops are of uniforms in float32, hence exact to `bounds.NOISE`; the other modes
    have none.
    """
    names = {"dropout_p": "dropout"}
    output = backend(**inputs, **options, **told)
    options = {"mode": "sample", "activation": "leaky_relu"} | options
    loops = {names.get(name, name): x for name, x in options.items()}
    expected = literal.evaluate(inputs, allowed, present, **loops)
    noise = bounds.NOISE if options["mode"] == "sample" else 0.0
    close(output, expected, noise + backend.tolerance["atol"])


def check_gradients(backend: Subject, inputs, **options):
    """Of all inputs that ask for one: finite differences, or, where the backend has no float64,
    agreement with the reference, of which finite differences are tested."""
    if backend.dtype != torch.float64:
        agrees(backend, backend.moved(inputs), **options)
        return
    leaves = differentiable(inputs)

    def call(*tensors):
        changed = replace(inputs, dict(zip(leaves, tensors, strict=True)))
        return backend(**changed, **{"seed": SEED} | options)

    assert torch.autograd.gradcheck(call, tuple(leaves.values()), atol=1e-6)
