"""The C++ backend: one fused pass per sequence on the CPU."""

from typing import Any

import torch
from torch import Tensor

from rka_fast import native
from rka_fast.ops.arguments import Arguments, Relations


class Cpp:
    """float32, float64 and, computed in float32, bfloat16 and float16; any mask and shape."""

    name = "cpp"
    checks_calls = True  # csrc/check.h
    shares_draws = True

    def why_not(self, a: Arguments | None) -> list[str]:
        reasons = list(native.why_not("_cpp"))
        if a is not None and a.query.device.type != "cpu":
            reasons.append(f"the inputs are on {a.query.device}, it computes on the CPU")
        return reasons

    def forward(self, a: Arguments) -> Tensor:
        return _operators().attention_cpp(*_with_float_counts(a))

    def backward(self, grad: Tensor, needs: list[int], a: Arguments) -> list[Tensor]:
        return _operators().attention_cpp_backward(grad, needs, *_with_float_counts(a))

    def relations(self, r: Relations) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(_operators().relations_cpp(*_with_float_counts(r.as_call())))

    def relations_backward(
        self,
        d_correlation: Tensor | None,
        d_factor: Tensor | None,
        needs: list[int],
        r: Relations,
    ) -> list[Tensor]:
        positions = [Arguments._fields.index(Relations._fields[i]) for i in needs]
        return _operators().relations_cpp_backward(
            d_correlation, d_factor, positions, *_with_float_counts(r.as_call())
        )


def _operators() -> Any:
    """The library's operators, once it is there.

    A compiled or saved graph may come from another process, so loading is not left to `why_not`.
    """
    if reasons := native.why_not("_cpp"):
        raise RuntimeError(f"backend 'cpp': {'; '.join(reasons)}")
    return torch.ops.rka_fast_native


def _with_float_counts(a: Arguments) -> Arguments:
    counts = a.cooccurrence
    if counts is not None and not (counts.is_floating_point() or counts.is_complex()):
        dtype = torch.promote_types(a.query.dtype, torch.float32)
        a = a._replace(cooccurrence=counts.to(dtype))
    return a
