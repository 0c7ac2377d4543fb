// The adjoint of the draw for short sequences, and what the backward pass keeps for it of a head.
#pragma once

#include "strip_attention.h"

namespace rka::cuda {

enum SavedStrip {
  SAVED_SLOPES,     // d alpha / d shape score
  SAVED_SHAPES,     // A
  SAVED_PRODUCTS,   // B = A L, for the mean P = A K
  SAVED_SUMS,       // C = E + c B
  SAVED_DRAWS,      // S
  SAVED_LOCATIONS,  // f(location scores), for tanh
  SAVED_SCALES,     // scale scores
  SAVED_D_LOGITS,
  SAVED_D_FACTOR,
  SAVED_STRIPS
};

template <class S>
struct Saved {
  float* place;

  static constexpr int FLOATS = 4 * WARPS * LANES * S::TILES;  // of a strip, all threads'
  RKA_DEVICE Saved(const Problem& p, int64_t scratch)
      : place(p.scratch + scratch * p.scratch_per_block + 4 * thread_index()) {}

  RKA_DEVICE void put(int which, const Strip<S::TILES>& x) const {
#pragma unroll
    for (int j = 0; j < S::TILES; ++j) {
      store4(place + which * FLOATS + 4 * WARPS * LANES * j,
             {{x[j][0], x[j][1], x[j][2], x[j][3]}});
    }
  }
  RKA_DEVICE Strip<S::TILES> get(int which) const {
    Strip<S::TILES> x;
#pragma unroll
    for (int j = 0; j < S::TILES; ++j) {
      const Four u = load4_again(place + which * FLOATS + 4 * WARPS * LANES * j);
      for (int c = 0; c < 4; ++c) x[j][c] = u[c];
    }
    return x;
  }
};

static_assert(strip_scratch(MOST_TILES) == SAVED_STRIPS * Saved<Shape<MOST_TILES>>::FLOATS);

// What one head leaves for its gradients besides the saved strips.
template <class S>
struct HeadState {
  Rows rows;
  Draw draw;
  uint32_t positive = 0;  // bit 4 j + c: the location score is
  uint32_t kept = ~0u;    // of dropout
};

// For the mean, from d S in x: adds A' d P to the gradient of K, leaves that of the shapes in x.
template <class S>
RKA_DEVICE void mean_backward(const Sequence<S>& s, const Saved<S>& saved, const HeadState<S>& h,
                              Strip<S::TILES>& x, Strip<S::TILES>& sum) {
  const Problem& p = s.p;
  const Lane& l = s.lane;
  Strip<S::TILES> y = saved.get(SAVED_PRODUCTS);
  float along[2] = {}, of_a[2];
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) along[c / 2] = fmaf(x[j][c], y[j][c], along[c / 2]);
  }
  for (int half = 0; half < 2; ++half) {
    of_a[half] = SkewRowGrad<float>::of(h.draw.row[half], sum_of_row(along[half])).shape_to_p;
  }
  {
    const Strip<S::TILES> a = saved.get(SAVED_SHAPES);
#pragma unroll
    for (int j = 0; j < S::TILES; ++j) {
      for (int c = 0; c < 4; ++c) {
        x[j][c] = fmaf(h.draw.row[c / 2].p_weight, x[j][c], of_a[c / 2] * a[j][c]);
        y[j][c] *= of_a[c / 2];
      }
    }
    sync_block();
    s.put(a, s.buffer(0));
  }
  s.put(x, s.buffer(1));
  sync_block();
  const int last = (p.rows + 7) / 8, from = p.causal ? 2 * l.warp : 0;
  multiply_transposed<S>(l, sum, s.buffer(0), s.buffer(1), from, last, S::TILES);
  const int depth = 2 * h.rows.pairs < S::TILES ? 2 * h.rows.pairs : S::TILES;
  multiply_rows<S>(l, y, x, depth, s.square, h.rows.pairs);
  x = y;
}

// d S = d Z omega; adds to the gradient of the factor, for the mean to that of K, and leaves that
// of the shapes in x.
template <class S>
RKA_DEVICE void draw_backward(const Sequence<S>& s, const Saved<S>& saved, const HeadState<S>& h,
                              bool first, Strip<S::TILES>& x) {
  const Problem& p = s.p;
  const Lane& l = s.lane;
  const int last = (p.rows + 7) / 8, from = p.causal ? 2 * l.warp : 0;
  const int width = l.first_row < p.keys ? 2 * (l.warp + 1) : 0;  // up to the diagonal
  Strip<S::TILES> y = saved.get(SAVED_SCALES), sum;
  x = saved.get(SAVED_D_LOGITS);
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) x[j][c] *= softplus_fast(y[j][c]);
  }
  if (first) {
    sum.clear();
  } else {
    sum = saved.get(SAVED_D_FACTOR);
  }
  if (p.mode == Mode::mean) {
    mean_backward(s, saved, h, x, sum);
    saved.put(SAVED_D_FACTOR, sum);
    return;
  }
  y = saved.get(SAVED_SUMS);
#pragma unroll 1  // d L = d S' C + A' d B
  for (bool shapes = false;; shapes = true) {
    sync_block();
    s.put(x, s.buffer(0));
    s.put(y, s.buffer(1));
    sync_block();
    multiply_transposed<S>(l, sum, s.buffer(0), s.buffer(1), from, last, width);
    if (shapes || !p.has_shape()) break;
    x = s.get(s.buffer(0));                              // which needs no registers meanwhile
    multiply_lower<S>(l, y, x, s.square, h.rows.pairs);  // d C
    const Strip<S::TILES> b = saved.get(SAVED_PRODUCTS);
    x = saved.get(SAVED_SUMS);
    float along[2] = {};
#pragma unroll
    for (int j = 0; j < S::TILES; ++j) {
      for (int c = 0; c < 4; ++c) along[c / 2] = fmaf(y[j][c], b[j][c], along[c / 2]);
    }
    float of_c[2], of_b[2];
    for (int half = 0; half < 2; ++half) {
      const SkewRowGrad<float> g =
          SkewRowGrad<float>::of(h.draw.row[half], sum_of_row(along[half]));
      of_c[half] = g.shape_to_x;  // of E = C - c B
      of_b[half] = 2.0f * g.shape_to_p - g.shape_to_x * h.draw.row[half].p_weight;
    }
#pragma unroll
    for (int j = 0; j < S::TILES; ++j) {
      for (int c = 0; c < 4; ++c) {
        const float noise = fmaf(of_c[c / 2], x[j][c], of_b[c / 2] * b[j][c]);
        y[j][c] = fmaf(h.draw.row[c / 2].p_weight, y[j][c], noise);
      }
    }
    x = saved.get(SAVED_SHAPES);
  }
  saved.put(SAVED_D_FACTOR, sum);
  if (p.has_shape()) {
    x = s.get(s.buffer(1));
    multiply_lower_transposed<S>(l, x, s.square, h.rows.pairs);
  }
}

}  // namespace rka::cuda
