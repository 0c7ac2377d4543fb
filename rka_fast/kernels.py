"""Learned parameters of the three relation kernels."""

import math
from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rka_fast.errors import expect
from rka_fast.ops.api import DEFAULT_CONCENTRATION
from rka_fast.ops.groups import Kernels


class RelationKernels(nn.Module):
    """Mixture r, concentration gamma and user gate g of K = r1 k_c + r2 k_i + r3 k_u.

    r = softmax(u W_u + b_u) is the paper's; gamma > 0 and g = 2 sigmoid(u W_g + b_g) are ours.
    Without `user_dim` there is no user kernel and r is one learned mixture.
    """

    def __init__(
        self, width: int, user_dim: int | None = None, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        new: dict[str, Any] = {"device": device, "dtype": dtype}
        self.log_concentration = nn.Parameter(torch.empty(2, **new))
        self.mixture_bias = nn.Parameter(torch.empty(3, **new))
        self.user_dim = user_dim
        if user_dim is not None:
            expect("user_dim", user_dim, Integral, "an int or None")
            if user_dim < 1:
                raise ValueError(f"user_dim: expected 1 or more, got {user_dim}")
            self.mixture_weight = nn.Parameter(torch.empty(3, user_dim, **new))
            self.gate = nn.Linear(user_dim, width, **new)
            # Starts near g = 1: the user kernel near the item's.
            initialised_by(self.gate, zero_bias)
            zero_bias(self.gate)
        self._reset_own()

    def reset_parameters(self) -> None:
        """Everything as the constructor starts it."""
        if self.user_dim is not None:
            self.gate.reset_parameters()
        self._reset_own()

    def _reset_own(self) -> None:
        nn.init.constant_(self.log_concentration, math.log(DEFAULT_CONCENTRATION))
        nn.init.zeros_(self.mixture_bias)
        if self.user_dim is not None:
            nn.init.normal_(self.mixture_weight, std=1.0 / math.sqrt(self.user_dim))

    @property
    def concentration(self) -> Tensor:
        """(gamma_i, gamma_u)."""
        return self.log_concentration.exp()

    def forward(
        self,
        features: Tensor,
        user: Tensor | None = None,
        cooccurrence: Tensor | None = None,
        known_user: Tensor | None = None,
    ) -> Kernels:
        """The operator's kernels for features (B, m, width) and, if given, users (B, user_dim).

        `known_user` (B,) bool is False where the row of `user` stands for nobody: the user kernel
        is dropped there and the others renormalised.
        """
        for name, x in (("features", features), ("user", user), ("known_user", known_user)):
            if x is not None or name == "features":
                expect(name, x, Tensor, "a tensor")
        if user is not None and self.user_dim is None:
            raise ValueError("user: this module was built without user_dim; pass user_dim=...")
        if user is not None and user.shape != (features.shape[0], self.user_dim):
            raise ValueError(
                f"user: expected shape {(len(features), self.user_dim)}, got {tuple(user.shape)}"
            )
        if user is not None and user.dtype != self.mixture_weight.dtype and not (
            torch.is_autocast_enabled(user.device.type)
        ):  # fmt: skip
            raise TypeError(
                f"user: expected {self.mixture_weight.dtype} like the parameters, got {user.dtype}"
            )
        if user is None:
            mixture, gate = self.mixture_bias.softmax(-1)[None], None
        else:
            mixture = F.linear(user, self.mixture_weight, self.mixture_bias).softmax(-1)
            gate = 2.0 * torch.sigmoid(self.gate(user))
            if known_user is not None:
                user_column = torch.tensor([False, False, True], device=user.device)
                mixture = mixture.masked_fill(~known_user[:, None] & user_column, 0.0)
        return Kernels(features, self.concentration, mixture, gate, cooccurrence)


def initialised_by(linear: nn.Linear, initialise: Callable[[nn.Linear], None]) -> None:
    """`initialise` follows the layer's own `reset_parameters`, whoever calls that.

    Meta-device flows call it on every layer, before or after the module around it. The layer stays
    a plain `nn.Linear`, since quantisation looks for that very type.
    """
    linear.reset_parameters = partial(_reset, linear, initialise)


def _reset(linear: nn.Linear, initialise: Callable[[nn.Linear], None]) -> None:
    type(linear).reset_parameters(linear)
    initialise(linear)


def zero_bias(linear: nn.Linear) -> None:
    """The bias, where there is one, starts at 0."""
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
