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
  SAVED_D_LOGITS
};
static_assert(SAVED_D_LOGITS + 1 == SAVED_STRIPS);

// Strips in global memory, each thread's in a place of its own.
template <class S>
struct Saved {
  float* place;

  static constexpr int FLOATS = 4 * WARPS * LANES * S::TILES;
  RKA_DEVICE explicit Saved(float* first) : place(first + 4 * thread_index()) {}

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

static_assert(strip_floats(MOST_TILES) == Saved<Shape<MOST_TILES>>::FLOATS);

// What the kernels of the backward pass hand on of a sequence.
template <class S>
RKA_DEVICE Saved<S> handed_on(const Problem& p, int b) {
  const int64_t strips = HANDED_PRIOR + strip_priors(p);
  return Saved<S>(p.handed + (b - p.first) * strips * Saved<S>::FLOATS);
}

// What one head leaves for its gradients besides the saved strips.
template <class S>
struct HeadState {
  Rows rows;
  Draw draw;
  uint32_t positive = 0;  // bit 4 j + c: the location score is
  uint32_t kept = ~0u;    // of dropout
};

// Adds x' y of the first and the second buffer to the gradient that is handed on.
template <class S>
RKA_DEVICE void add_handed(const Sequence<S>& s, const Saved<S>& handed, bool first, int tiles) {
  const Problem& p = s.p;
  Strip<S::TILES> sum;
  if (first) {
    sum.clear();
  } else {
    sum = handed.get(HANDED_D_FACTOR);
  }
  multiply_transposed<S>(s.lane, sum, s.buffer(0), s.buffer(1), p.causal ? 2 * s.lane.warp : 0,
                         (p.rows + 7) / 8, tiles);
  handed.put(HANDED_D_FACTOR, sum);
}

// For the mean, from d S in x: adds A' d P to the gradient of K, leaves that of the shapes in x.
template <class S>
RKA_DEVICE void mean_backward(const Sequence<S>& s, const Saved<S>& saved, const Saved<S>& handed,
                              const HeadState<S>& h, bool first, Strip<S::TILES>& x) {
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
  add_handed(s, handed, first, S::TILES);
  const int depth = 2 * h.rows.pairs < S::TILES ? 2 * h.rows.pairs : S::TILES;
  multiply_square_rows<S, false>(s.lane, y, s.buffer(1), depth, s.square, h.rows.pairs);
  x = y;
}

// d S = d Z omega; adds to the gradient of the factor, for the mean to that of K, and leaves that
// of the shapes in x.
template <class S>
RKA_DEVICE void draw_backward(const Sequence<S>& s, const Saved<S>& saved, const Saved<S>& handed,
                              const HeadState<S>& h, bool first, Strip<S::TILES>& x) {
  const Problem& p = s.p;
  const Lane& l = s.lane;
  const int tiles = l.first_row < p.keys ? 2 * (l.warp + 1) : 0;  // up to the diagonal
  Strip<S::TILES> y = saved.get(SAVED_SCALES);
  x = saved.get(SAVED_D_LOGITS);
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) x[j][c] *= softplus_fast(y[j][c]);
  }
  if (p.mode == Mode::mean) return mean_backward(s, saved, handed, h, first, x);
  y = saved.get(SAVED_SUMS);
#pragma unroll 1  // d L = d S' C + A' d B
  for (bool shapes = false;; shapes = true) {
    sync_block();
    s.put(x, s.buffer(0));
    s.put(y, s.buffer(1));
    sync_block();
    add_handed(s, handed, first && !shapes, tiles);
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
  if (p.has_shape()) {
    x = s.get(s.buffer(1));
    multiply_lower_transposed<S>(l, x, s.square, h.rows.pairs);
  }
}

}  // namespace rka::cuda
