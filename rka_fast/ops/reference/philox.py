"""Counter-based noise: Philox4x32-10 in integer PyTorch.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
The generator is a pure function of (key, counter), so a draw depends on nothing but its indices:
key = 64-bit seed, counter = (column // 4, row, sequence * heads + head, stream), and the four
outputs serve columns 4 * (column // 4) + 0..3. Every backend follows this layout.

PyTorch has no unsigned 32-bit arithmetic on every device, so words live in int64 and are masked.
"""

import math

import torch
from torch import Tensor

NOISE, SKEW, DROPOUT = 0, 1, 2  # streams: E, T and the dropout uniforms

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_UNIFORM_SCALE = 4.6566127342e-10  # just under 2**-31, so that no uniform reaches 1
_SMALLEST_UNIFORM = 1e-7


def philox4x32(key: tuple, counter: tuple, rounds: int = 10) -> tuple[Tensor, ...]:
    """Four 32-bit words for each counter.

    `key` is two and `counter` four int64 tensors (or ints) of 32-bit words that broadcast together.
    Returns four int64 tensors with values in [0, 2**32).
    """
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(rounds):
        # A wrapped int64 product keeps all 64 bits; the arithmetic shift is masked afterwards.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def words(seed: Tensor, batch: int, heads: int, rows: range, groups: int, stream: int) -> Tensor:
    """Philox outputs (batch, heads, rows, groups, 4) of one stream; `seed` is one int64."""
    device = seed.device
    seed = seed.reshape(())
    key = (seed & _MASK, (seed >> 32) & _MASK)
    group = torch.arange(groups, device=device)
    row = torch.arange(rows.start, rows.stop, device=device)[:, None]
    head = torch.arange(batch * heads, device=device).view(batch, heads, 1, 1)
    counter = torch.broadcast_tensors(group, row, head, torch.full_like(group, stream))
    return torch.stack(philox4x32(key, counter), dim=-1)


def uniform(word: Tensor, dtype: torch.dtype) -> Tensor:
    """Uniforms in [0, 1) from 32-bit words, as `triton.language.uint_to_uniform_float`."""
    signed = torch.where(word > 0x7FFFFFFF, _MASK - word, word)
    return signed.to(torch.float32).mul(_UNIFORM_SCALE).to(dtype)


def normal_pair(u1: Tensor, u2: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normals by Box-Muller, as `triton.language.pair_uniform_to_normal`."""
    radius = torch.sqrt(-2.0 * torch.log(u1.clamp_min(_SMALLEST_UNIFORM)))
    angle = (2.0 * math.pi) * u2
    return radius * torch.cos(angle), radius * torch.sin(angle)


def normals(
    seed: Tensor, batch: int, heads: int, rows: range, columns: int, dtype: torch.dtype
) -> Tensor:
    """E ~ N(0, 1) of shape (batch, heads, rows, columns), stream 0."""
    u = uniform(words(seed, batch, heads, rows, (columns + 3) // 4, NOISE), dtype)
    first, second = normal_pair(u[..., 0::2], u[..., 1::2])
    return torch.stack((first, second), dim=-1).flatten(-3)[..., :columns]


def skew_noise(seed: Tensor, batch: int, heads: int, rows: range, dtype: torch.dtype) -> Tensor:
    """T ~ N(0, 1) of shape (batch, heads, rows, 1), stream 1: first output of counter word 0."""
    u = uniform(words(seed, batch, heads, rows, 1, SKEW), dtype)
    return normal_pair(u[..., 0], u[..., 1])[0]


def dropout_uniforms(
    seed: Tensor, batch: int, heads: int, rows: range, columns: int, dtype: torch.dtype
) -> Tensor:
    """Uniforms of shape (batch, heads, rows, columns), stream 2."""
    u = uniform(words(seed, batch, heads, rows, (columns + 3) // 4, DROPOUT), dtype)
    return u.flatten(-2)[..., :columns]
