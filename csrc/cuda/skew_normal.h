// The draw of a tile, or its mean: shapes, noise and the deviates S. Forward and backward run the
// same code.
#pragma once

#include "../skew_normal.h"
#include "covariance.h"

namespace rka::cuda {

// What the backward pass sets aside while the forward is recomputed.
enum SavedTile { SAVED_SHAPE, SAVED_SLOPE, SAVED_PRODUCT, SAVED_WEIGHTS };

// alpha into tile 0; with SAVE, alpha and d alpha / d score are set aside.
template <bool SAVE, class F>
RKA_DEVICE void shape_tile(const F& f, const Tile& t) {
  const Problem& p = f.p;
  shape_prior(f, t);
  scores(f, t, p.shape_query, p.shape_key, inverse_root(p.shape_query.width), f.tile[0]);
  f.elements(t.cols4, [&](int j, int r) {
    const int at = f.at(j, r);
    const float score = f.tile[0][at], prior = f.tile[2][at];
    const float alpha = activate(p.activation, score) * prior;
    f.tile[0][at] = alpha;
    if constexpr (SAVE) {
      f.saved[SAVED_SHAPE][at] = alpha;
      f.saved[SAVED_SLOPE][at] = activation_slope(p.activation, score) * prior;
    }
  });
}

// E into `out`.
template <class F>
RKA_DEVICE void noise_tile(const F& f, const Tile& t, float* out) {
  const uint64_t seed = uint64_t(*f.p.seed);
  f.elements(t.cols4 / 4, [&](int group, int r) {
    const Four e = normals(seed, group, t.position + r, f.noise_head(t));
    for (int c = 0; c < 4; ++c) out[f.at(4 * group + c, r)] = r < t.rows ? e[c] : 0.0f;
  });
}

RKA_DEVICE SkewRow<float> skew_row(Mode mode, float q, float projection) {
  return mode == Mode::sample ? SkewRow<float>::sample(q, projection) : SkewRow<float>::mean(q);
}

// S into tile 1. With B = A L the draw is S = X + c P = (E + c B) L', q = |B|^2 and A.X = B.E: one
// product with each triangle, and K itself is not needed. The mean needs no factor: S = c A K.
template <bool SAVE, class F>
RKA_DEVICE void deviates_tile(const F& f, const Tile& t) {
  const Problem& p = f.p;
  float *in = f.tile[0], *out = f.tile[1];
  if (!p.needs_covariance()) {
    f.elements(t.cols4, [&](int j, int r) { out[f.at(j, r)] = 0.0f; });
    return;
  }
  if (!p.has_shape()) {
    noise_tile(f, t, in);
    multiply_packed<Packed::transposed>(f, t.cols4, in, out);
    return;
  }
  shape_tile<SAVE>(f, t);
  if (p.mode == Mode::mean) {
    multiply_packed<Packed::symmetric>(f, t.cols4, in, out);
    f.template row_sums<1>(
        t.cols4,
        [&](int j, int r, float (&sums)[1]) { sums[0] += in[f.at(j, r)] * out[f.at(j, r)]; },
        [&](int r, const float (&totals)[1]) { f.row_value(Q, r) = totals[0]; });
    f.elements(t.cols4, [&](int j, int r) {
      if constexpr (SAVE) f.saved[SAVED_PRODUCT][f.at(j, r)] = out[f.at(j, r)];
      out[f.at(j, r)] *= skew_row(p.mode, f.row_value(Q, r), 0.0f).p_weight;
    });
    return;
  }
  const uint64_t seed = uint64_t(*p.seed);
  multiply_packed<Packed::lower>(f, t.cols4, in, out);
  f.template row_sums<2>(
      t.cols4 / 4,
      [&](int group, int r, float (&sums)[2]) {
        const Four e = normals(seed, group, t.position + r, f.noise_head(t));
        for (int c = 0; c < 4; ++c) {
          const int at = f.at(4 * group + c, r);
          const float b = out[at];
          in[at] = r < t.rows ? e[c] : 0.0f;
          sums[0] = fmaf(b, b, sums[0]);
          sums[1] = fmaf(b, e[c], sums[1]);
          if constexpr (SAVE) f.saved[SAVED_PRODUCT][at] = b;
        }
      },
      [&](int r, const float (&totals)[2]) {
        f.row_value(Q, r) = totals[0];
        f.row_value(PROJECTION, r) =
            totals[1] + skew_noise_of_row(seed, t.position + r, f.noise_head(t));
      });
  f.elements(t.cols4, [&](int j, int r) {
    const float c = skew_row(p.mode, f.row_value(Q, r), f.row_value(PROJECTION, r)).p_weight;
    in[f.at(j, r)] = fmaf(c, out[f.at(j, r)], in[f.at(j, r)]);
  });
  multiply_packed<Packed::transposed>(f, t.cols4, in, out);
}

}  // namespace rka::cuda
