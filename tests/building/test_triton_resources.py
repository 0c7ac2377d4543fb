"""What the compiler made of the Triton kernels for short sequences, on every architecture."""

import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from rka_fast.ops.triton import interpreted

pytest.importorskip("triton")
import kernel_report as report

pytestmark = pytest.mark.skipif(interpreted(), reason="kernels are interpreted in this process")
ARCHITECTURES = ("sm_80", "sm_86", "sm_90")
DTYPES = ("float32", "bfloat16")


def rows(arch):
    cases = [(arch, 64, width, dtype, "whole") for width in (64, 128) for dtype in DTYPES]
    return [tuple(x) for x in report.rows(cases)]


@pytest.mark.slow
def test_no_spills_and_shared_memory_within_the_limit():
    if report.cuobjdump() is None:
        pytest.skip("needs cuobjdump")
    with ProcessPoolExecutor(min(len(ARCHITECTURES), os.cpu_count() or 1)) as pool:
        found = [report.Row(*x) for part in pool.map(rows, ARCHITECTURES) for x in part]
    # Forward and backward, two dtypes, two widths, three architectures.
    assert len(found) == 2 * 2 * 2 * 3
    assert report.faults(found) == []
    for x in found:
        assert x.programs_per_sm >= 1, x
        assert x.tensor_core_instructions > 0, x


def test_faults_are_seen():
    good = report.Row(
        "forward_kernel", "sm_86", 64, 64, "float32", 4, 128, 64, 12288, 4, 480, 110_000, "whole"
    )
    assert report.faults([good]) == []
    assert "spills 72" in report.faults([good._replace(spill_bytes=72)])[0]
    assert report.faults([good._replace(spill_bytes=72, n_block=128)]) == []
    backward = good._replace(kernel="backward_kernel")
    assert report.faults([backward._replace(spill_bytes=128)]) == []
    assert "spills 136" in report.faults([backward._replace(spill_bytes=136)])[0]
    assert "60000" in report.faults([good._replace(shared_bytes=60_000)])[0]
    assert "bytes of code" in report.faults([good._replace(code_bytes=120_000)])[0]
    assert report.faults([backward._replace(code_bytes=120_000)]) == []
    assert "shared" in report.faults([good._replace(shared_bytes=100 * 1024)])[0]


@pytest.mark.parametrize(
    ("arch", "warps", "registers", "shared", "expected"),
    [
        ("sm_80", 8, 128, 12288, 2),  # 65536 / (128 * 256)
        ("sm_80", 4, 32, 99 * 1024, 1),  # 164 KB of shared memory
        ("sm_86", 4, 24, 0, 12),  # 48 warps
        ("sm_90", 8, 255, 0, 1),
    ],
)
def test_resident_programs_by_hand(arch, warps, registers, shared, expected):
    assert report.programs_per_sm(arch, warps, registers, shared) == expected


def test_counted_work_by_hand():
    """One head of 3 positions, width 2, float32: every product and tensor written out."""
    n, width = 3, 2
    scores = 4 * n * n * width  # four products (three scores, P V), half of 2 n^2 width each
    gram = 2 * (n * n * width)  # two, lower half
    draw = (2 + 2 * 2 + 1) * n**3 / 3  # B and S; the prior's two products; the factor
    tensors = 8 * n * width * 4  # q, k, v, two pairs, output
    other = 4 * (n * n + n * width)  # counts and features
    assert report.work(n, 1, width, 4, False) == (scores, gram + draw, tensors + other)
    # Again the three scores; d W and d V; d q and d k of each score: whole products by half.
    inputs = scores + (3 + 2 + 6 - 4) * n * n * width
    features = gram + 2 * (2 * n * n * width)  # d G' X is a whole product
    back = draw + (4 + 7) * n**3 / 3
    gradients = 7 * n * width * 4 + 4 * n * width
    expected = pytest.approx((inputs, features + back, tensors + other + gradients))
    assert report.work(n, 1, width, 4, True) == expected
