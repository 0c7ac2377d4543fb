"""Relation-aware kernelized self-attention: logits drawn from a multivariate skew-normal."""

from rka_fast.attention import KernelizedAttention
from rka_fast.models.rksa import RKSA
from rka_fast.ops.api import (
    Covariance,
    Kernels,
    Location,
    RelativeTimes,
    Shape,
    kernelized_attention,
)
from rka_fast.ops.backends import available_backends
from rka_fast.version import __version__

__all__ = [
    "RKSA",
    "Covariance",
    "Kernels",
    "KernelizedAttention",
    "Location",
    "RelativeTimes",
    "Shape",
    "__version__",
    "available_backends",
    "kernelized_attention",
]
