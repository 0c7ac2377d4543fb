"""The operator in plain PyTorch: the formulas to read; other backends are compared with it."""

from torch import Tensor

from rka_fast.ops.arguments import Arguments, Relations
from rka_fast.ops.reference import attention, relations


class Reference:
    """Plain PyTorch: runs wherever PyTorch does."""

    name = "reference"
    checks_calls = False
    shares_draws = False

    def why_not(self, a: Arguments | None) -> list[str]:
        return []

    def forward(self, a: Arguments) -> Tensor:
        return attention.attention(a)

    def backward(self, grad: Tensor, needs: list[int], a: Arguments) -> list[Tensor]:
        return attention.attention_backward(grad, needs, a)

    def relations(self, r: Relations) -> tuple[Tensor, Tensor, Tensor]:
        return relations.relations(r)

    def relations_backward(
        self,
        d_correlation: Tensor | None,
        d_factor: Tensor | None,
        needs: list[int],
        r: Relations,
    ) -> list[Tensor]:
        return relations.relations_backward(d_correlation, d_factor, needs, r)
