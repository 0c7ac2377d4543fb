// The draw of a strip, or its mean: noise and the deviates S, in registers throughout.
#pragma once

#include "../skew_normal.h"
#include "philox.h"
#include "strip_covariance.h"

namespace rka::cuda {

// f(column group, row, words) brings four numbers for four columns of a row; the lanes of a pair
// take one row each and exchange halves, so that nothing is drawn twice.
template <class F>
RKA_DEVICE void draw_tile(const Lane& l, int tile, F f, float (&out)[4]) {
  const bool odd = l.t & 1;
  const Four z = f(2 * tile + l.t / 2, l.first_row + l.g + (odd ? 8 : 0));
  const float first = shuffle_xor(odd ? z[0] : z[2], 1), second = shuffle_xor(odd ? z[1] : z[3], 1);
  out[0] = odd ? first : z[0], out[1] = odd ? second : z[1];
  out[2] = odd ? z[2] : first, out[3] = odd ? z[3] : second;
}

// E of the warp's rows. A loop for the sake of the instruction cache; the strip turns by one tile
// a step, as registers cannot be indexed.
template <class S>
RKA_DEVICE void draw_noise(const Sequence<S>& s, const Rows& rows, int head,
                           Strip<S::TILES>& noise) {
  const uint64_t seed = uint64_t(*s.p.seed);
  const int64_t noise_head = s.noise_head(head);
  noise.clear();
#pragma unroll 1
  for (int j = 0; j < S::TILES; ++j) {
    float tile[4] = {};
    if (j / 2 < rows.pairs) {
      draw_tile(
          s.lane, j, [&](int group, int row) { return normals(seed, group, row, noise_head); },
          tile);
    }
#pragma unroll
    for (int i = 0; i + 1 < S::TILES; ++i) {
      for (int c = 0; c < 4; ++c) noise[i][c] = noise[i + 1][c];
    }
    for (int c = 0; c < 4; ++c) noise[S::TILES - 1][c] = tile[c];
  }
}

// T of row g and of row g + 8.
template <class S>
RKA_DEVICE void draw_skew(const Sequence<S>& s, int head, float (&out)[2]) {
  const bool odd = s.lane.t & 1;
  const int row = s.lane.row(odd);
  const float own = skew_noise_of_row(uint64_t(*s.p.seed), row, s.noise_head(head));
  const float other = shuffle_xor(own, 1);
  out[0] = odd ? other : own, out[1] = odd ? own : other;
}

// Of the piecewise linear f where the score is not positive.
RKA_DEVICE float slope_of(Activation f) {
  return f == Activation::leaky_relu ? 0.01f : f == Activation::relu ? 0.0f : 1.0f;
}

// f(factor x) of location and shape: the larger of two lines but for tanh.
template <class S>
RKA_DEVICE void activate_strip(Activation f, float factor, Strip<S::TILES>& x) {
  const float slope = slope_of(f);
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (float& y : x[j]) {
      y *= factor;
      y = fmaxf(y, slope * y);
    }
  }
  if (f != Activation::tanh) return;
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (float& y : x[j]) y = tanh_(y);
  }
}

// What the draw leaves for the backward pass.
struct Draw {
  SkewRow<float> row[2];
};

// From the shapes A in x: S = C L' with C = E + c B and B = A L, in x again. set_aside(C, B).
template <class S, class F>
RKA_DEVICE Draw draw_skew_normal(const Sequence<S>& s, const Rows& rows, int head,
                                 Strip<S::TILES>& x, Strip<S::TILES>& b, F set_aside) {
  float q[2] = {}, projection[2] = {}, skew[2];
  multiply_lower<S>(s.lane, b, x, s.square, rows.pairs);
  draw_noise(s, rows, head, x);
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) {
      q[c / 2] = fmaf(b[j][c], b[j][c], q[c / 2]);
      projection[c / 2] = fmaf(b[j][c], x[j][c], projection[c / 2]);
    }
  }
  draw_skew(s, head, skew);
  Draw draw;
  for (int half = 0; half < 2; ++half) {
    draw.row[half] = SkewRow<float>::sample_of(inverse_sqrt(1.0f + sum_of_row(q[half])),
                                               sum_of_row(projection[half]) + skew[half]);
  }
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) x[j][c] = fmaf(draw.row[c / 2].p_weight, b[j][c], x[j][c]);
  }
  set_aside(x, b);
  multiply_lower_transposed<S>(s.lane, x, s.square, rows.pairs);
  return draw;
}

// The mean: S = c P with P = A K, in x; P comes out as well.
template <class S>
RKA_DEVICE Draw mean_of_skew_normal(const Sequence<S>& s, const Rows& rows, Strip<S::TILES>& x,
                                    Strip<S::TILES>& product) {
  product.clear();
  const int depth = 2 * rows.pairs < S::TILES ? 2 * rows.pairs : S::TILES;
  multiply_rows<S>(s.lane, product, x, depth, s.square, rows.pairs);
  clear_beyond<S>(product, rows.pairs);
  float q[2] = {};
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) q[c / 2] = fmaf(x[j][c], product[j][c], q[c / 2]);
  }
  Draw draw;
  for (int half = 0; half < 2; ++half)
    draw.row[half] = SkewRow<float>::mean_of(inverse_sqrt(1.0f + sum_of_row(q[half])));
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) x[j][c] = draw.row[c / 2].p_weight * product[j][c];
  }
  return draw;
}

}  // namespace rka::cuda
