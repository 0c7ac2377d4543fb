"""Products in float32 by tensor cores that take tf32, which the interpreter cuts off like them."""

import pytest
import torch

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

from rka_fast.ops.triton.tiles import multiply, sum_products  # noqa: E402


@triton.jit
def multiply_kernel(x, y, out, depth: tl.constexpr, precision: tl.constexpr):
    i, j, k = tl.arange(0, 32), tl.arange(0, 64), tl.arange(0, depth)
    a = tl.load(x + i[:, None] * depth + k[None, :])
    b = tl.load(y + k[:, None] * 64 + j[None, :])
    at = out + i[:, None] * 64 + j[None, :]
    tl.store(at, multiply(a, b, tl.load(at), precision))


@triton.jit
def sum_kernel(x, y, out):
    i, j = tl.arange(0, 16), tl.arange(0, 32)
    at = i[:, None] * 32 + j[None, :]
    tl.store(out + i, sum_products(tl.load(x + at), tl.load(y + at), 1))


def error(x, y, precision):
    """The largest, by the magnitude of what is summed."""
    start = torch.randn(32, 64)
    out = start.clone()
    multiply_kernel[(1,)](x, y, out, x.shape[1], precision)
    exact = start.double() + x.double() @ y.double()
    scale = start.double().abs() + x.double().abs() @ y.double().abs()
    return ((out - exact).abs() / scale).max().item()


@pytest.mark.parametrize("depth", [16, 32, 64])
def test_four_products_of_tf32_are_one_of_float32(depth):
    """Rounding leaves the low part 2^-11 of a number, of which tf32 holds 11 bits; and sums."""
    torch.manual_seed(depth)
    x, y = torch.randn(32, depth), torch.randn(depth, 64)
    assert error(x, y, "tf32x4") < 2 * 2**-22 + depth * 2**-24
    assert error(x, y, "tf32") > 1e-5


def test_numbers_of_tf32_are_exact():
    """Counts of up to 2,048 are: the prior does not depend on how it is multiplied."""
    torch.manual_seed(0)
    x, y = torch.randint(0, 2049, (32, 32)).float(), torch.randint(0, 2, (32, 64)).float()
    out = torch.zeros(32, 64)
    multiply_kernel[(1,)](x, y, out, 32, "tf32x4")
    assert torch.equal(out, x @ y)


def test_nan_is_kept():
    x, y = torch.randn(32, 32), torch.randn(32, 64)
    x[3, 5] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)  # all ones but sign
    out = torch.zeros(32, 64)
    multiply_kernel[(1,)](x, y, out, 32, "tf32x4")
    assert out[3].isnan().all() and not out[[0, 1, 2, 4]].isnan().any()


def test_sums_of_products():
    x, y = torch.randn(2, 16, 32)
    x[7, 3] = torch.nan
    out = torch.empty(16)
    sum_kernel[(1,)](x, y, out)
    torch.testing.assert_close(out, (x * y).sum(1), equal_nan=True)
