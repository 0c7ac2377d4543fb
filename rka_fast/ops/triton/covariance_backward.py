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
    write_grams,
)
from rka_fast.ops.triton.tiles import (
    divisible,
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
    counts = 0.0
    if p.counts is not None:
        counts = counts_backward(p, s, b, f)
    tl.store(g.mixture + sequence * 3, counts)
    item_mix, item_gamma, user_mix, user_gamma = 0.0, 0.0, 0.0, 0.0
    for first_i in range(0, p.pitch, p.tile):
        for first_j in range(0, p.pitch, p.tile):
            at = gram_rows(p, r, 0) + first_j
            write_grams(p, s, b, first_i, first_j, at, gram_rows(p, r, 1) + first_j)
        mix0, gamma0, mix1, gamma1 = kernels_backward(p, s, b, f, r, first_i)
        features_backward(p, s, g, b, f, r, first_i)
        tl.debug_barrier()
        item_mix += mix0
        item_gamma += gamma0
        user_mix += mix1
        user_gamma += gamma1
    tl.store(g.concentration + sequence * 2, item_gamma)
    tl.store(g.concentration + sequence * 2 + 1, user_gamma)
    tl.store(g.mixture + sequence * 3 + 1, item_mix)
    tl.store(g.mixture + sequence * 3 + 2, user_mix)


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


@triton.jit
def gram_rows(p, r, gated):
    """A tile of rows of G, then of d G, (tile, pitch), and what pulls each row along itself."""
    return r + gated * p.tile * (p.pitch + 1)


@triton.jit
def kernel_backward(p, b, f, r, grad, i, j, gated):
    """Through a tile of an exponential kernel, from the gradient of K: d G in place of G.

    By rows: what pulls each along itself, for cos_ij = G_ij / sqrt(G_ii G_jj), and the shares of
    the gradients of the kernel's weight and of its concentration.
    """
    gamma = tl.load(p.concentration + gated)
    mix = weight(p, b, 1 + gated)
    local = tl.arange(0, p.tile)
    gram = load_tile(gram_rows(p, r, gated), p.pitch, local, j)
    cos, outer = cosine(p, f, gram, i, j, gated)
    weighted = grad * tl.exp(2.0 * gamma * (cos - 1.0))
    d_mix = 0.5 * tl.sum(weighted, axis=1)
    d_gamma = mix * sum_products(weighted, cos - 1.0, 1)
    d_cosine = weighted * mix * (2.0 * gamma)
    store_tile(gram_rows(p, r, gated), p.pitch, local, j, d_cosine * outer)
    return sum_products(d_cosine, cos, 1), d_mix, d_gamma


@triton.jit
def store_pull(p, f, r, i, pull, gated):
    norm = tl.load(inverse_norms(p, f, gated) + i)
    at = gram_rows(p, r, gated) + p.tile * p.pitch
    tl.store(at + tl.arange(0, p.tile), pull * norm * norm)


@triton.jit(noinline=True)
def kernels_backward(p, s, b, f, r, first_i):
    """Through a tile of rows of both exponential kernels, d G in place of G.

    Returned are the shares of the gradients of weight and concentration, of the item's kernel and
    of the user's.
    """
    zero = tl.zeros((p.tile,), tl.float32)
    pull, d_mix, d_gamma = zero, zero, zero
    user_pull, user_mix, user_gamma = zero, zero, zero
    i = first_i + tl.arange(0, p.tile)
    for first_j in range(0, p.pitch, p.tile):
        j = first_j + tl.arange(0, p.tile)
        grad = pair_gradient(p, s, b, f, i, j)
        along, mix, gamma = kernel_backward(p, b, f, r, grad, i, j, 0)
        pull += along
        d_mix += mix
        d_gamma += gamma
        if p.gate is not None:
            along, mix, gamma = kernel_backward(p, b, f, r, grad, i, j, 1)
            user_pull += along
            user_mix += mix
            user_gamma += gamma
    store_pull(p, f, r, i, pull, 0)
    if p.gate is not None:
        store_pull(p, f, r, i, user_pull, 1)
    tl.debug_barrier()
    d_mix, d_gamma = tl.sum(d_mix, axis=0), tl.sum(d_gamma, axis=0)
    return d_mix, d_gamma, tl.sum(user_mix, axis=0), tl.sum(user_gamma, axis=0)


@triton.jit
def features_product(p, r, x, acc, j, gated):
    local = tl.arange(0, p.tile)
    d = load_tile(gram_rows(p, r, gated), p.pitch, local, j)
    return multiply(rounded(d, p.feature_precision), x, acc, p.feature_precision)


@triton.jit
def load_pull(p, r, gated):
    at = gram_rows(p, r, gated) + p.tile * p.pitch
    return tl.load(at + tl.arange(0, p.tile))[:, None]


@triton.jit(noinline=True)
def features_backward(p, s, g, b, f, r, first_i):
    """From both d G of a tile of rows in scratch, and what pulls each row along itself."""
    local = tl.arange(0, p.tile)
    i = first_i + local
    there = exists(p, s, b, i)[:, None]
    for first_c in range(0, p.feature_width, p.chunk):
        c = first_c + tl.arange(0, p.chunk)
        acc = tl.zeros((p.tile, p.chunk), tl.float32)
        gated = acc
        for first_j in range(0, p.pitch, p.tile):
            j = first_j + local
            x = rounded(load_features(p, s, b, j, c), p.feature_precision)
            acc = features_product(p, r, x, acc, j, 0)
            if p.gate is not None:
                gated = features_product(p, r, x, gated, j, 1)
        own = rounded(load_features(p, s, b, i, c), p.feature_precision)
        acc -= load_pull(p, r, 0) * own
        inside = c < divisible(p.feature_width, p.even_features)
        if p.gate is not None:
            gate = load_gate(p, b, c)
            gated = (gated - load_pull(p, r, 1) * own) * gate  # the gradient of gated features
            acc += gated * gate
            at = g.gate + tl.cast(b, tl.int64) * p.feature_width + c
            share = sum_products(gated, own, 0)
            share += tl.load(at, mask=inside & (first_i > 0), other=0.0)
            tl.debug_barrier()  # every thread has it before one replaces it
            tl.store(at, share, mask=inside)
        row = tl.cast(b, tl.int64) * s.keys + i[:, None]
        at = g.features + row * divisible(p.feature_width, p.even_features) + c[None, :]
        where = (i < s.keys)[:, None] & inside[None, :]
        tl.store(at, tl.where(there, acc, 0.0), mask=where)
