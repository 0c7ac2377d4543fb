"""Which backend `auto` takes where several can."""

import pytest
import torch

from rka_fast.ops.arguments import Arguments
from rka_fast.ops.backends import BACKENDS, choose


def call(n=50, width=50, keys=None, dtype=torch.float32, grad=True, **options) -> Arguments:
    query = torch.zeros(1, 1, n, width, dtype=dtype, requires_grad=grad)
    key = torch.zeros(1, 1, keys or n, width, dtype=dtype)
    return Arguments(query, key, key, **options)


@pytest.mark.parametrize(
    ("a", "expected"),
    [
        (call(), "cuda"),
        (call(64, 64), "cuda"),
        (call(65), "triton"),
        (call(65, grad=False), "cuda"),
        (call(8, keys=1024, grad=False), "cuda"),
        (call(width=200), "cuda"),
        (call(8, keys=200), "triton"),
        (call(dtype=torch.bfloat16), "cuda"),
        (call(activation="tanh"), "cuda"),
        (call(mode="mean"), "cuda"),
        (call(8, keys=50, row_offset=1, grad=False), "triton"),
        (call(time_table=torch.zeros(1, 129)), "triton"),
        (call(mode="mean", correlation=torch.zeros(1, 50, 50)), "triton"),
    ],
)
def test_auto_takes_the_faster_kernels(monkeypatch, a, expected):
    """On a device that both serve: the order of docs/kernels.md."""
    monkeypatch.delenv("RKA_FAST_BACKEND", raising=False)
    for name, backend in BACKENDS.items():
        reasons = [] if name in ("triton", "cuda", "reference") else ["not on this device"]
        monkeypatch.setattr(type(backend), "why_not", lambda self, a, r=reasons: r)
    assert choose("auto", a) == expected
    with torch.no_grad():
        assert choose("auto", call(65)) == "cuda"
    monkeypatch.setattr(type(BACKENDS["cuda"]), "why_not", lambda self, a: ["no"])
    assert choose("auto", a) == "triton"
