"""The noise of the Triton kernels: words bit for bit, normals to rounding."""

import pytest
import torch

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

from rka_fast.ops.reference import philox as reference  # noqa: E402
from rka_fast.ops.triton import philox  # noqa: E402

SEEDS = [0, 1, -1, 2**62 + 12345, -(2**63)]
ROWS, COLUMNS = 16, 32


@triton.jit
def words_kernel(seed, out, head, stream: tl.constexpr):
    row, group = tl.arange(0, 16), tl.arange(0, 8)
    at = out + (row[:, None] * 8 + group[None, :]) * 4
    w0, w1, w2, w3 = philox.words(tl.load(seed), group, row, head, stream)
    tl.store(at, w0.to(tl.int64))
    tl.store(at + 1, w1.to(tl.int64))
    tl.store(at + 2, w2.to(tl.int64))
    tl.store(at + 3, w3.to(tl.int64))


@triton.jit
def noise_kernel(seed, normals, skew, keep, first_row, first, head, p):
    row, column = first_row + tl.arange(0, 16), tl.arange(0, 32)
    at = tl.arange(0, 16)[:, None] * 32 + column[None, :]
    tl.store(normals + at, philox.normals(tl.load(seed), first, row, head, 32))
    tl.store(keep + at, philox.keep_factors(tl.load(seed), first, row, head, p, 32))
    tl.store(skew + tl.arange(0, 16), philox.skew_noise(tl.load(seed), row, head))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("stream", [0, 1, 2])
def test_words_bit_for_bit(seed, stream):
    seed = torch.tensor(seed)
    out = torch.empty(ROWS, COLUMNS // 4, 4, dtype=torch.int64)
    words_kernel[(1,)](seed, out, 5, stream)
    expected = reference.words(seed, 2, 3, range(ROWS), COLUMNS // 4, stream)[1, 2]
    assert torch.equal(out & 0xFFFFFFFF, expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_at_any_tile(seed):
    seed = torch.tensor(seed)
    normals, keep = torch.empty(2, ROWS, COLUMNS)
    skew = torch.empty(ROWS)
    noise_kernel[(1,)](seed, normals, skew, keep, 32, 64, 5, 0.3)
    rows, columns = slice(32, 48), slice(64, 96)
    expected = reference.normals(seed, 2, 3, range(48), 96, torch.float64)[1, 2, rows, columns]
    torch.testing.assert_close(normals.double(), expected, atol=1e-6, rtol=0)
    expected = reference.skew_noise(seed, 2, 3, range(48), torch.float64)[1, 2, rows, 0]
    torch.testing.assert_close(skew.double(), expected, atol=1e-6, rtol=0)
    u = reference.dropout_uniforms(seed, 2, 3, range(48), 96, torch.float32)[1, 2, rows, columns]
    assert torch.equal(keep != 0, u >= 0.3)
    torch.testing.assert_close(keep, (u >= 0.3) / 0.7)
