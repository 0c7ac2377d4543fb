"""What a tile of rows of one head keeps in scratch, of every key and of every row."""

import triton
import triton.language as tl

# Rows in scratch: what each of them holds. The backward pass uses them all.
PRIOR = tl.constexpr(0)
ALPHA = tl.constexpr(1)  # A
PRODUCT = tl.constexpr(2)  # B, or P for the mean; in the backward pass then C
NOISE = tl.constexpr(3)  # E
SLOPE = tl.constexpr(4)  # d alpha / d score
DEVIATES = tl.constexpr(5)  # S, then d S
LOCATION = tl.constexpr(6)  # scores, then their gradient
SCALE = tl.constexpr(7)
WEIGHTS = tl.constexpr(8)  # d W, then d C and d B
TIMES = tl.constexpr(9)  # with relative times alone: what they add to the logits, then d Z
LOGITS = ALPHA  # in the forward pass, which has no more use of A by then: first S, then Z
FORWARD_ROWS = 4
BACKWARD_ROWS = 9

# One value for each row of the tile, before the rows in scratch.
PRIOR_SCALE = tl.constexpr(0)  # 1 / the largest entry of the prior
Q = tl.constexpr(1)
PROJECTION = tl.constexpr(2)  # A.X + T
LARGEST = tl.constexpr(3)  # logit
TOTAL = tl.constexpr(4)  # of exponentials
INNER = tl.constexpr(5)  # sum_j W d W
VALUES = tl.constexpr(8)


@triton.jit
def rows_at(p, r, which: tl.constexpr):
    return r + (VALUES + which * p.pitch) * p.rows_tile


@triton.jit
def load_value(p, r, which: tl.constexpr):
    return tl.load(r + which * p.rows_tile + tl.arange(0, p.rows_tile))


@triton.jit
def store_value(p, r, which: tl.constexpr, x):
    tl.store(r + which * p.rows_tile + tl.arange(0, p.rows_tile), x)
