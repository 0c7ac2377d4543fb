"""The implementations of the operator, and why one of them cannot serve a call.

A backend is an object with `name`, `forward(arguments)`, `backward(grad, needs, arguments)` and
`why_not(arguments)`: the list of reasons why it cannot run here (arguments None) or on these
inputs. Where its own code does not check every call (`checks_calls`), the operator does; where its
forward pass does not take several draws at once (`shares_draws`), it makes them one by one, as the
operator does for every backward pass. A further backend is one more entry in BACKENDS, in order of
preference: where the inputs are on the CPU the interpreted Triton comes after C++. `order` moves
CUDA ahead where it is faster.
"""

import os
from typing import Protocol

import torch
from torch import Tensor

from rka_fast.ops.arguments import Arguments, Relations
from rka_fast.ops.native.cpp import Cpp
from rka_fast.ops.native.cuda import Cuda
from rka_fast.ops.reference import Reference
from rka_fast.ops.triton import Triton

ENVIRONMENT = "RKA_FAST_BACKEND"


class Backend(Protocol):
    """What a backend is; the module says what its parts mean."""

    name: str
    checks_calls: bool
    shares_draws: bool

    def why_not(self, a: Arguments | None) -> list[str]: ...
    def forward(self, a: Arguments) -> Tensor: ...
    def backward(self, grad: Tensor, needs: list[int], a: Arguments) -> list[Tensor]: ...


BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (Cpp(), Triton(), Cuda(), Reference())
}


class RelationBackend(Backend, Protocol):
    """One that also makes correlation, factor and prior, and takes them ready-made."""

    def relations(self, r: Relations) -> tuple[Tensor, Tensor, Tensor]: ...
    def relations_backward(
        self,
        d_correlation: Tensor | None,
        d_factor: Tensor | None,
        needs: list[int],
        r: Relations,
    ) -> list[Tensor]: ...


RELATION_BACKENDS: dict[str, RelationBackend] = {
    backend.name: backend for backend in (Cpp(), Reference())
}


def available_backends() -> list[str]:
    """Names of the backends that can run on this machine, the preferred first."""
    return [name for name, backend in BACKENDS.items() if not backend.why_not(None)]


SHORT = 64
"""The most positions of CUDA's kernels for short sequences, whose backward pass is ahead too."""


def order(a: Arguments) -> list[str]:
    """The names of the backends, the fastest for these inputs first.

    By the modelled times in benchmarks/results/kernels-*: of 50 positions CUDA takes .33 and .75 ms
    where Triton takes .85 and 2.4; beyond, CUDA is ahead forward and they are level backward.
    """
    names = list(BACKENDS)
    plain = a.row_offset == 0 and a.time_table is None and a.correlation is None
    short = max(a.query.shape[2], a.key.shape[2]) <= SHORT
    if plain and (short or not _recorded(a)):
        names.remove("cuda")
        names.insert(names.index("triton"), "cuda")
    return names


def _recorded(a: Arguments) -> bool:
    """Whether a backward pass may follow."""
    tensors = (x for x in a if isinstance(x, Tensor))
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def choose(name: str, a: Arguments) -> str:
    """The backend for these inputs: the one asked for, or with "auto" the first that can.

    The environment variable RKA_FAST_BACKEND takes the place of "auto". Raises ValueError with
    every reason when a backend asked for by name cannot serve the call.
    """
    if name == "auto":
        name = os.environ.get(ENVIRONMENT, "auto")
    if name == "auto":
        return next(n for n in order(a) if not BACKENDS[n].why_not(a))
    if name not in BACKENDS:
        raise ValueError(
            f"backend: expected 'auto' or one of {', '.join(map(repr, BACKENDS))}, got {name!r}"
        )
    if reasons := BACKENDS[name].why_not(a):
        raise ValueError(
            f"backend {name!r} cannot serve this call: {'; '.join(reasons)}. "
            "Use backend='auto' for one that can."
        )
    return name
