"""From d L to d K by blocks, then to features, gate, concentration and mixture of one sequence."""

import triton
import triton.language as tl

from rka_fast.ops.triton.covariance import (
    cosine,
    counting_kernel,
    d_correlation,
    inverse_blocks,
    load_features,
    load_gate,
    weight,
)
from rka_fast.ops.triton.tiles import exists, inverse_norms, load_tile, origin, rounded, store_tile


@triton.jit
def correlation_backward(p, s, g, b, f, r):
    if p.mode == "sample":
        cholesky_backward(p, f)
    items, item_gamma, count_weight = kernel_backward(p, s, g, b, f, r, False)
    users = tl.zeros((), tl.float32)
    user_gamma = tl.zeros((), tl.float32)
    if p.gate is not None:
        users, user_gamma, _ = kernel_backward(p, s, g, b, f, r, True)
    sequence = tl.cast(b, tl.int64)
    tl.store(g.concentration + sequence * 2, item_gamma)
    tl.store(g.concentration + sequence * 2 + 1, user_gamma)
    tl.store(g.mixture + sequence * 3, count_weight)
    tl.store(g.mixture + sequence * 3 + 1, items)
    tl.store(g.mixture + sequence * 3 + 2, users)


@triton.jit(noinline=True)
def cholesky_backward(p, f):
    """L^-T Phi(L' d L) L^-1 in place of d L: the gradient of K up to symmetry.

    Murray, arXiv 1602.07527. Blocks are solved for with the inverses of the diagonal blocks; what
    the blocks already known contribute comes off by matrix products.
    """
    d = d_correlation(p, f)
    local = origin(p, f) + tl.arange(0, p.tile)
    for first_j in range(0, p.pitch, p.tile):  # Phi(L' d L), from the first row of blocks down
        j = first_j + local
        for first_i in range(0, p.pitch, p.tile):
            i = first_i + local
            acc = tl.zeros((p.tile, p.tile), tl.float32)
            for first_k in range(first_i, p.pitch, p.tile):
                k = first_k + local
                x = load_tile(d, p.pitch, k, j)
                x = tl.where(k[:, None] >= j[None, :], x, 0.0)
                acc = tl.dot(tl.trans(load_tile(f, p.pitch, k, i)), x, acc, input_precision="ieee")
            half = tl.where(i[:, None] == j[None, :], 0.5 * acc, acc)
            tl.debug_barrier()  # d L_ij itself was needed until here
            store_tile(d, p.pitch, i, j, tl.where(i[:, None] >= j[None, :], half, 0.0))
    tl.debug_barrier()
    local = origin(p, f) + tl.arange(0, p.tile)
    for index in range(0, p.pitch // p.tile):  # L' Y = Phi, from the last row of blocks up
        first_i = p.pitch - (index + 1) * p.tile
        i = first_i + local
        inverse = load_tile(inverse_blocks(p, f), p.tile, i, local)
        for first_j in range(0, p.pitch, p.tile):
            j = first_j + local
            acc = tl.zeros((p.tile, p.tile), tl.float32)
            for first_k in range(first_i + p.tile, p.pitch, p.tile):
                k = first_k + local
                y = load_tile(d, p.pitch, k, j)
                acc = tl.dot(tl.trans(load_tile(f, p.pitch, k, i)), y, acc, input_precision="ieee")
            rest = load_tile(d, p.pitch, i, j) - acc
            rest = tl.dot(tl.trans(inverse), rest, input_precision="ieee")
            store_tile(d, p.pitch, i, j, rest)
        tl.debug_barrier()
    local = origin(p, f) + tl.arange(0, p.tile)
    for index in range(0, p.pitch // p.tile):  # X L = Y, from the last column of blocks back
        first_j = p.pitch - (index + 1) * p.tile
        j = first_j + local
        inverse = load_tile(inverse_blocks(p, f), p.tile, j, local)
        for first_i in range(0, p.pitch, p.tile):
            i = first_i + local
            acc = tl.zeros((p.tile, p.tile), tl.float32)
            for first_k in range(first_j + p.tile, p.pitch, p.tile):
                k = first_k + local
                x = load_tile(d, p.pitch, i, k)
                acc = tl.dot(x, load_tile(f, p.pitch, k, j), acc, input_precision="ieee")
            rest = load_tile(d, p.pitch, i, j) - acc
            store_tile(d, p.pitch, i, j, tl.dot(rest, inverse, input_precision="ieee"))
        tl.debug_barrier()


@triton.jit(noinline=True)
def kernel_backward(p, s, g, b, f, r, gated: tl.constexpr):
    """Through one exponential kernel: the item's or, `gated`, the user's.

    Writes (or adds to) the gradients of features and gate; returns those of the kernel's weight,
    of its concentration and, not gated, of the counting kernel's weight.
    """
    gamma = tl.load(p.concentration + gated)
    mix = weight(p, b, 1 + gated)
    d = d_correlation(p, f)
    d_mix = tl.zeros((p.tile,), tl.float32)
    d_gamma = tl.zeros((p.tile,), tl.float32)
    d_counts = tl.zeros((p.tile,), tl.float32)
    zero = origin(p, f)
    local = zero + tl.arange(0, p.tile)
    b += zero
    for first_i in range(0, p.pitch, p.tile):
        i = first_i + local
        pull = tl.zeros((p.tile,), tl.float32)
        for first_j in range(0, p.pitch, p.tile):
            j = first_j + local
            related = exists(p, s, b, i)[:, None] & exists(p, s, b, j)[None, :]
            related = related & (i[:, None] != j[None, :])
            # Each pair is met twice, once in either order.
            grad = load_tile(d, p.pitch, i, j) + tl.trans(load_tile(d, p.pitch, j, i))
            grad = tl.where(related, grad / (1.0 + p.jitter), 0.0)
            cos, outer = cosine(p, s, b, f, i, j, gated)
            weighted = tl.where(related, grad * tl.exp(2.0 * gamma * (cos - 1.0)), 0.0)
            d_mix += tl.sum(0.5 * weighted, axis=1)
            d_gamma += tl.sum(weighted * mix * (cos - 1.0), axis=1)
            d_cosine = weighted * mix * (2.0 * gamma)
            # cos_ij = G_ij / sqrt(G_ii G_jj): the norms pull x_i back along itself.
            pull += tl.sum(d_cosine * cos, axis=1)
            store_tile(r, p.pitch, local, j, d_cosine * outer)
            if p.counts is not None and not gated:
                counting = counting_kernel(p, s, b, f, i, j)
                d_counts += tl.sum(tl.where(related, 0.5 * grad * counting, 0.0), axis=1)
        norm = tl.load(inverse_norms(p, f, gated) + i)
        tl.store(r + p.tile * p.pitch + tl.arange(0, p.tile), pull * norm * norm)
        tl.debug_barrier()
        features_backward(p, s, g, b, f, r, first_i, gated)
        tl.debug_barrier()
    return tl.sum(d_mix, axis=0), tl.sum(d_gamma, axis=0), tl.sum(d_counts, axis=0)


@triton.jit(noinline=True)
def features_backward(p, s, g, b, f, r, first_i, gated: tl.constexpr):
    """From d G of a tile of rows in scratch, and what pulls each row along itself."""
    pull = tl.load(r + p.tile * p.pitch + tl.arange(0, p.tile))
    zero = origin(p, f)
    local = zero + tl.arange(0, p.tile)
    b += zero
    i = first_i + local
    for first_c in range(0, p.feature_width, p.chunk):
        c = first_c + zero + tl.arange(0, p.chunk)
        acc = tl.zeros((p.tile, p.chunk), tl.float32)
        for first_j in range(0, p.pitch, p.tile):
            j = first_j + local
            x = load_features(p, s, b, j, c, gated)
            d = rounded(load_tile(r, p.pitch, local, j), p.feature_precision)
            acc = tl.dot(d, x, acc, input_precision=p.feature_precision)
        acc -= pull[:, None] * load_features(p, s, b, i, c, gated)
        inside = c < p.feature_width
        where = (i < s.keys)[:, None] & inside[None, :]
        row = tl.cast(b, tl.int64) * s.keys + i[:, None]
        at = g.features + row * p.feature_width + c[None, :]
        if gated:
            at_gate = g.gate + tl.cast(b, tl.int64) * p.feature_width + c
            share = tl.sum(acc * load_features(p, s, b, i, c, False), axis=0)
            if first_i > 0:
                share += tl.load(at_gate, mask=inside, other=0.0)
            tl.store(at_gate, share, mask=inside)
            acc = acc * load_gate(p, b, c)[None, :]
            acc += tl.load(at, mask=where, other=0.0)
        there = exists(p, s, b, i)[:, None]
        tl.store(at, tl.where(there, acc, 0.0), mask=where)
