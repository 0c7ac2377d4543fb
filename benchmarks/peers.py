"""Shapes and peers of the attention benchmarks, and the peak memory of one of them.

`python benchmarks/peers.py cpp forward B32-H1-n200-d50` prints the bytes that one call adds to the
memory of a fresh process at its peak (Linux).
"""

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from kernel_report import CARDS, Work, floor, work

import rka_fast
from rka_fast import (
    Covariance,
    Kernels,
    Location,
    Shape,
    available_backends,
    kernelized_attention,
)
from rka_fast.ops.arguments import Arguments
from rka_fast.ops.reference.attention import attention

PASSES = ("forward", "forward+backward")
THREADS = min(2, os.cpu_count() or 1)


class Size(NamedTuple):
    batch: int
    heads: int
    length: int
    width: int

    def __str__(self) -> str:
        return "B{}-H{}-n{}-d{}".format(*self)

    @classmethod
    def parse(cls, text: str) -> "Size":
        return cls(*(int(part[1:]) for part in text.split("-")))


# Everything is measured on the GPU where there is one, else on the CPU.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = {
    "cpu": (Size(128, 1, 50, 50), Size(32, 1, 200, 50)),
    "cuda": tuple(
        Size(b, h, n, 64) for b in (256, 4096) for h in (1, 4) for n in (50, 64, 100, 128, 200)
    ),
}[DEVICE]
# The eager reference differentiated by autograd, the same compiled, our backends, and ordinary
# attention of the same shape as the yardstick.
HOSTS = ("cpp",)  # backends that compute on the CPU; the reference does on both
OURS = (n for n in available_backends() if n != "reference" and (n in HOSTS) == (DEVICE == "cpu"))
PEERS = ("reference", "compiled", *OURS, "sdpa")


def workload(peer: str, passes: str, size: Size):
    """A function without arguments that runs one call of `peer` (causal, float32, mode sample)."""
    b, h, n, d = size
    rng = torch.Generator().manual_seed(0)
    backward = passes == "forward+backward"

    def new(*shape):
        return torch.randn(*shape, generator=rng).to(DEVICE).requires_grad_(backward)

    query, key, value = new(b, h, n, d), new(b, h, n, d), new(b, h, n, d)
    leaves = [query, key, value]
    if peer == "sdpa":

        def call():
            return F.scaled_dot_product_attention(query, key, value, is_causal=True)

    else:
        bought = (torch.rand(b, 30, n, generator=rng) < 0.2).float().to(DEVICE)
        scale = new(b, h, n, d), new(b, h, n, d)
        shape = Shape(new(b, h, n, d), new(b, h, n, d))
        features, gate, bias = new(b, n, h * d), new(b, h * d), new(h)
        concentration = torch.full((2,), 2.0, device=DEVICE, requires_grad=backward)
        mixture = torch.full((b, 3), 1 / 3, device=DEVICE, requires_grad=backward)
        leaves += [*scale, *shape, features, gate, bias, concentration, mixture]
        kernels = Kernels(features, concentration, mixture, gate, bought.mT @ bought)
        seed = torch.tensor(7, device=DEVICE)
        if peer in ("reference", "compiled"):
            arguments = Arguments(
                query, key, value, None, *scale, bias, *shape, **kernels._asdict(),
                seed=seed, causal=True, mode="sample", activation="leaky_relu",
            )  # fmt: skip
            function = torch.compile(attention) if peer == "compiled" else attention

            def call():
                return function(arguments)

        else:

            def call():
                return kernelized_attention(
                    Location(query, key), value, Covariance(*scale, kernels, bias), shape,
                    is_causal=True, seed=seed, backend=peer, check_counts=False,
                )  # fmt: skip

    grad = torch.randn(b, h, n, d, generator=rng).to(DEVICE)

    def run():
        if backward:
            torch.autograd.grad(call(), leaves, grad)
        else:
            call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return run if backward else torch.no_grad()(run)


def one_sequence(passes: str, size: Size) -> list[Work]:
    """The work of each pass of ours on one sequence."""
    backward = (False, True)[: len(passes.split("+"))]
    return [work(size.length, size.heads, size.width, 4, back) for back in backward]


def operations(peer: str, passes: str, size: Size) -> float:
    """Floating-point operations of one call, counted as in kernel_report.py."""
    if peer == "sdpa":  # two products; backward has five, one of them a second time
        products = 2 if passes == "forward" else 2 + 5
        return products * size.batch * size.heads * size.length**2 * size.width
    return size.batch * sum(x.inputs + x.draw for x in one_sequence(passes, size))


def floor_seconds(peer: str, passes: str, size: Size) -> float | None:
    """The least time of one call in float32; None for plain attention and unknown cards."""
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else ""
    card = next((card for card in CARDS if re.search(card.device, name)), None)
    if card is None or peer == "sdpa":
        return None
    return size.batch * sum(floor(card, x, 4)[0] for x in one_sequence(passes, size))


def peak_memory(peer: str, passes: str, size: Size) -> int | None:
    """Bytes that one call adds at its peak; None where not measurable.

    On the CPU, in a process of its own: resident memory. On a GPU: what PyTorch allocated.
    """
    if DEVICE == "cuda":
        call = workload(peer, passes, size)
        call()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    if not os.path.exists("/proc/self/clear_refs"):
        return None
    command = [sys.executable, __file__, peer, passes, str(size)]
    root = Path(rka_fast.__file__).parents[1]
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE, check=True
    )
    return int(result.stdout)


def _status(field: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def added_memory(call: Callable[[], object]) -> int:
    """Bytes that a call adds to the resident memory of this process at its peak (Linux)."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _measure(peer: str, passes: str, size: Size) -> int:
    torch.set_num_threads(THREADS)
    # Libraries and threads are up after a small call; a compiled graph needs its own shape.
    warm = size if peer == "compiled" else Size(2, 1, 4, 4)
    workload(peer, passes, warm)()
    return added_memory(workload(peer, passes, size))


if __name__ == "__main__":
    print(_measure(sys.argv[1], sys.argv[2], Size.parse(sys.argv[3])))
