"""The operator beside its peers: causal, float32, one draw, all three kernels and the shape.

torch.compile takes minutes over the reference's backward pass, or 200 positions: with --slow.
"""

import itertools

import pytest
from peers import PASSES, PEERS, SIZES, floor_seconds, operations, peak_memory, workload


def case(peer, size, passes):
    slow = peer == "compiled" and (passes != "forward" or size != SIZES[0])
    marks = [pytest.mark.slow] if slow else []
    return pytest.param(peer, size, passes, marks=marks, id=f"{peer}-{size}-{passes}")


@pytest.mark.parametrize(
    ("peer", "size", "passes"), [case(*x) for x in itertools.product(PEERS, SIZES, PASSES)]
)
def test_attention(benchmark, peer, size, passes):
    call = workload(peer, passes, size)
    for _ in range(3):
        call()
    benchmark.group = f"attention {size} {passes}"
    benchmark.extra_info.update(
        op="attention",
        backend=peer,
        shape=str(size),
        gflops=operations(peer, passes, size) * 1e-9,  # of one call
        bytes=peak_memory(peer, passes, size),
        floor=floor_seconds(peer, passes, size),
        **{"pass": passes},
    )
    benchmark(call)
