"""Noise in registers: Philox4x32-10 in the counter layout of `reference/philox.py`.

counter = (column // 4, row, sequence * heads + head, stream); the four outputs serve four columns.
"""

import triton
import triton.language as tl

NOISE = tl.constexpr(0)
SKEW = tl.constexpr(1)
DROPOUT = tl.constexpr(2)


@triton.jit
def words(seed, group, row, head, stream: tl.constexpr):
    """Four words for each group of columns (int32 vector) of each row (int32 vector)."""
    zero = tl.zeros((row.shape[0], group.shape[0]), tl.int32)
    return tl.philox(
        seed,
        zero + group[None, :],
        zero + row[:, None],
        zero + tl.cast(head, tl.int32),
        zero + stream,
    )


@triton.jit
def interleave(a, b, c, d, columns: tl.constexpr):
    """a, b, c, d of the first group, of the second, ...: (rows, columns)."""
    pairs = tl.join(tl.join(a, c), tl.join(b, d))
    return tl.reshape(pairs, (a.shape[0], columns))


@triton.jit
def quarter_turns(x, which: tl.constexpr):
    """cos (which = 0) or sin (which = 1) of 2 pi x for 0 <= x < 1.

    The library's functions reduce any argument, through local memory.
    """
    turns = tl.floor(4.0 * x + 0.5)
    r = 6.283185307179586 * (x - 0.25 * turns)  # the subtraction is exact
    r2 = r * r
    # Taylor polynomials on [-pi/4, pi/4]: the first omitted terms are below 2^-26.
    sine = r + r * r2 * (
        -1.6666666667e-1 + r2 * (8.3333333333e-3 + r2 * (-1.9841269841e-4 + r2 * 2.7557319e-6))
    )
    cosine = 1.0 + r2 * (
        -0.5 + r2 * (4.1666666667e-2 + r2 * (-1.3888888889e-3 + r2 * 2.48015873e-5))
    )
    quadrant = turns.to(tl.int32) + which
    swap = (quadrant & 1) == 1
    if which == 0:
        value = tl.where(swap, sine, cosine)
        value = tl.where(((turns.to(tl.int32) + 1) & 2) == 2, -value, value)
    else:
        value = tl.where(swap, sine, cosine)
        value = tl.where((turns.to(tl.int32) & 2) == 2, -value, value)
    return value


@triton.jit
def normal_pair(word1, word2):
    """Two standard normals by Box-Muller."""
    u1 = tl.maximum(1.0e-7, tl.uint_to_uniform_float(word1))
    u2 = tl.uint_to_uniform_float(word2)
    radius = tl.sqrt(-2.0 * tl.log(u1))
    return radius * quarter_turns(u2, 0), radius * quarter_turns(u2, 1)


@triton.jit
def normals(seed, first, row, head, columns: tl.constexpr):
    """E at the given rows and columns first .. first + columns - 1; first is a multiple of 4."""
    group = first // 4 + tl.arange(0, columns // 4)
    w0, w1, w2, w3 = words(seed, group, row, head, NOISE)
    a, b = normal_pair(w0, w1)
    c, d = normal_pair(w2, w3)
    return interleave(a, b, c, d, columns)


@triton.jit
def skew_noise(seed, row, head):
    """T of the given rows."""
    w0, w1, _, _ = words(seed, tl.arange(0, 1), row, head, SKEW)
    first, _ = normal_pair(w0, w1)
    return tl.sum(first, axis=1)


@triton.jit
def keep_factors(seed, first, row, head, p, columns: tl.constexpr):
    """What the weights are multiplied with: 0 or 1 / (1 - p)."""
    group = first // 4 + tl.arange(0, columns // 4)
    w0, w1, w2, w3 = words(seed, group, row, head, DROPOUT)
    word = interleave(w0, w1, w2, w3, columns)
    return tl.where(tl.uint_to_uniform_float(word) >= p, 1.0 / (1.0 - p), 0.0)
