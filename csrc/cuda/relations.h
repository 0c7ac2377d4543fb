// Ready-made K and L: read by a call, and their gradients.
#pragma once

#include "triangle.h"

namespace rka::cuda {

// A ready-made L, or K for the mean, into the packed triangle.
template <class F>
RKA_DEVICE void load_ready(const F& f) {
  const Problem& p = f.p;
  const bool lower = p.mode == Mode::sample;
  const float* x = (lower ? p.factor : p.correlation) + int64_t(f.b) * p.keys * p.keys;
  for (int index = 0; index << p.layout.tile_shift < p.layout.keys4; ++index) {
    const Tile t = f.key_tile(index);
    f.elements_by_row(t.cols4, [&](int j, int row) {
      const int i = t.t0 + row;
      if (i >= p.layout.keys4 || j / 4 > i / 4) return;
      const bool inside = i < p.keys && j < p.keys, given = inside && (j <= i || !lower);
      const float beyond = i == j ? 1.0f : 0.0f;
      packed_at(f.factor, i, j) = given ? x[int64_t(i) * p.keys + j] : beyond;
    });
  }
}

// The gradient of a ready-made L, zeros above its diagonal, or of K for the mean.
template <class F>
RKA_DEVICE void store_ready(const F& f) {
  const Problem& p = f.p;
  const int keys = p.keys;
  float* to = p.mode == Mode::sample ? p.d_factor : p.d_correlation;
  if (!to) return;
  to += int64_t(f.b) * keys * keys;
  f.block.for_each(keys * keys, [&](int i) {
    const bool above = p.mode == Mode::sample && i % keys > i / keys;
    to[i] = above ? 0.0f : f.d_covariance[i];
  });
}

}  // namespace rka::cuda
