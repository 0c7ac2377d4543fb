"""From d L to d K by blocks, then to features, gate, concentration and mixture of one sequence."""

import triton
import triton.language as tl

from rka_fast.ops.triton.covariance import (
    cosine,
    counting_kernel,
    d_correlation,
    inverse_blocks,
    kinds,
    load_features,
    load_gate,
    weight,
)
from rka_fast.ops.triton.tiles import (
    exists,
    inverse_norms,
    load_tile,
    multiply,
    rounded,
    store_tile,
    sum_products,
)


@triton.jit
def correlation_backward(p, s, g, b, f, r):
    if p.mode == "sample":
        cholesky_backward(p, f)
    sequence = tl.cast(b, tl.int64)
    tl.store(g.concentration + sequence * 2 + 1, 0.0)  # of the user's kernel, if it is missing
    tl.store(g.mixture + sequence * 3 + 2, 0.0)
    counts = 0.0
    if p.counts is not None:
        counts = counts_backward(p, s, b, f)
    tl.store(g.mixture + sequence * 3, counts)
    for gated in range(0, kinds(p)):
        mix = 0.0
        gamma = 0.0
        for first_i in range(0, p.pitch, p.tile):
            d_mix, d_gamma = kernel_backward(p, s, b, f, r, first_i, gated)
            features_backward(p, s, g, b, f, r, first_i, gated)
            tl.debug_barrier()
            mix += d_mix
            gamma += d_gamma
        tl.store(g.concentration + sequence * 2 + gated, gamma)
        tl.store(g.mixture + sequence * 3 + 1 + gated, mix)


@triton.jit(noinline=True)
def store_ready(p, s, g, b, f):
    """The gradient of a ready-made L, zeros above its diagonal, or of K for the mean."""
    local = tl.arange(0, p.tile)
    for first_i in range(0, s.keys, p.tile):
        i = first_i + local
        for first_j in range(0, s.keys, p.tile):
            j = first_j + local
            x = load_tile(d_correlation(p, f), p.pitch, i, j)
            at = (tl.cast(b, tl.int64) * s.keys + i[:, None]) * s.keys + j[None, :]
            there = (i < s.keys)[:, None] & (j < s.keys)[None, :]
            if p.mode == "mean":
                tl.store(g.correlation + at, x, mask=there)
            else:
                x = tl.where(i[:, None] >= j[None, :], x, 0.0)
                tl.store(g.factor + at, x, mask=there)


@triton.jit(noinline=True)
def cholesky_backward(p, f):
    """L^-T Phi(L' d L) L^-1 in place of d L: the gradient of K up to symmetry.

    Murray, arXiv 1602.07527. Blocks are solved for with the inverses of the diagonal blocks; what
    the blocks already known contribute comes off by matrix products.
    """
    d = d_correlation(p, f)
    local = tl.arange(0, p.tile)
    for first_j in range(0, p.pitch, p.tile):  # Phi(L' d L), from the first row of blocks down
        j = first_j + local
        for first_i in range(0, p.pitch, p.tile):
            i = first_i + local
            acc = tl.zeros((p.tile, p.tile), tl.float32)
            for first_k in range(first_i, p.pitch, p.tile):
                k = first_k + local
                at = d + k[:, None] * p.pitch + j[None, :]
                x = tl.load(at, mask=k[:, None] >= j[None, :], other=0.0)
                acc = multiply(tl.trans(load_tile(f, p.pitch, k, i)), x, acc, p.exact)
            half = tl.where(i[:, None] == j[None, :], 0.5 * acc, acc)
            tl.debug_barrier()  # d L_ij itself was needed until here
            store_tile(d, p.pitch, i, j, tl.where(i[:, None] >= j[None, :], half, 0.0))
    tl.debug_barrier()
    local = tl.arange(0, p.tile)
    for index in range(0, p.pitch // p.tile):  # L' Y = Phi, from the last row of blocks up
        first_i = p.pitch - (index + 1) * p.tile
        i = first_i + local
        for first_j in range(0, p.pitch, p.tile):
            j = first_j + local
            acc = tl.zeros((p.tile, p.tile), tl.float32)
            for first_k in range(first_i + p.tile, p.pitch, p.tile):
                k = first_k + local
                y = load_tile(d, p.pitch, k, j)
                acc = multiply(tl.trans(load_tile(f, p.pitch, k, i)), y, acc, p.exact)
            store_tile(d, p.pitch, i, j, load_tile(d, p.pitch, i, j) - acc)
            tl.debug_barrier()
            rest = load_tile(d, p.pitch, i, j)
            inverse = load_tile(inverse_blocks(p, f), p.tile, i, local)
            rest = multiply(inverse, rest, tl.zeros_like(rest), p.exact)
            tl.debug_barrier()
            store_tile(d, p.pitch, i, j, rest)
        tl.debug_barrier()
    local = tl.arange(0, p.tile)
    for index in range(0, p.pitch // p.tile):  # X L = Y, from the last column of blocks back
        first_j = p.pitch - (index + 1) * p.tile
        j = first_j + local
        for first_i in range(0, p.pitch, p.tile):
            i = first_i + local
            acc = tl.zeros((p.tile, p.tile), tl.float32)
            for first_k in range(first_j + p.tile, p.pitch, p.tile):
                k = first_k + local
                x = load_tile(d, p.pitch, i, k)
                acc = multiply(x, load_tile(f, p.pitch, k, j), acc, p.exact)
            store_tile(d, p.pitch, i, j, load_tile(d, p.pitch, i, j) - acc)
            tl.debug_barrier()
            rest = load_tile(d, p.pitch, i, j)
            inverse = load_tile(inverse_blocks(p, f), p.tile, j, local)
            rest = multiply(rest, tl.trans(inverse), tl.zeros_like(rest), p.exact)
            tl.debug_barrier()
            store_tile(d, p.pitch, i, j, rest)
        tl.debug_barrier()


@triton.jit
def pair_gradient(p, s, b, f, i, j):
    """The gradient of K at rows i and columns j, off the diagonal.

    Each pair is met twice, once in either order.
    """
    d = d_correlation(p, f)
    related = exists(p, s, b, i)[:, None] & exists(p, s, b, j)[None, :]
    related = related & (i[:, None] != j[None, :])
    grad = load_tile(d, p.pitch, i, j) + tl.trans(load_tile(d, p.pitch, j, i))
    return tl.where(related, grad * (1.0 / (1.0 + p.jitter)), 0.0)


@triton.jit(noinline=True)
def counts_backward(p, s, b, f):
    """The gradient of the counting kernel's weight."""
    local = tl.arange(0, p.tile)
    acc = tl.zeros((p.tile,), tl.float32)
    for first_i in range(0, p.pitch, p.tile):
        for first_j in range(0, p.pitch, p.tile):
            i, j = first_i + local, first_j + local
            grad = pair_gradient(p, s, b, f, i, j)
            counting = counting_kernel(p, s, b, f, i, j)
            acc += sum_products(grad, counting, 1)
    return 0.5 * tl.sum(acc, axis=0)


@triton.jit(noinline=True)
def kernel_backward(p, s, b, f, r, first_i, gated):
    """Through a tile of rows of one exponential kernel: the item's or, `gated`, the user's.

    d G of these rows goes to scratch, with what pulls each row along itself; returned are the
    shares of the gradients of the kernel's weight and of its concentration.
    """
    gamma = tl.load(p.concentration + gated)
    mix = weight(p, b, 1 + gated)
    d_mix = tl.zeros((p.tile,), tl.float32)
    d_gamma = tl.zeros((p.tile,), tl.float32)
    pull = tl.zeros((p.tile,), tl.float32)
    local = tl.arange(0, p.tile)
    i = first_i + local
    for first_j in range(0, p.pitch, p.tile):
        j = first_j + local
        cos, outer = cosine(p, s, b, f, first_i, first_j, gated)
        weighted = pair_gradient(p, s, b, f, i, j) * tl.exp(2.0 * gamma * (cos - 1.0))
        d_mix += 0.5 * tl.sum(weighted, axis=1)
        d_gamma += mix * sum_products(weighted, cos - 1.0, 1)
        d_cosine = weighted * mix * (2.0 * gamma)
        # cos_ij = G_ij / sqrt(G_ii G_jj): the norms pull x_i back along itself.
        pull += sum_products(d_cosine, cos, 1)
        store_tile(r, p.pitch, local, j, d_cosine * outer)
    norm = tl.load(inverse_norms(p, f, gated) + i)
    tl.store(r + p.tile * p.pitch + local, pull * norm * norm)
    tl.debug_barrier()
    return tl.sum(d_mix, axis=0), tl.sum(d_gamma, axis=0)


@triton.jit(noinline=True)
def features_backward(p, s, g, b, f, r, first_i, gated):
    """From d G of a tile of rows in scratch, and what pulls each row along itself."""
    local = tl.arange(0, p.tile)
    pull = tl.load(r + p.tile * p.pitch + local)
    i = first_i + local
    there = exists(p, s, b, i)[:, None]
    for first_c in range(0, p.feature_width, p.chunk):
        c = first_c + tl.arange(0, p.chunk)
        acc = tl.zeros((p.tile, p.chunk), tl.float32)
        for first_j in range(0, p.pitch, p.tile):
            j = first_j + local
            x = load_features(p, s, b, j, c, None)
            d = rounded(load_tile(r, p.pitch, local, j), p.feature_precision)
            acc = multiply(d, x, acc, p.feature_precision)
        own = load_features(p, s, b, i, c, None)
        acc -= pull[:, None] * own
        inside = c < p.feature_width
        where = (i < s.keys)[:, None] & inside[None, :]
        row = tl.cast(b, tl.int64) * s.keys + i[:, None]
        at = g.features + row * p.feature_width + c[None, :]
        if p.gate is not None:  # so far it is the gradient of the gated features over the gate
            gate = load_gate(p, b, c, gated > 0)
            acc *= gate[None, :]
            if gated > 0:
                at_gate = g.gate + tl.cast(b, tl.int64) * p.feature_width + c
                share = sum_products(acc, own, 0)
                share += tl.load(at_gate, mask=inside & (first_i > 0), other=0.0)
                tl.debug_barrier()  # every thread has it before one replaces it
                tl.store(at_gate, share, mask=inside)
            acc *= gate[None, :]
            acc += tl.load(at, mask=where & (gated > 0), other=0.0)
        tl.store(at, tl.where(there, acc, 0.0), mask=where)
