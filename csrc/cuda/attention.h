// softmax(Z) V: the attention weights of a tile, and the forward pass of one block, which takes
// part `part` of `parts` of the tiles of one sequence.
#pragma once

#include "cholesky.h"
#include "relations.h"
#include "skew_normal.h"

namespace rka::cuda {

constexpr int FORWARD_TILES = 3;

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

// Blocks of one sequence repeat its factorisation and share its tiles, head by head. How many
// blocks there are changes nothing in the results.
template <class Block>
RKA_DEVICE void forward_block(const Block& block, const Problem& p, int b, int64_t scratch,
                              int part, int parts, float* shared) {
  const Frame<Block> f(block, p, b, scratch, shared);
  prepare(f);
  const int tiles = f.tile_count();
  for (int index = part; index < p.heads * tiles; index += parts) {
    const Tile t = f.tile_at(index / tiles, index % tiles);
    float* weights = f.tile[1];
    weights_tile<false>(f, t, weights);
    apply_dropout(f, t, weights);
    const int64_t first = (f.noise_head(t) * p.rows + t.t0) * p.value.width;
    with_type(p.scalar, [&](auto type) {
      using T = decltype(type);
      T* out = static_cast<T*>(p.output) + first;
      const T* value = static_cast<const T*>(f.rows_of(p.value, t.head, 0).data);
      weighted_rows_of(
          f, t, weights, value, p.value.row, p.value.width,
          [&](int r, int c, float x) { narrow(x, out + int64_t(r) * p.value.width + c); });
    });
  }
}

}  // namespace rka::cuda
