// The packed lower triangle, in which K, its Cholesky factor L and the inverse of L take turns.
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
