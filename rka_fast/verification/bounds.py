"""How far a backend may be from the reference in float64: outputs and every gradient.

The budget has three parts: twice what the reference itself loses in the same precision; what
roundings do that any order of summing makes, found by making them; and the rounding of a sum of
the result's own size. A sum of k terms is rounded by sqrt(k) eps, as independent roundings add up
(Higham and Mary, SIAM J. Sci. Comput. 2019), not by the k eps of the worst case.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from rka_fast.ops.api import kernelized_attention
from rka_fast.ops.arguments import Relations
from rka_fast.ops.reference import attention, covariance, philox

CHAIN = 4  # roundings between an input and what it enters, as they add up: about 16 of them
ROUNDED = 3  # evaluations with roundings made
MARGIN = 6.0  # of their root mean square, since three of them may all be small by chance
NOISE = 1e-6  # to which the normals of the backends agree


class Comparison(NamedTuple):
    """The largest error of a result and what it may be; `size` is the largest exact entry."""

    error: float
    budget: float
    size: float

    @property
    def ratio(self) -> float:
        if math.isnan(self.error):
            return math.inf
        return self.error / self.budget if self.error else 0.0

    def __str__(self) -> str:
        return f"error {self.error:.2e}, budget {self.budget:.2e}, size {self.size:.2e}"


def leaves(inputs: dict[str, Any]) -> dict[str, Tensor]:
    """The float tensors of `kernelized_attention`'s groups by dotted name, without the counts."""
    found = {}

    def visit(name: str, x: Any) -> None:
        if hasattr(x, "_fields"):
            for field, y in zip(x._fields, x, strict=True):
                visit(f"{name}.{field}", y)
        elif isinstance(x, Tensor) and x.is_floating_point() and not name.endswith("cooccurrence"):
            found[name] = x

    for name, x in inputs.items():
        visit(name, x)
    return found


def replaced(inputs: dict[str, Any], new: dict[str, Tensor]) -> dict[str, Any]:
    """The inputs with tensors exchanged by their dotted names."""

    def visit(name: str, x: Any) -> Any:
        if hasattr(x, "_fields"):
            return type(x)(*(visit(f"{name}.{f}", y) for f, y in zip(x._fields, x, strict=True)))
        return new.get(name, x)

    return {name: visit(name, x) for name, x in inputs.items()}


def evaluate(inputs: dict[str, Any], backend: str, **options: Any) -> dict[str, Tensor]:
    """The output and all gradients by name, for a fixed gradient of the output, on the CPU.

    The reference is many small operations, which threads only slow down, most of all on a machine
    that has other work.
    """
    threads = 1 if backend == "reference" else torch.get_num_threads()
    with torch.enable_grad(), _threads(threads):
        found = {n: x.detach().requires_grad_() for n, x in leaves(inputs).items()}
        output = kernelized_attention(**replaced(inputs, found), backend=backend, **options)
        rng = torch.Generator().manual_seed(1)
        grad = torch.randn(output.shape, generator=rng, dtype=torch.float64).to(output)
        grads = torch.autograd.grad(output, list(found.values()), grad, allow_unused=True)
    results = {"output": output.detach(), **dict(zip(found, grads, strict=True))}
    return {name: x.cpu() for name, x in results.items() if x is not None}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_double(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs in float64."""
    return replaced(inputs, {n: x.detach().double() for n, x in leaves(inputs).items()})


def compare(
    inputs: dict[str, Any], backend: str, exact_inputs: dict[str, Any] | None = None, **options: Any
) -> dict[str, Comparison]:
    """Output and gradients of a backend against the reference in float64 on the same inputs.

    exact_inputs: for the reference, where it is to be told the same otherwise (a mask); with an
    entry "options" for options that differ.
    """
    told = dict(exact_inputs or inputs)
    other = {**options, **told.pop("options", {})}
    return against(evaluate(inputs, backend, **options), told, **other)


def against(
    actual: dict[str, Tensor], inputs: dict[str, Any], **options: Any
) -> dict[str, Comparison]:
    """Results named as by `evaluate` against the reference in float64 on these inputs."""
    precise = in_double(inputs)
    eps = torch.finfo(torch.promote_types(inputs["value"].dtype, torch.float32)).eps
    exact = evaluate(precise, "reference", **options)
    lost = _lost(inputs, exact, **options)
    moved = movement(precise, exact, eps, **options)
    if missing := sorted(exact.keys() - actual.keys() - {"location.bias"}):
        raise AssertionError(f"there is no gradient of {', '.join(missing)}")
    terms = math.sqrt(max(inputs["value"].shape[2], inputs["location"].query.shape[2]))
    found = {}
    for name, x in exact.items():
        if name == "location.bias" and (name not in actual or actual[name].shape != x.shape):
            continue  # a mask was added into it
        if actual[name].shape != x.shape:
            shapes = f"{tuple(x.shape)}, got {tuple(actual[name].shape)}"
            raise AssertionError(f"{name}: expected shape {shapes}")
        if x.numel() == 0:
            continue
        size, own = largest(x), torch.finfo(actual[name].dtype)
        if size > own.max / 4:
            continue  # it overflows in the dtype of the result
        budget = 2 * lost[name] + moved[name] + (terms * eps + own.eps) * size
        found[name] = Comparison(largest(actual[name] - x), budget + own.tiny, size)
    return found


def movement(
    inputs: dict[str, Any], exact: dict[str, Tensor], eps: float, **options: Any
) -> dict[str, float]:
    """By how much roundings by eps, made on purpose, may move the results of these inputs."""
    rounded = [_rounded(inputs, eps, draw, **options) for draw in range(ROUNDED)]
    errors = {n: torch.tensor([largest(r[n] - x) for r in rounded]) for n, x in exact.items()}
    return {name: MARGIN * e.square().mean().sqrt().item() for name, e in errors.items()}


def largest(x: Tensor) -> float:
    """The largest absolute value, 0 of nothing."""
    return x.abs().max().item() if x.numel() else 0.0


def _lost(inputs: dict[str, Any], exact: dict[str, Tensor], **options: Any) -> dict[str, float]:
    """The largest error of the reference in the precision of the inputs.

    In float64, in which it is the measure itself, what it loses in float32 times the ratio of eps.
    """
    if inputs["value"].dtype != torch.float64:
        eager = evaluate(inputs, "reference", **options)
        return {name: largest(eager[name] - x) for name, x in exact.items()}
    low = replaced(inputs, {n: x.detach().float() for n, x in leaves(inputs).items()})
    lost = _lost(low, evaluate(in_double(low), "reference", **options), **options)
    return {name: x * 2.0**-29 for name, x in lost.items()}


def _rounded(inputs: dict[str, Any], eps: float, draw: int, **options: Any) -> dict[str, Tensor]:
    """The reference with roundings made in the inputs and on the way."""
    r = Roundings(eps, draw)
    moved = {n: r.once(x) for n, x in leaves(inputs).items()}
    with r.inside():
        return evaluate(replaced(inputs, moved), "reference", **options)


class Roundings:
    """Makes them in the reference: the same in forward and in backward, which repeats forward."""

    def __init__(self, eps: float, draw: int) -> None:
        self.eps, self.draw = eps, draw
        self.normals = NOISE if eps == torch.finfo(torch.float32).eps else CHAIN * eps

    def uniform(self, x: Tensor) -> Tensor:
        """Between -1/2 and 1/2, of the shape of x."""
        rng = torch.Generator().manual_seed(self.draw + x.numel())
        return (torch.rand(x.shape, generator=rng, dtype=torch.float64) - 0.5).to(x.device)

    def once(self, x: Tensor, terms: int = 1) -> Tensor:
        return x * (1.0 + CHAIN * self.eps * math.sqrt(terms) * self.uniform(x))

    def symmetric(self, x: Tensor, terms: int) -> Tensor:
        """Off the diagonal of a symmetric matrix, each entry a sum."""
        noise = self.uniform(x)
        change = CHAIN * self.eps * math.sqrt(terms) * (noise + noise.mT) / math.sqrt(2.0)
        return x * (1.0 + covariance.without_diagonal(change))

    def gram(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Entries are rounded by the size of what they sum, not by their own."""
        products, inverse = _gram(x)
        norms = products.diagonal(dim1=-2, dim2=-1).sqrt()
        noise = self.symmetric(norms[..., :, None] * norms[..., None, :], x.shape[-1])
        noise = noise - norms[..., :, None] * norms[..., None, :]
        return products + noise, inverse

    def correlation(self, a: Relations) -> Tensor:
        k = _correlation(a)
        return self.symmetric(k, k.shape[-1])  # as its factor's sums round it

    def correlation_backward(self, grad: Tensor, a: Relations) -> tuple[Tensor | None, ...]:
        found = _correlation_backward(self.once(grad, grad.shape[-1]), a)
        return tuple(None if x is None else self.once(x) for x in found)

    def softmax(self, *arguments: Any) -> Tensor:
        return self.once(_softmax(*arguments))

    def noise(self, *arguments: Any) -> Tensor:
        e = _normals(*arguments)
        return e + self.normals * self.uniform(e)

    @contextmanager
    def inside(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module, name, instead in (
                (covariance, "gram_and_norms", self.gram),
                (covariance, "correlation", self.correlation),
                (covariance, "correlation_backward", self.correlation_backward),
                (attention, "masked_softmax", self.softmax),
                (philox, "normals", self.noise),
            ):
                stack.enter_context(patch.object(module, name, instead))
            yield


_gram, _correlation = covariance.gram_and_norms, covariance.correlation
_correlation_backward, _softmax = covariance.correlation_backward, attention.masked_softmax
_normals = philox.normals
