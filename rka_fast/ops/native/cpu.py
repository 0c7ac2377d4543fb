"""The C++ backend: one fused pass per sequence on the CPU."""

import torch
from torch import Tensor

from rka_fast.ops import native
from rka_fast.ops.arguments import Arguments


class Cpp:
    """float32, float64 and, computed in float32, bfloat16 and float16; any mask and shape."""

    name = "cpp"

    def why_not(self, a: Arguments | None) -> list[str]:
        reasons = list(native.why_not("_cpu"))
        if a is not None and a.query.device.type != "cpu":
            reasons.append(f"the inputs are on {a.query.device}, it computes on the CPU")
        return reasons

    def forward(self, a: Arguments) -> Tensor:
        return torch.ops.rka_fast_native.attention_cpu(*_loaded(a))

    def backward(self, grad: Tensor, needs: list[int], a: Arguments) -> list[Tensor]:
        return torch.ops.rka_fast_native.attention_cpu_backward(grad, needs, *_loaded(a))


def _loaded(a: Arguments) -> Arguments:
    """The arguments with counts as floats, once the library is there.

    A compiled graph may come from another process, so loading is not left to `why_not`.
    """
    if reasons := native.why_not("_cpu"):
        raise RuntimeError(f"backend 'cpp': {'; '.join(reasons)}")
    if a.cooccurrence is not None and not a.cooccurrence.is_floating_point():
        a = a._replace(
            cooccurrence=a.cooccurrence.to(torch.promote_types(a.query.dtype, torch.float32))
        )
    return a
