"""The CUDA C++ backend."""

from typing import Any

import torch
from torch import Tensor

from rka_fast import native
from rka_fast.ops import limits
from rka_fast.ops.arguments import DIFFERENTIABLE, Arguments, fold
from rka_fast.ops.native.loading import operators, why_not

# Arguments with batch, head and row strides; the rest are small and become contiguous float32.
_STRIDED = ("query", "key", "value", "scale_query", "scale_key", "shape_query", "shape_key")
_SMALL = (
    "scale_bias", "features", "concentration", "mixture", "gate", "time_table", "correlation",
    "factor", "cooccurrence",
)  # fmt: skip


class Cuda:
    """float32, float16 and bfloat16, computed in float32; any mask; at most 1,024 keys."""

    name = "cuda"
    checks_calls = True  # csrc/check.h
    shares_draws = False

    def why_not(self, a: Arguments | None) -> list[str]:
        reasons = [*why_not("_cuda"), *_device_refusals()]
        return reasons if a is None else reasons + refusals(a)

    def forward(self, a: Arguments) -> Tensor:
        return forward(operators("_cuda"), a)

    def backward(self, grad: Tensor, needs: list[int], a: Arguments) -> list[Tensor]:
        return backward(operators("_cuda"), grad, needs, a)


@native.constant
def _device_refusals() -> tuple[str, ...]:
    if not torch.cuda.is_available():
        return ("there is no CUDA device",)
    devices = map(limits.device_refusal, range(torch.cuda.device_count()))
    return tuple(filter(None, devices))


def refusals(a: Arguments, device: str = "cuda", place: str = "on CUDA devices") -> list[str]:
    """Why the kernels cannot serve these inputs, on whatever device of this type."""
    return limits.refusals(a, device, place)


def forward(operators: Any, a: Arguments) -> Tensor:
    """The output by the operators of a library: the GPU's, or the emulation of the tests."""
    return operators.attention_cuda(*_prepare(a))


def backward(operators: Any, grad: Tensor, needs: list[int], a: Arguments) -> list[Tensor]:
    """Gradients of the arguments at the positions `needs`, in their dtypes."""
    grad = _unit_stride(grad.to(a.query.dtype))
    grads = operators.attention_cuda_backward(grad, needs, *_prepare(a))
    names = [DIFFERENTIABLE[i] for i in needs]
    return [fold(n, g, getattr(a, n)) for n, g in zip(names, grads, strict=True)]


def _prepare(a: Arguments) -> Arguments:
    """The arguments as the kernels read them; nothing is copied that is already so."""
    new = {n: _unit_stride(x) for n in _STRIDED if (x := getattr(a, n)) is not None}
    new |= {n: x.float().contiguous() for n in _SMALL if (x := getattr(a, n)) is not None}
    new |= {n: x.float() for n in ("bias", "prior") if (x := getattr(a, n)) is not None}
    whole = ("padding", "row_times", "key_times")
    new |= {n: x.contiguous() for n in whole if (x := getattr(a, n)) is not None}
    return a._replace(**new)


def _unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
