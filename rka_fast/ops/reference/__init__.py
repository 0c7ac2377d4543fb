"""The operator in plain PyTorch: the formulas to read; other backends are compared with it."""

from torch import Tensor

from rka_fast.ops.arguments import Arguments
from rka_fast.ops.reference import attention


class Reference:
    """Plain PyTorch: runs wherever PyTorch does."""

    name = "reference"
    checks_calls = False

    def why_not(self, a: Arguments | None) -> list[str]:
        return []

    def forward(self, a: Arguments) -> Tensor:
        return attention.attention(a)

    def backward(self, grad: Tensor, needs: list[int], a: Arguments) -> list[Tensor]:
        return attention.attention_backward(grad, needs, a)
