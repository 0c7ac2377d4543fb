// K = L L' of a long sequence by one block, in place, a column of squares after the other.
#pragma once

#include "long_sequence.h"
#include "strip_cholesky.h"

namespace rka::cuda {

// x -= the products of the finished squares to the left of (i, j).
RKA_DEVICE void subtract_squares(const Long& s, const Lane& l, int i, int j,
                                 Strip<Square::TILES>& x) {
  constexpr int P = Square::PITCH;
  Strip<Square::TILES> sum;
  sum.clear();
#pragma unroll 1
  for (int k = 0; k < j; ++k) {
    sync_block();
    s.fetch_square<Square>(s.buffer(1), s.w.relation(s.local, i, k));
    if (i != j) s.fetch_square<Square>(s.buffer(2), s.w.relation(s.local, j, k));
    wait_for_copies<0>();
    sync_block();
    const float* top = s.buffer(1) + kept(l.row(0) * P + 2 * l.t);
    const float* right = s.buffer(i == j ? 1 : 2) + kept(l.g * P + 2 * l.t);
#pragma unroll 1
    for (int n = 0; n < Square::TILES; ++n) {
      const Pair u = load_pair(top + 8 * n), v = load_pair(top + 8 * P + 8 * n);
      const Left a = left_operand(u.x, v.x, u.y, v.y);
#pragma unroll
      for (int m = 0; m < Square::TILES; ++m) {
        multiply_add_all(sum[m], a, load_pair(right + 8 * m * P + 8 * n));
      }
    }
  }
#pragma unroll
  for (int m = 0; m < Square::TILES; ++m) {
    for (int c = 0; c < 4; ++c) x[m][c] -= sum[m][c];
  }
}

// Rows of `x` <- x L'^-1 with L' above the diagonal of `square` and 1 / L's pivots in `inverse`: a
// row to a thread, 16 columns at a time.
RKA_DEVICE void divide_by_upper(float* x, const float* square, const float* inverse) {
  constexpr int P = Square::PITCH;
#pragma unroll 1
  for (int c0 = 0; c0 < SIDE; c0 += STRIP) {
    float sums[STRIP];
    const auto subtract = [&](float y, const float* row, int first) {
#pragma unroll
      for (int i = 0; i < STRIP; i += 4) {
        if (i + 3 <= first) continue;
        const Four l = load4(row + i);
        for (int c = 0; c < 4; ++c) {
          if (i + c > first) sums[i + c] = fmaf(-y, l[c], sums[i + c]);
        }
      }
    };
#pragma unroll
    for (int i = 0; i < STRIP; i += 4) {
      const Four old = load4(x + c0 + i);
      for (int c = 0; c < 4; ++c) sums[i + c] = old[c];
    }
#pragma unroll 1
    for (int k = 0; k < c0; k += 4) {
      const Four y = load4(x + k);
#pragma unroll
      for (int c = 0; c < 4; ++c) subtract(y[c], square + (k + c) * P + c0, -1);
    }
#pragma unroll
    for (int j = 0; j < STRIP; ++j) {
      sums[j] *= inverse[c0 + j];
      subtract(sums[j], square + (c0 + j) * P + c0, j);
    }
#pragma unroll
    for (int i = 0; i < STRIP; i += 4) {
      store4(x + c0 + i, {{sums[i], sums[i + 1], sums[i + 2], sums[i + 3]}});
    }
  }
}

// K of a sequence becomes L; squares on the diagonal get zeros above it.
RKA_DEVICE void factor_squares(const Problem& p, const Workspace& w, int local, float* shared) {
  constexpr int P = Square::PITCH;
  const Long s(p, w, local, 0, shared);
  const Lane l;
  float* inverse = shared + 3 * Square::SQUARE;
  const int thread = thread_index();
#pragma unroll 1
  for (int j = 0; j < w.key_squares; ++j) {
#pragma unroll 1
    for (int i = j; i < w.key_squares; ++i) {
      float *square = w.relation(local, i, j), *at = square + l.row(0) * SIDE + 2 * l.t;
      Strip<Square::TILES> x;
#pragma unroll
      for (int k = 0; k < Square::TILES; ++k) {
        const Pair u = load_pair(at + 8 * k), v = load_pair(at + 8 * SIDE + 8 * k);
        x[k][0] = u.x, x[k][1] = u.y, x[k][2] = v.x, x[k][3] = v.y;
      }
      if (j > 0) subtract_squares(s, l, i, j, x);
      sync_block();
      float* m = s.buffer(i == j ? 0 : 1);
#pragma unroll
      for (int k = 0; k < Square::TILES; ++k) {
        float* to = m + l.row(0) * P + 8 * k + 2 * l.t;
        store_pair(to, x[k][0], x[k][1]);
        store_pair(to + 8 * P, x[k][2], x[k][3]);
      }
      sync_block();
      if (i > j) {
        if (thread < SIDE) divide_by_upper(m + thread * P, s.buffer(0), inverse);
      } else if (l.warp == 0) {
        cholesky<Square>(l, m, s.keys_of(j), p.jitter,
                         [&](int column, float x) { inverse[column] = x; });
      }
      sync_block();
#pragma unroll 1
      for (int n = thread; n < SQUARE_FLOATS / 4; n += WARPS * LANES) {
        const int row = n / (SIDE / 4), column = n % (SIDE / 4) * 4;
        Four y = load4(m + row * P + column);
        for (int c = 0; c < 4; ++c) {
          if (i == j && column + c > row) y[c] = 0.0f;
        }
        store4(square + row * SIDE + column, y);
      }
    }
  }
}

}  // namespace rka::cuda
