// The strip's rows from prior and scores to attention weights, in registers throughout.
#pragma once

#include "../skew_normal.h"
#include "noise.h"
#include "strip_correlation.h"

namespace rka::cuda {

constexpr float LN_2 = 0.6931471805599453f;

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

// Dropout's factors: bit 4 j + c is set where element c of tile j is kept.
template <class S>
RKA_DEVICE uint32_t draw_dropout(const Sequence<S>& s, const Rows& rows, int head) {
  const uint64_t seed = uint64_t(*s.p.seed);
  const int64_t noise_head = s.noise_head(head);
  uint32_t kept = 0;
#pragma unroll 1
  for (int j = 0; j < S::TILES; ++j) {
    if (j / 2 >= rows.pairs) break;
    float tile[4];
    draw_tile(
        s.lane, j,
        [&](int group, int row) {
          return dropout_factors(seed, group, row, noise_head, s.p.dropout);
        },
        tile);
    for (int c = 0; c < 4; ++c) kept |= (tile[c] != 0.0f ? 1u : 0u) << (4 * j + c);
  }
  return kept;
}

// f(factor x) of location and shape: the larger of two lines but for tanh.
template <class S>
RKA_DEVICE void activate_strip(Activation f, float factor, Strip<S::TILES>& x) {
  const float slope = f == Activation::leaky_relu ? 0.01f : f == Activation::relu ? 0.0f : 1.0f;
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

// From scale scores: x <- omega o x, omega = softplus = max(z, 0) + log(1 + e^-|z|).
template <class S>
RKA_DEVICE void apply_scale(const Rows& rows, const Strip<S::TILES>& scores, float factor,
                            float bias, Strip<S::TILES>& x) {
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    if (j / 2 >= rows.pairs) continue;
    for (int c = 0; c < 4; ++c) {
      const float z = fmaf(scores[j][c], factor, bias);
      const float e = exp2_fast(-LOG2_E * fabsf(z));
      x[j][c] *= fmaf(LN_2, log2_fast(1.0f + e), z < 0.0f ? 0.0f : z);
    }
  }
}

template <class S>
RKA_DEVICE void add_bias(const Sequence<S>& s, const Rows& rows, int head, Strip<S::TILES>& x) {
  const int column = kept(s.lane.column(0)), row = kept(s.lane.row(0));
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) {
      if (!rows.allowed(j, c)) continue;
      x[j][c] += s.p.bias.at(s.b, head, row + c / 2 * 8, column + 8 * j + c % 2);
    }
  }
}

// From location scores in y (their activation applied) and omega o S in x: exp(z - max z) into x,
// and the inverse of its sum over the row, 0 where the row sees nothing.
template <class S>
RKA_DEVICE void softmax(const Sequence<S>& s, const Rows& rows, int head, const Strip<S::TILES>& y,
                        Strip<S::TILES>& x, float (&inverse)[2]) {
  if (s.p.bias.data) add_bias(s, rows, head, x);
  float largest[2] = {-3.40282347e38f, -3.40282347e38f}, total[2] = {};
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    if (j / 2 >= rows.pairs) continue;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      x[j][c] = rows.allowed(j, c) ? y[j][c] + x[j][c] : -INFINITY;
      largest[c / 2] = fmaxf(largest[c / 2], x[j][c]);
    }
  }
  for (float& l : largest) l = largest_of_row(l);
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    if (j / 2 >= rows.pairs) continue;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      x[j][c] = exp2_fast(LOG2_E * (x[j][c] - largest[c / 2]));
      total[c / 2] += x[j][c];
    }
  }
  for (int half = 0; half < 2; ++half) {
    const float sum = sum_of_row(total[half]);
    inverse[half] = sum == 0.0f ? 0.0f : reciprocal(sum);
  }
}

template <class S>
RKA_DEVICE void drop(uint32_t kept, float factor, Strip<S::TILES>& x) {
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) x[j][c] *= kept >> (4 * j + c) & 1 ? factor : 0.0f;
  }
}

}  // namespace rka::cuda
