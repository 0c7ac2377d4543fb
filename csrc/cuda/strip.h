// Strips: 16 rows of a matrix in the registers of one warp, and their products on tensor cores.
//
// Of an 8-column tile a lane holds rows g and g + 8, columns 2 t and 2 t + 1 (g = lane / 4,
// t = lane % 4). That is how the tensor core returns a product. It wants its left operand's
// columns t and t + 4 instead; but the columns of the left operand may be numbered as one likes if
// the rows of the right one are numbered alike, so t stands for 2 t and t + 4 for 2 t + 1. Hence a
// product is the left operand of the next without leaving the registers, and a lane's part of the
// right operand, kept by rows, is one load of eight bytes.
//
// TF32 keeps 11 bits of a number. Three products make up for it: x = high + low on either side,
// low * high + high * low + high * high; low * low is lost. The left operand's high part is
// rounded, so that what is lost has no preferred sign; on the right the hardware truncates.
#pragma once

#include "strip_plan.h"
#include "warp.h"

namespace rka::cuda {

constexpr int STRIP = 16;  // rows of a strip: four warps have 64

// Where a thread stands.
struct Lane {
  int warp, lane, g, t, first_row;
  // `first`: the row of the block's first.
  RKA_DEVICE explicit Lane(int first = 0)
      : warp(uniform_in_warp(thread_index() / LANES)),
        lane(thread_index() % LANES),
        g(lane / 4),
        t(lane % 4),
        first_row(first + STRIP * warp) {}
  RKA_DEVICE int row(int half) const { return first_row + g + 8 * half; }
  RKA_DEVICE int column(int tile) const { return 8 * tile + 2 * t; }
  // Whether this lane has the diagonal element of row g, and that of row g + 8.
  RKA_DEVICE bool has_diagonal() const { return t == g / 2; }
};

// Element c of a tile is row g + 8 (c / 2), column 2 t + c % 2.
template <int TILES>
struct Strip {
  float v[TILES][4];
  RKA_DEVICE float (&operator[](int tile))[4] { return v[tile]; }
  RKA_DEVICE const float (&operator[](int tile) const)[4] { return v[tile]; }
  RKA_DEVICE void clear() {
    for (auto& tile : v) {
      for (float& x : tile) x = 0.0f;
    }
  }
};

// The diagonal element of row g + 8 half, in the lane that has it.
template <class S>
RKA_DEVICE float diagonal(const Lane& l, const Strip<S::TILES>& x, int half) {
  float result = 0.0f;
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    if (j % 2 == half && j / 2 == l.warp) {
      result = l.g % 2 ? x[j][2 * half + 1] : x[j][2 * half];
    }
  }
  return result;
}

// The left operand of a product, from a tile in the layout of a result.
struct Left {
  float high[4], low[4];
};
RKA_DEVICE Left left_operand(float x0, float x1, float x2, float x3) {
  Left a;
  split(x0, a.high[0], a.low[0]);
  split(x1, a.high[1], a.low[1]);
  split(x2, a.high[2], a.low[2]);
  split(x3, a.high[3], a.low[3]);
  return a;
}
RKA_DEVICE Left left_operand(const float (&tile)[4]) {
  return left_operand(tile[0], tile[2], tile[1], tile[3]);
}
RKA_DEVICE float low_part(float x) { return x - bits_to_float(float_to_bits(x) & 0xFFFFE000u); }

RKA_DEVICE void multiply_add(float (&c)[4], const Left& a, Pair b) {
  multiply_tile(c, a.low, b.x, b.y);
  multiply_tile(c, a.high, low_part(b.x), low_part(b.y));
  multiply_tile(c, a.high, b.x, b.y);
}
// Two products at a time: neither waits for its own sum.
RKA_DEVICE void multiply_add(float (&c)[4], float (&d)[4], const Left& a, Pair b, Pair e) {
  multiply_tile(c, a.low, b.x, b.y);
  multiply_tile(d, a.low, e.x, e.y);
  multiply_tile(c, a.high, low_part(b.x), low_part(b.y));
  multiply_tile(d, a.high, low_part(e.x), low_part(e.y));
  multiply_tile(c, a.high, b.x, b.y);
  multiply_tile(d, a.high, e.x, e.y);
}

// Where an ill-conditioned K would magnify what is lost: all four products, the right operand
// rounded too.
RKA_DEVICE void multiply_add_all(float (&c)[4], const Left& a, Pair b) {
  Pair high, low;
  split(b.x, high.x, low.x);
  split(b.y, high.y, low.y);
  multiply_tile(c, a.low, low.x, low.y);
  multiply_tile(c, a.low, high.x, high.y);
  multiply_tile(c, a.high, low.x, low.y);
  multiply_tile(c, a.high, high.x, high.y);
}

// x restricted to what is on or above (UPPER) or below the diagonal of a tile: row g, column 2 t.
template <bool UPPER>
RKA_DEVICE Pair triangle(const Lane& l, Pair x) {
  const int first = 2 * l.t;
  if (UPPER ? first < l.g : first > l.g) x.x = 0.0f;
  if (UPPER ? first + 1 < l.g : first + 1 > l.g) x.y = 0.0f;
  return x;
}

// The products below go over pairs of tiles, and over the first `pairs` only, where a warp's rows
// see no further. `in` must be zero beyond.

// out += in rows', the right operand by rows, `depth` tiles deep. EXACT: TF32 holds all numbers of
// both, as it does those of half precision: one product is enough.
template <class S, bool EXACT = false>
RKA_DEVICE void multiply_rows(const Lane& l, Strip<S::TILES>& out, const Strip<S::TILES>& in,
                              int depth, const float* rows, int pairs) {
  rows += kept(l.g * S::PITCH + 2 * l.t);
#pragma unroll
  for (int k = 0; k < S::TILES; ++k) {
    if (k >= depth) continue;
    const float whole[4] = {in[k][0], in[k][2], in[k][1], in[k][3]};
    Left a;
    if constexpr (!EXACT) a = left_operand(in[k]);
#pragma unroll
    for (int j = 0; j < S::TILES; j += 2) {
      if (j / 2 >= pairs) continue;
      const Pair b = load_pair(rows + 8 * j * S::PITCH + 8 * k);
      Pair e = {};
      if (j + 1 < S::TILES) e = load_pair(rows + 8 * (j + 1) * S::PITCH + 8 * k);
      if constexpr (EXACT) {
        multiply_tile(out[j], whole, b.x, b.y);
        if (j + 1 < S::TILES) multiply_tile(out[(j + 1) % S::TILES], whole, e.x, e.y);
      } else if (j + 1 < S::TILES) {
        multiply_add(out[j], out[(j + 1) % S::TILES], a, b, e);
      } else {
        multiply_add(out[j], a, b);
      }
    }
  }
}

// out += one tile of columns of a left operand times the rows of the right one that begin at `at`,
// `width` tiles wide.
template <class S>
RKA_DEVICE void multiply_tile_columns(Strip<S::TILES>& out, const Left& a, const float* at,
                                      int width) {
#pragma unroll
  for (int j = 0; j < S::TILES; j += 2) {
    if (j >= width) continue;
    const float* v = at + 8 * j;
    const Pair b = {v[0], v[S::PITCH]};
    if (j + 1 < S::TILES) {
      multiply_add(out[j], out[(j + 1) % S::TILES], a, b, {v[8], v[S::PITCH + 8]});
    } else {
      multiply_add(out[j], a, b);
    }
  }
}

// out += in columns, the right operand by rows of which `in` has the weights; `width` tiles wide.
template <class S>
RKA_DEVICE void multiply_columns(const Lane& l, Strip<S::TILES>& out, const Strip<S::TILES>& in,
                                 int pairs, const float* columns, int width) {
  columns += kept(2 * l.t * S::PITCH + l.g);
#pragma unroll
  for (int k = 0; k < S::TILES; ++k) {
    if (k / 2 >= pairs) continue;
    multiply_tile_columns<S>(out, left_operand(in[k]), columns + 8 * k * S::PITCH, width);
  }
}

// The same with the weights in a square, of which the warp has its own rows: less code.
template <class S>
RKA_DEVICE void multiply_square_columns(const Lane& l, Strip<S::TILES>& out, const float* square,
                                        int pairs, const float* columns, int width) {
  const bool below = l.first_row + l.g + 8 < S::SIZE;  // or the row above once more
  const float *top = square + kept((l.first_row + l.g) * S::PITCH + 2 * l.t),
              *bottom = top + (below ? 8 * S::PITCH : 0);
  columns += kept(2 * l.t * S::PITCH + l.g);
  const int depth = 2 * pairs < S::TILES ? 2 * pairs : S::TILES;
#pragma unroll 1
  for (int k = 0; k < depth; ++k) {
    const Pair u = load_pair(top + 8 * k), v = load_pair(bottom + 8 * k);
    multiply_tile_columns<S>(out, left_operand(u.x, v.x, u.y, v.y), columns + 8 * k * S::PITCH,
                             width);
  }
}

// out = in L, where the square has L below and L' above its diagonal.
template <class S>
RKA_DEVICE void multiply_lower(const Lane& l, Strip<S::TILES>& out, const Strip<S::TILES>& in,
                               const float* square, int pairs) {
  const float* rows = square + kept(l.g * S::PITCH + 2 * l.t);
  out.clear();
#pragma unroll
  for (int i = 0; i < S::TILES; i += 2) {
    if (i / 2 >= pairs) continue;
#pragma unroll
    for (int j = i; j < S::TILES; ++j) {
      if (j / 2 >= pairs) continue;
      const Left a = left_operand(in[j]);
      Pair b = load_pair(rows + 8 * i * S::PITCH + 8 * j);
      if (j == i) b = triangle<true>(l, b);
      if (j == i || i + 1 == S::TILES) {
        multiply_add(out[i], a, b);
        continue;
      }
      Pair e = load_pair(rows + 8 * (i + 1) * S::PITCH + 8 * j);
      if (j == i + 1) e = triangle<true>(l, e);
      multiply_add(out[i], out[(i + 1) % S::TILES], a, b, e);
    }
  }
}

// x = x L', in place: from the last columns on.
template <class S>
RKA_DEVICE void multiply_lower_transposed(const Lane& l, Strip<S::TILES>& x, const float* square,
                                          int pairs) {
  const float* rows = square + kept(l.g * S::PITCH + 2 * l.t);
#pragma unroll
  for (int i = (S::TILES - 1) / 2 * 2; i >= 0; i -= 2) {
    const bool two = i + 1 < S::TILES;
    float u[4] = {}, v[4] = {};
    if (i / 2 < pairs) {
#pragma unroll
      for (int j = 0; j <= i + 1 && j < S::TILES; ++j) {
        const Left a = left_operand(x[j]);
        Pair b = {}, e = {};
        if (j <= i) b = load_pair(rows + 8 * i * S::PITCH + 8 * j);
        if (two) e = load_pair(rows + 8 * (i + 1) * S::PITCH + 8 * j);
        if (j == i) b = triangle<false>(l, b);
        if (j == i + 1) e = triangle<false>(l, e);
        if (!two) {
          multiply_add(u, a, b);
        } else if (j <= i) {
          multiply_add(u, v, a, b, e);
        } else {
          multiply_add(v, a, e);
        }
      }
    }
    for (int c = 0; c < 4; ++c) {
      x[i][c] = u[c];
      if (two) x[(i + 1) % S::TILES][c] = v[c];
    }
  }
}

// out += x' y of two squares, sums over tiles first .. last of their rows: 16 columns of x from
// `column` on, `width` tiles of y.
template <class S>
RKA_DEVICE void multiply_transposed(const Lane& l, Strip<S::TILES>& out, const float* x,
                                    const float* y, int first, int last, int width) {
  const int second = l.first_row + l.g + 8 < S::SIZE ? 8 : 0;
  x += kept(2 * l.t * S::PITCH + l.first_row + l.g);
  y += kept(2 * l.t * S::PITCH + l.g);
#pragma unroll 1
  for (int k = first; k < last; ++k) {
    const float* u = x + 8 * k * S::PITCH;
    const Left a = left_operand(u[0], u[second], u[S::PITCH], u[S::PITCH + second]);
    multiply_tile_columns<S>(out, a, y + 8 * k * S::PITCH, width);
  }
}

// out += L' y: the warp's rows of L' from above the diagonal of the square, y by rows.
template <class S>
RKA_DEVICE void multiply_upper(const Lane& l, Strip<S::TILES>& out, const float* square,
                               const float* y, int last) {
  const bool below = l.first_row + l.g + 8 < S::SIZE;
  const float* top = square + kept((l.first_row + l.g) * S::PITCH + 2 * l.t);
  y += kept(2 * l.t * S::PITCH + l.g);
#pragma unroll 1
  for (int k = 2 * l.warp; k < last; ++k) {
    Pair u = load_pair(top + 8 * k), v = load_pair(top + (below ? 8 * S::PITCH : 0) + 8 * k);
    if (k == 2 * l.warp) u = triangle<true>(l, u), v = {0.0f, 0.0f};
    if (k == 2 * l.warp + 1) v = triangle<true>(l, v);
    const Left a = left_operand(u.x, v.x, u.y, v.y);
    const float* at = y + 8 * k * S::PITCH;
#pragma unroll
    for (int j = 0; j < S::TILES; ++j) {
      if (j / 2 > l.warp) continue;
      multiply_add(out[j], a, {at[8 * j], at[8 * j + S::PITCH]});
    }
  }
}

// x <- x L^-1, in place: from the last columns on, 16 at a time. The square has L' above its
// diagonal, but the transposed inverses of L's 16 x 16 blocks on it.
template <class S>
RKA_DEVICE void divide_by_lower(const Lane& l, Strip<S::TILES>& x, const float* square, int pairs) {
  const float* rows = square + kept(l.g * S::PITCH + 2 * l.t);
#pragma unroll
  for (int i = (S::TILES - 1) / 2 * 2; i >= 0; i -= 2) {
    if (i / 2 >= pairs) continue;
    const int next = (i + 1) % S::TILES;
    const bool two = i + 1 < S::TILES;
    const float *top = rows + 8 * i * S::PITCH, *bottom = rows + 8 * next * S::PITCH;
#pragma unroll
    for (int j = i + 2; j < S::TILES; ++j) {
      if (j / 2 >= pairs) continue;
      const Left a = left_operand(-x[j][0], -x[j][2], -x[j][1], -x[j][3]);
      multiply_add(x[i], x[next], a, load_pair(top + 8 * j), load_pair(bottom + 8 * j));
    }
    float u[4] = {}, v[4] = {};
    multiply_add(u, left_operand(x[i]), triangle<true>(l, load_pair(top + 8 * i)));
    if (two) {
      const Left a = left_operand(x[next]);
      const Pair e = triangle<true>(l, load_pair(bottom + 8 * next));
      multiply_add(u, v, a, load_pair(top + 8 * next), e);
    }
    for (int c = 0; c < 4; ++c) {
      x[i][c] = u[c];
      if (two) x[next][c] = v[c];
    }
  }
}

}  // namespace rka::cuda
