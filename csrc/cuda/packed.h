// The packed lower triangle: K, its Cholesky factor L, and the inverse of L, all in place.
//
// The triangle is cut into 4 x 4 blocks, 16 consecutive floats each, block (I, J) with J <= I at
// I (I + 1) / 2 + J. A block is four loads and 64 multiply-adds whichever way it is applied. Its
// rows are rotated by half the block's number: then eight threads that read the same row of
// neighbouring blocks (I fixed or J fixed; triangular numbers are distinct modulo 8) meet eight
// different groups of banks.
#pragma once

#include "frame.h"

namespace rka::cuda {

struct Block44 {
  Four row[4];
};

RKA_DEVICE int block_index(int i, int j) { return i * (i + 1) / 2 + j; }
RKA_DEVICE int row_offset(int block, int row) { return 16 * block + 4 * ((row + block / 2) & 3); }

RKA_DEVICE Block44 load_block(const float* packed, int block) {
  Block44 x;
  for (int i = 0; i < 4; ++i) x.row[i] = load4(packed + row_offset(block, i));
  return x;
}
RKA_DEVICE void store_block(float* packed, int block, const Block44& x) {
  for (int i = 0; i < 4; ++i) store4(packed + row_offset(block, i), x.row[i]);
}
RKA_DEVICE float& packed_at(float* packed, int i, int j) {
  return packed[row_offset(block_index(i / 4, j / 4), i & 3) + (j & 3)];
}

// c -= a b
RKA_DEVICE void subtract_product(Block44& c, const Block44& a, const Block44& b) {
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 4; ++k) {
      for (int j = 0; j < 4; ++j) c.row[i][j] = fmaf(-a.row[i][k], b.row[k][j], c.row[i][j]);
    }
  }
}
// c -= a b'
RKA_DEVICE void subtract_product_transposed(Block44& c, const Block44& a, const Block44& b) {
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      for (int k = 0; k < 4; ++k) c.row[i][j] = fmaf(-a.row[i][k], b.row[j][k], c.row[i][j]);
    }
  }
}

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

// One 4 x 4 piece of tile times packed: sums[column][row] += x[k][row] m[k][column], where block
// m is stored as it is (LOWER) or transposed.
template <bool LOWER, class F>
RKA_DEVICE void multiply_block(const F& f, const float* in, int k, int g, int block, Four* sums) {
  const Block44 m = load_block(f.factor, block);
  Four x[4];
  for (int i = 0; i < 4; ++i) x[i] = load4(in + f.at(4 * k + i, 4 * g));
  for (int i = 0; i < 4; ++i) {
    for (int c = 0; c < 4; ++c) {
      const float y = LOWER ? m.row[i][c] : m.row[c][i];
      for (int r = 0; r < 4; ++r) sums[c][r] = fmaf(x[i][r], y, sums[c][r]);
    }
  }
}

enum class Packed { lower, transposed, symmetric };

// out = in M for a tile, M the packed triangle, its transpose, or the symmetric matrix it is half
// of. Columns of `in` from cols on count as zero.
template <Packed M, class F>
RKA_DEVICE void multiply_packed(const F& f, int cols4, const float* in, float* out) {
  const int shift = f.p.layout.tile_shift - 2, blocks = cols4 / 4;
  f.block.for_each(blocks << shift, [&](int i) {
    const int g = i & ((1 << shift) - 1), j = i >> shift;
    Four sums[4] = {};
    if constexpr (M != Packed::lower) {
      const int end = M == Packed::symmetric ? j : j + 1;
      for (int k = 0; k < end; ++k) {
        multiply_block<false>(f, in, k, g, block_index(j, k), sums);
      }
    }
    if constexpr (M != Packed::transposed) {
      for (int k = j; k < blocks; ++k) {
        multiply_block<true>(f, in, k, g, block_index(k, j), sums);
      }
    }
    for (int c = 0; c < 4; ++c) store4(out + f.at(4 * j + c, 4 * g), sums[c]);
  });
}

}  // namespace rka::cuda
