"""Relation-aware kernelized self-attention: logits drawn from a multivariate skew-normal.

The operator and its module are here once the package is imported; the recommenders and what
trains them are loaded when they are first asked for, with the packages that only they need.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rka_fast.attention import KernelizedAttention
from rka_fast.context import use_draws, use_relations
from rka_fast.exporting import export
from rka_fast.kernels import RelationKernels
from rka_fast.ops.api import kernelized_attention, relation_factor
from rka_fast.ops.backends import available_backends
from rka_fast.ops.counts import check_counts
from rka_fast.ops.groups import Covariance, Kernels, Location, RelationFactor, RelativeTimes, Shape
from rka_fast.prediction import Prediction, predict
from rka_fast.swap import swap_attention
from rka_fast.version import __version__

if TYPE_CHECKING:
    from rka_fast.fitting import fit, fit_best
    from rka_fast.models.rksa import RKSA
    from rka_fast.run import Run
    from rka_fast.training.config import Config

_LATER = {
    "RKSA": "rka_fast.models.rksa",
    "Config": "rka_fast.training.config",
    "Run": "rka_fast.run",
    "fit": "rka_fast.fitting",
    "fit_best": "rka_fast.fitting",
}

__all__ = [
    "RKSA",
    "Config",
    "Covariance",
    "KernelizedAttention",
    "Kernels",
    "Location",
    "Prediction",
    "RelationFactor",
    "RelationKernels",
    "RelativeTimes",
    "Run",
    "Shape",
    "__version__",
    "available_backends",
    "check_counts",
    "export",
    "fit",
    "fit_best",
    "kernelized_attention",
    "predict",
    "relation_factor",
    "swap_attention",
    "use_draws",
    "use_relations",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'rka_fast' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
