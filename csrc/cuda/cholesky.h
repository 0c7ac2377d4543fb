// K = L L' in the packed triangle, the inverse of L in its place, and the backward pass.
#pragma once

#include "triangle.h"

namespace rka::cuda {

// Bit j of the result: the pivot of column j was not positive. It is then `least` (see cholesky),
// and the column ends there, for what stands below it is rounding as well.
RKA_DEVICE int factor_block(Block44& a, float least) {
  int ended = 0;
  for (int j = 0; j < 4; ++j) {
    float pivot = a.row[j][j];
    for (int k = 0; k < j; ++k) pivot = fmaf(-a.row[j][k], a.row[j][k], pivot);
    const bool ends = pivot <= 0.0f;
    ended |= int(ends) << j;
    pivot = sqrtf(ends ? least : pivot);
    const float inverse = ends ? 0.0f : 1.0f / pivot;
    a.row[j][j] = pivot;
    for (int i = j + 1; i < 4; ++i) {
      float x = a.row[i][j];
      for (int k = 0; k < j; ++k) x = fmaf(-a.row[i][k], a.row[j][k], x);
      a.row[i][j] = x * inverse;
      a.row[j][i] = 0.0f;
    }
  }
  return ended;
}

// x <- x l'^-1 for lower l, but zero in the columns that have ended.
RKA_DEVICE void solve_right_transposed(Block44& x, const Block44& l, int ended) {
  for (int j = 0; j < 4; ++j) {
    const float inverse = ended >> j & 1 ? 0.0f : 1.0f / l.row[j][j];
    for (int i = 0; i < 4; ++i) {
      float y = x.row[i][j];
      for (int k = 0; k < j; ++k) y = fmaf(-x.row[i][k], l.row[j][k], y);
      x.row[i][j] = y * inverse;
    }
  }
}

// l^-1 for lower l
RKA_DEVICE Block44 invert_block(const Block44& l) {
  Block44 x;
  for (int i = 0; i < 4; ++i) {
    const float inverse = 1.0f / l.row[i][i];
    for (int j = 0; j < 4; ++j) {
      float y = i == j ? 1.0f : 0.0f;
      for (int k = j; k < i; ++k) y = fmaf(-l.row[i][k], x.row[k][j], y);
      x.row[i][j] = j > i ? 0.0f : y * inverse;
    }
  }
  return x;
}

// f(i, j) for 0 <= j <= i < n: row i and row n - 1 - i together make n + 1 units.
template <class Block, class F>
RKA_DEVICE void for_each_pair(const Block& block, int n, F f) {
  block.for_each((n + 1) / 2 * (n + 1), [&](int unit) {
    const int a = unit / (n + 1), b = unit % (n + 1), longer = n - 1 - a;
    if (b <= longer) {
      f(longer, b);
    } else if (a != longer) {
      f(a, b - longer - 1);
    }
  });
}

// K -> L. In exact arithmetic no pivot is below `least`, as the jitter was added to K. NaN becomes
// NaN throughout, as in the reference.
template <class F>
RKA_DEVICE void cholesky(const F& f) {
  float* l = f.factor;
  const int blocks = f.p.layout.keys4 / 4;
  const float least = f.p.jitter / (1.0f + f.p.jitter);
  f.block.for_each(1, [&](int) { *f.failed = 0.0f; });
  for (int k = 0; k < blocks; ++k) {
    f.block.for_each(blocks - k, [&](int i) {  // every thread factors the diagonal block
      Block44 diagonal = load_block(l, block_index(k, k));
      const int ended = factor_block(diagonal, least);
      if (i == 0) {
        for (int r = 0; r < 4; ++r) {
          store4(f.diagonal + 4 * r, diagonal.row[r]);
          const float pivot = diagonal.row[r][r];
          if (!(pivot > 0.0f && pivot < INFINITY)) *f.failed = 1.0f;
        }
      } else {
        Block44 x = load_block(l, block_index(k + i, k));
        solve_right_transposed(x, diagonal, ended);
        store_block(l, block_index(k + i, k), x);
      }
    });
    const auto store_diagonal = [&] {
      for (int r = 0; r < 4; ++r) {
        store4(l + row_offset(block_index(k, k), r), load4(f.diagonal + 4 * r));
      }
    };
    if (k == blocks - 1) f.block.for_each(1, [&](int) { store_diagonal(); });
    for_each_pair(f.block, blocks - k - 1, [&](int i, int j) {
      if (i + j == 0) store_diagonal();
      const int I = k + 1 + i, J = k + 1 + j;
      Block44 c = load_block(l, block_index(I, J));
      subtract_product_transposed(c, load_block(l, block_index(I, k)),
                                  load_block(l, block_index(J, k)));
      store_block(l, block_index(I, J), c);
    });
  }
  f.block.for_each(int(f.p.layout.factor_size()), [&](int i) {
    if (*f.failed != 0.0f) l[i] = NAN;
  });
}

// L -> L^-1, row of blocks by row of blocks.
template <class F>
RKA_DEVICE void invert(const F& f) {
  float* l = f.factor;
  const int blocks = f.p.layout.keys4 / 4;
  const auto kept = [&] {
    Block44 x;
    for (int r = 0; r < 4; ++r) x.row[r] = load4(f.diagonal + 4 * r);
    return x;
  };
  const Block44 zero = {};
  for (int k = 0; k < blocks; ++k) {
    f.block.for_each(k + 1, [&](int j) {  // row k is final
      const Block44 inverse = invert_block(load_block(l, block_index(k, k)));
      if (j == k) {
        for (int r = 0; r < 4; ++r) store4(f.diagonal + 4 * r, inverse.row[r]);
      } else {
        Block44 x = zero;
        subtract_product(x, inverse, load_block(l, block_index(k, j)));
        for (int r = 0; r < 4; ++r) {
          for (int c = 0; c < 4; ++c) x.row[r][c] = -x.row[r][c];
        }
        store_block(l, block_index(k, j), x);
      }
    });
    const int below = blocks - 1 - k;
    f.block.for_each(below * k, [&](int unit) {  // the rows below feel row k ...
      const int i = k + 1 + unit / k, j = unit % k;
      Block44 c = load_block(l, block_index(i, j));
      subtract_product(c, load_block(l, block_index(i, k)), load_block(l, block_index(k, j)));
      store_block(l, block_index(i, j), c);
    });
    f.block.for_each(below + 1, [&](int unit) {  // ... and its diagonal block
      Block44 c = kept();
      if (unit > 0) {
        const Block44 inverse = c;
        c = zero;
        subtract_product(c, load_block(l, block_index(k + unit, k)), inverse);
      }
      store_block(l, block_index(k + unit, k), c);
    });
  }
}

// d_covariance <- L^-T Phi(L' d_covariance) L^-1, the gradient of K from that of L up to symmetry
// (Murray, arXiv 1602.07527). L is replaced by its inverse on the way.
template <class F>
RKA_DEVICE void cholesky_backward(const F& f) {
  const int keys = f.p.keys;
  float *gradient = f.d_covariance, *in = f.tile[0], *out = f.tile[1];
  const auto gradient_at = [&](int i, int j) -> float& { return gradient[int64_t(i) * keys + j]; };
  const auto load_columns = [&](const Tile& t, bool lower) {
    f.elements(t.cols4, [&](int k, int r) {
      const bool inside = k < keys && r < t.rows && (!lower || k >= t.t0 + r);
      in[f.at(k, r)] = inside ? gradient_at(k, t.t0 + r) : 0.0f;
    });
  };
  for (int index = 0; index < f.key_tile_count(); ++index) {
    const Tile t = f.key_tile(index);
    load_columns(t, true);
    multiply_packed<Packed::lower>(f, t.cols4, in, out);
    f.elements(t.cols4, [&](int i, int r) {
      const int j = t.t0 + r;
      if (i >= keys || r >= t.rows) return;
      gradient_at(i, j) = i < j ? 0.0f : (i == j ? 0.5f : 1.0f) * out[f.at(i, r)];
    });
  }
  invert(f);
  for (int index = 0; index < f.key_tile_count(); ++index) {
    const Tile t = f.key_tile(index);
    load_columns(t, false);
    multiply_packed<Packed::lower>(f, t.cols4, in, out);
    f.elements(t.cols4, [&](int i, int r) {
      if (i < keys && r < t.rows) gradient_at(i, t.t0 + r) = out[f.at(i, r)];
    });
  }
  for (int index = 0; index < f.key_tile_count(); ++index) {
    const Tile t = f.key_tile(index);
    f.elements_by_row(t.cols4, [&](int k, int r) {
      in[f.at(k, r)] = k < keys && r < t.rows ? gradient_at(t.t0 + r, k) : 0.0f;
    });
    multiply_packed<Packed::lower>(f, t.cols4, in, out);
    f.elements_by_row(t.cols4, [&](int j, int r) {
      if (j < keys && r < t.rows) gradient_at(t.t0 + r, j) = out[f.at(j, r)];
    });
  }
}

}  // namespace rka::cuda
