"""The C++ backend: one fused pass per sequence on the CPU."""

import torch
from torch import Tensor

from rka_fast.ops.arguments import Arguments, Relations
from rka_fast.ops.native.loading import operators, why_not


class Cpp:
    """float32, float64 and, computed in float32, bfloat16 and float16; any mask and shape."""

    name = "cpp"
    checks_calls = True  # csrc/check.h
    shares_draws = True

    def why_not(self, a: Arguments | None) -> list[str]:
        reasons = list(why_not("_cpp"))
        if a is not None and a.query.device.type != "cpu":
            reasons.append(f"the inputs are on {a.query.device}, it computes on the CPU")
        return reasons

    def forward(self, a: Arguments) -> Tensor:
        return operators("_cpp").attention_cpp(*_with_float_counts(a))

    def backward(self, grad: Tensor, needs: list[int], a: Arguments) -> list[Tensor]:
        return operators("_cpp").attention_cpp_backward(grad, needs, *_with_float_counts(a))

    def relations(self, r: Relations) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(operators("_cpp").relations_cpp(*_with_float_counts(r.as_call())))

    def relations_backward(
        self,
        d_correlation: Tensor | None,
        d_factor: Tensor | None,
        needs: list[int],
        r: Relations,
    ) -> list[Tensor]:
        positions = [Arguments._fields.index(Relations._fields[i]) for i in needs]
        return operators("_cpp").relations_cpp_backward(
            d_correlation, d_factor, positions, *_with_float_counts(r.as_call())
        )


def _with_float_counts(a: Arguments) -> Arguments:
    counts = a.cooccurrence
    if counts is not None and not (counts.is_floating_point() or counts.is_complex()):
        dtype = torch.promote_types(a.query.dtype, torch.float32)
        a = a._replace(cooccurrence=counts.to(dtype))
    return a
