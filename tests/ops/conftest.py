"""The operator's tests run over every backend that can run here, on its device, in its precision.

With TRITON_INTERPRET=1 that is the Triton backend alone, interpreted on the CPU; the others have
the ordinary process.
"""

import pytest
import torch
from ops_cases import Subject

from rka_fast.ops.arguments import Arguments
from rka_fast.ops.backends import BACKENDS
from rka_fast.ops.triton import interpreted


def subjects():
    """Every backend on the first device and in the widest precision that it serves."""
    for name, backend in BACKENDS.items():
        if interpreted() and name != "triton":
            continue
        for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
            for dtype in (torch.float64, torch.float32):
                x = torch.zeros(1, 1, 1, 1, dtype=dtype, device=device)
                if not backend.why_not(Arguments(x, x, x)):
                    yield Subject(name, device, dtype)
                    break
            else:
                continue
            break


@pytest.fixture(params=list(subjects()), ids=lambda subject: subject.name)
def backend(request) -> Subject:
    return request.param
