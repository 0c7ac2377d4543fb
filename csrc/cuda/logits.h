// The attention weights of a tile: shape, the draw (or mean) S, location, scale, softmax, dropout.
// Forward and backward run the same code.
#pragma once

#include "../skew_normal.h"
#include "correlation.h"

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

template <class F>
RKA_DEVICE void apply_dropout(const F& f, const Tile& t, float* weights) {
  if (f.p.dropout == 0.0f) return;
  const uint64_t seed = uint64_t(*f.p.seed);
  f.elements(t.cols4 / 4, [&](int group, int r) {
    const Four keep = dropout_factors(seed, group, t.position + r, f.noise_head(t), f.p.dropout);
    for (int c = 0; c < 4; ++c) weights[f.at(4 * group + c, r)] *= keep[c];
  });
}

// Location scores in tile 0, S in tile 1, scale scores (with their bias) in tile 2, and the
// attention weights before dropout in `weights`, which may be tile 1.
template <bool SAVE, class F>
RKA_DEVICE void weights_tile(const F& f, const Tile& t, float* weights) {
  const Problem& p = f.p;
  const bool spread = p.has_spread();
  if (spread) {
    deviates_tile<SAVE>(f, t);
    scores(f, t, p.scale_query, p.scale_key, inverse_root(p.scale_query.width), f.tile[2]);
  }
  scores(f, t, p.query, p.key, p.location_scale, f.tile[0]);
  const float scale_bias = p.scale_bias ? p.scale_bias[t.head] : 0.0f;
  f.row_largest(t.cols4, -3.40282347e38f, [&](int j, int r) {
    const int at = f.at(j, r);
    float z = -INFINITY;
    if (f.allowed(t, j, r)) {
      z = activate(p.activation, f.tile[0][at]);
      if (p.bias.data) z += p.bias.at(f.b, t.head, t.t0 + r, j);
      if (p.time_table) z += p.time_table[t.head * p.time_table_head + f.time_bucket_of(t, j, r)];
      if (spread) z = fmaf(softplus(f.tile[2][at] + scale_bias).value, f.tile[1][at], z);
    }
    weights[at] = z;
    return z;
  });
  f.template row_sums<1>(
      t.cols4,
      [&](int j, int r, float (&sums)[1]) {
        float& w = weights[f.at(j, r)];
        w = expf(w - f.row_value(LARGEST, r));
        sums[0] += w;
      },
      [&](int r, const float (&totals)[1]) { f.row_value(TOTAL, r) = totals[0]; });
  f.elements(t.cols4, [&](int j, int r) {
    float& w = weights[f.at(j, r)];
    w = w == 0.0f ? 0.0f : w / f.row_value(TOTAL, r);  // a row that sees nothing stays zero
  });
}

// What a block does first: which keys exist, K and, for a draw, its factor.
template <class F>
RKA_DEVICE void prepare(const F& f) {
  describe_keys(f);
  if (!f.p.needs_covariance()) return;
  if (f.p.correlation) return load_ready(f);
  correlation(f);
  if (f.p.mode == Mode::sample) cholesky(f);
}

}  // namespace rka::cuda
