"""Probabilistic attention as cheap as plain attention."""

from rka_fast.ops.api import Covariance, Kernels, Location, Shape, kernelized_attention
from rka_fast.ops.backends import available_backends
from rka_fast.version import __version__

__all__ = [
    "Covariance",
    "Kernels",
    "Location",
    "Shape",
    "__version__",
    "available_backends",
    "kernelized_attention",
]
