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
// Two products at a time.
RKA_DEVICE void multiply_add(float (&c)[4], float (&d)[4], const Left& a, Pair b, Pair e) {
  multiply_tile(c, a.low, b.x, b.y);
  multiply_tile(d, a.low, e.x, e.y);
  multiply_tile(c, a.high, low_part(b.x), low_part(b.y));
  multiply_tile(d, a.high, low_part(e.x), low_part(e.y));
  multiply_tile(c, a.high, b.x, b.y);
  multiply_tile(d, a.high, e.x, e.y);
}
// COUNT products at a time, of tiles from FIRST on: none waits for its own sum.
template <int COUNT, int FIRST = 0, int TILES>
RKA_DEVICE void multiply_add(Strip<TILES>& c, const Left& a, const Pair (&b)[COUNT]) {
#pragma unroll
  for (int j = 0; j < COUNT; ++j) multiply_tile(c[FIRST + j], a.low, b[j].x, b[j].y);
#pragma unroll
  for (int j = 0; j < COUNT; ++j) {
    multiply_tile(c[FIRST + j], a.high, low_part(b[j].x), low_part(b[j].y));
  }
#pragma unroll
  for (int j = 0; j < COUNT; ++j) multiply_tile(c[FIRST + j], a.high, b[j].x, b[j].y);
}

// Where an ill-conditioned K would magnify what is lost: all four products, the right operand
// rounded too.
RKA_DEVICE void multiply_add_all(float (&c)[4], const Left& a, Pair high, Pair low) {
  multiply_tile(c, a.low, low.x, low.y);
  multiply_tile(c, a.low, high.x, high.y);
  multiply_tile(c, a.high, low.x, low.y);
  multiply_tile(c, a.high, high.x, high.y);
}
RKA_DEVICE void multiply_add_all(float (&c)[4], const Left& a, Pair b) {
  Pair high, low;
  split(b.x, high.x, low.x);
  split(b.y, high.y, low.y);
  multiply_add_all(c, a, high, low);
}

// x restricted to what is on or above (UPPER) or below the diagonal of a tile: row g, column 2 t.
template <bool UPPER>
RKA_DEVICE Pair triangle(const Lane& l, Pair x) {
  const int first = 2 * l.t;
  if (UPPER ? first < l.g : first > l.g) x.x = 0.0f;
  if (UPPER ? first + 1 < l.g : first + 1 > l.g) x.y = 0.0f;
  return x;
}

// Tiles that a warp's rows do not see.
template <class S>
RKA_DEVICE void clear_beyond(Strip<S::TILES>& x, int pairs) {
#pragma unroll
  for (int j = 2; j < S::TILES; ++j) {
    if (j / 2 < pairs) continue;
    for (float& u : x[j]) u = 0.0f;
  }
}

// The products below go over the first four tiles or over all, and over the first `pairs` only in
// depth, where a warp's rows see no further. `in` must be zero beyond, and so are the results
// of multiply_lower and multiply_lower_transposed.
template <int COUNT>
struct Width {
  static constexpr int value = COUNT;
};
template <int TILES, class F>
RKA_DEVICE void with_width(int tiles, F f) {
  if (TILES > 4 && tiles <= 4) {
    f(Width < TILES<4 ? TILES : 4>());
  } else {
    f(Width<TILES>());
  }
}

// out += a tile of the left operand times `at`, where the right one's rows are 8 PITCH apart.
// EXACT: TF32 holds all numbers of both, as it does those of half precision: one product is enough.
template <class S, int COUNT, bool EXACT>
RKA_DEVICE void multiply_tile_rows(Strip<S::TILES>& out, const float (&tile)[4], const float* at) {
  Pair b[COUNT];
#pragma unroll
  for (int j = 0; j < COUNT; ++j) b[j] = load_pair(at + 8 * j * S::PITCH);
  if constexpr (EXACT) {
    const float whole[4] = {tile[0], tile[2], tile[1], tile[3]};
#pragma unroll
    for (int j = 0; j < COUNT; ++j) multiply_tile(out[j], whole, b[j].x, b[j].y);
  } else {
    multiply_add(out, left_operand(tile), b);
  }
}

// out += in rows', the right operand by rows, `depth` tiles deep.
template <class S, bool EXACT = false>
RKA_DEVICE void multiply_rows(const Lane& l, Strip<S::TILES>& out, const Strip<S::TILES>& in,
                              int depth, const float* rows, int pairs) {
  rows += kept(l.g * S::PITCH + 2 * l.t);
  if (pairs == 0) return;
  with_width<S::TILES>(2 * pairs, [&](auto width) {
#pragma unroll
    for (int k = 0; k < S::TILES; ++k) {
      if (k >= depth) continue;
      multiply_tile_rows<S, width.value, EXACT>(out, in[k], rows + 8 * k);
    }
  });
}

// The same with the left operand in a square, of which the warp has its own rows: less code.
template <class S, bool EXACT>
RKA_DEVICE void multiply_square_rows(const Lane& l, Strip<S::TILES>& out, const float* square,
                                     int depth, const float* rows, int pairs) {
  const bool below = l.first_row + l.g + 8 < S::SIZE;  // or the row above once more
  const float *top = square + kept((l.first_row + l.g) * S::PITCH + 2 * l.t),
              *bottom = top + (below ? 8 * S::PITCH : 0);
  rows += kept(l.g * S::PITCH + 2 * l.t);
  if (pairs == 0) return;
  with_width<S::TILES>(2 * pairs, [&](auto width) {
#pragma unroll 2
    for (int k = 0; k < depth; ++k) {
      const Pair u = load_pair(top + 8 * k), v = load_pair(bottom + 8 * k);
      multiply_tile_rows<S, width.value, EXACT>(out, {u.x, u.y, v.x, v.y}, rows + 8 * k);
    }
  });
}

// out += one tile of columns of a left operand times the rows of the right one that begin at `at`.
template <class S, int COUNT>
RKA_DEVICE void multiply_tile_columns(Strip<S::TILES>& out, const Left& a, const float* at) {
  Pair b[COUNT];
#pragma unroll
  for (int j = 0; j < COUNT; ++j) b[j] = {at[8 * j], at[8 * j + S::PITCH]};
  multiply_add(out, a, b);
}

// out += in columns, the right operand by rows of which `in` has the weights; `tiles` wide.
template <class S>
RKA_DEVICE void multiply_columns(const Lane& l, Strip<S::TILES>& out, const Strip<S::TILES>& in,
                                 int pairs, const float* columns, int tiles) {
  columns += kept(2 * l.t * S::PITCH + l.g);
  with_width<S::TILES>(tiles, [&](auto width) {
#pragma unroll
    for (int k = 0; k < S::TILES; ++k) {
      if (k / 2 >= pairs) continue;
      multiply_tile_columns<S, width.value>(out, left_operand(in[k]), columns + 8 * k * S::PITCH);
    }
  });
}

// The same with the weights in a square, of which the warp has its own rows: less code.
template <class S>
RKA_DEVICE void multiply_square_columns(const Lane& l, Strip<S::TILES>& out, const float* square,
                                        int pairs, const float* columns, int tiles) {
  const bool below = l.first_row + l.g + 8 < S::SIZE;  // or the row above once more
  const float *top = square + kept((l.first_row + l.g) * S::PITCH + 2 * l.t),
              *bottom = top + (below ? 8 * S::PITCH : 0);
  columns += kept(2 * l.t * S::PITCH + l.g);
  const int depth = 2 * pairs < S::TILES ? 2 * pairs : S::TILES;
  with_width<S::TILES>(tiles, [&](auto width) {
#pragma unroll 1
    for (int k = 0; k < depth; ++k) {
      const Pair u = load_pair(top + 8 * k), v = load_pair(bottom + 8 * k);
      multiply_tile_columns<S, width.value>(out, left_operand(u.x, v.x, u.y, v.y),
                                            columns + 8 * k * S::PITCH);
    }
  });
}

// out = in L, where the square has L below and L' above its diagonal.
template <class S>
RKA_DEVICE void multiply_lower(const Lane& l, Strip<S::TILES>& out, const Strip<S::TILES>& in,
                               const float* square, int pairs) {
  const float* rows = square + kept(l.g * S::PITCH + 2 * l.t);
  out.clear();
#pragma unroll
  for (int k = 0; k < S::TILES; ++k) {
    if (k / 2 >= pairs) continue;
    const Left a = left_operand(in[k]);
    Pair b[S::TILES];
#pragma unroll
    for (int j = 0; j <= k; ++j) b[j] = load_pair(rows + 8 * j * S::PITCH + 8 * k);
    b[k] = triangle<true>(l, b[k]);
#pragma unroll
    for (int j = 0; j <= k; ++j) multiply_tile(out[j], a.low, b[j].x, b[j].y);
#pragma unroll
    for (int j = 0; j <= k; ++j) multiply_tile(out[j], a.high, low_part(b[j].x), low_part(b[j].y));
#pragma unroll
    for (int j = 0; j <= k; ++j) multiply_tile(out[j], a.high, b[j].x, b[j].y);
  }
}

// x = x L', in place: from the last columns on.
template <class S>
RKA_DEVICE void multiply_lower_transposed(const Lane& l, Strip<S::TILES>& x, const float* square,
                                          int pairs) {
  const float* rows = square + kept(l.g * S::PITCH + 2 * l.t);
#pragma unroll
  for (int k = S::TILES - 1; k >= 0; --k) {
    if (k / 2 >= pairs) continue;
    const Left a = left_operand(x[k]);
    for (float& u : x[k]) u = 0.0f;
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // of the tiles: the second may be out of sight
      const int first = half == 0 ? k : k > 4 ? k : 4, last = half == 0 ? 4 : S::TILES;
      if (first >= last || (half == 1 && pairs <= 2)) continue;
      Pair b[S::TILES];
#pragma unroll
      for (int j = first; j < last; ++j) b[j] = load_pair(rows + 8 * j * S::PITCH + 8 * k);
      if (first == k) b[k] = triangle<false>(l, b[k]);
#pragma unroll
      for (int j = first; j < last; ++j) multiply_tile(x[j], a.low, b[j].x, b[j].y);
#pragma unroll
      for (int j = first; j < last; ++j) {
        multiply_tile(x[j], a.high, low_part(b[j].x), low_part(b[j].y));
      }
#pragma unroll
      for (int j = first; j < last; ++j) multiply_tile(x[j], a.high, b[j].x, b[j].y);
    }
  }
  clear_beyond<S>(x, pairs);
}

// out += x' y of two squares, sums over tiles first .. last of their rows: 16 columns of x from
// `column` on, `tiles` of y.
template <class S>
RKA_DEVICE void multiply_transposed(const Lane& l, Strip<S::TILES>& out, const float* x,
                                    const float* y, int first, int last, int tiles) {
  const int second = l.first_row + l.g + 8 < S::SIZE ? 8 : 0;
  x += kept(2 * l.t * S::PITCH + l.first_row + l.g);
  y += kept(2 * l.t * S::PITCH + l.g);
  with_width<S::TILES>(tiles, [&](auto width) {
#pragma unroll 1
    for (int k = first; k < last; ++k) {
      const float* u = x + 8 * k * S::PITCH;
      const Left a = left_operand(u[0], u[second], u[S::PITCH], u[S::PITCH + second]);
      multiply_tile_columns<S, width.value>(out, a, y + 8 * k * S::PITCH);
    }
  });
}

// out += L' y: the warp's rows of L' from above the diagonal of the square, y by rows.
template <class S>
RKA_DEVICE void multiply_upper(const Lane& l, Strip<S::TILES>& out, const float* square,
                               const float* y, int last) {
  const bool below = l.first_row + l.g + 8 < S::SIZE;
  const float* top = square + kept((l.first_row + l.g) * S::PITCH + 2 * l.t);
  y += kept(2 * l.t * S::PITCH + l.g);
  with_width<S::TILES>(2 * (l.warp + 1), [&](auto width) {
#pragma unroll 1
    for (int k = 2 * l.warp; k < last; ++k) {
      Pair u = load_pair(top + 8 * k), v = load_pair(top + (below ? 8 * S::PITCH : 0) + 8 * k);
      if (k == 2 * l.warp) u = triangle<true>(l, u), v = {0.0f, 0.0f};
      if (k == 2 * l.warp + 1) v = triangle<true>(l, v);
      multiply_tile_columns<S, width.value>(out, left_operand(u.x, v.x, u.y, v.y),
                                            y + 8 * k * S::PITCH);
    }
  });
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
    float u[4] = {}, v[4] = {};
    multiply_add(u, left_operand(x[i]), triangle<true>(l, load_pair(top + 8 * i)));
    if (two) {
      const Left a = left_operand(x[next]);
      multiply_add(u, a, load_pair(top + 8 * next));
      multiply_add(v, a, triangle<true>(l, load_pair(bottom + 8 * next)));
    }
    for (int c = 0; c < 4; ++c) {
      x[i][c] = u[c];
      if (two) x[next][c] = v[c];
    }
    // These columns are done with: they are subtracted from all before them.
#pragma unroll
    for (int k = i; k < i + 1 + two; ++k) {
      const Left a = left_operand(-x[k][0], -x[k][2], -x[k][1], -x[k][3]);
      Pair b[S::TILES];
#pragma unroll
      for (int j = 0; j < i; ++j) b[j] = load_pair(rows + 8 * j * S::PITCH + 8 * k);
#pragma unroll
      for (int j = 0; j < i; ++j) multiply_tile(x[j], a.low, b[j].x, b[j].y);
#pragma unroll
      for (int j = 0; j < i; ++j) multiply_tile(x[j], a.high, low_part(b[j].x), low_part(b[j].y));
#pragma unroll
      for (int j = 0; j < i; ++j) multiply_tile(x[j], a.high, b[j].x, b[j].y);
    }
  }
}

}  // namespace rka::cuda
