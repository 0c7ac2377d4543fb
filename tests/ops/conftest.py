"""The operator's tests run over every backend that can serve their inputs here.

They are float64 on the CPU, so a backend for another device has a suite of its own.
"""

import pytest
import torch

from rka_fast.ops.arguments import Arguments
from rka_fast.ops.backends import BACKENDS

_INPUTS = Arguments(*(torch.zeros(1, 1, 1, 1, dtype=torch.float64),) * 3)


@pytest.fixture(params=[name for name, b in BACKENDS.items() if not b.why_not(_INPUTS)])
def backend(request) -> str:
    return request.param
