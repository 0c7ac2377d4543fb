"""The operator beside its peers: causal, float32, one draw, all three kernels and the shape."""

import pytest
from peers import PASSES, PEERS, SIZES, floor_seconds, operations, peak_memory, workload


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("peer", PEERS)
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
