"""The operator's tests run over every backend that can run here, on its device, in its precision.

With TRITON_INTERPRET=1 that is the Triton backend alone, interpreted on the CPU; the others have
the ordinary process.
"""

import functools
import operator

import pytest
import torch
from support.cases import Subject

from rka_fast.ops.arguments import Arguments
from rka_fast.ops.backends import BACKENDS
from rka_fast.ops.triton import interpreted

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
DTYPES = (torch.float64, torch.float32)


def serves(subject: Subject) -> bool:
    x = torch.zeros(1, 1, 1, 1, dtype=subject.dtype, device=subject.device)
    return not BACKENDS[subject.name].why_not(Arguments(x, x, x))


def subjects(name: str) -> list[Subject]:
    """The backend on the first device and in the widest precision that it serves, if any."""
    every = (Subject(name, device, dtype) for device in DEVICES for dtype in DTYPES)
    return list(filter(serves, every))[:1]


NAMES = ["triton"] if interpreted() else BACKENDS


@pytest.fixture(
    params=functools.reduce(operator.iadd, map(subjects, NAMES), []),
    ids=lambda subject: subject.name,
)
def backend(request) -> Subject:
    return request.param
