"""Relation-aware kernelized self-attention: logits drawn from a multivariate skew-normal."""

from rka_fast.attention import KernelizedAttention
from rka_fast.context import use_draws, use_relations
from rka_fast.exporting import export
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
from rka_fast.prediction import Prediction, predict
from rka_fast.swap import swap_attention
from rka_fast.version import __version__

__all__ = [
    "RKSA",
    "Covariance",
    "Kernels",
    "KernelizedAttention",
    "Location",
    "Prediction",
    "RelativeTimes",
    "Shape",
    "__version__",
    "available_backends",
    "export",
    "kernelized_attention",
    "predict",
    "swap_attention",
    "use_draws",
    "use_relations",
]
