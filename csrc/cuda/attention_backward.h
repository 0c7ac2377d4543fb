// The backward pass of one block: one sequence, so that every gradient has one owner.
//
// Nothing of the forward pass is kept: the weights are computed again, tile by tile.
#pragma once

#include "attention.h"

namespace rka::cuda {

constexpr int BACKWARD_TILES = 4;

template <class F>
RKA_DEVICE void set_zero(const F& f, float* x, int64_t per_sequence) {
  if (!x) return;
  x += f.b * per_sequence;
  f.block.for_each(int(per_sequence), [&](int i) { x[i] = 0.0f; });
}

// The gradients of query and key (B, H, n or m, d) from those of their scores.
template <class F>
RKA_DEVICE void scores_backward(const F& f, const Tile& t, const float* d_scores,
                                const Heads& query, const Heads& key, float factor, float* d_query,
                                float* d_key) {
  if (d_query) {
    float* out = d_query + (f.noise_head(t) * f.p.rows + t.t0) * query.width;
    weighted_rows(f, t, d_scores, key,
                  [&](int r, int c, float x) { out[int64_t(r) * query.width + c] = factor * x; });
  }
  accumulate_keys(f, t, d_scores, query, factor, d_key);
}

// From the weights in tile 3: tile 0 = d location scores, 1 = d S, 2 = d scale scores.
template <class F>
RKA_DEVICE void softmax_backward(const F& f, const Tile& t) {
  const Problem& p = f.p;
  const bool spread = p.has_spread();
  float *weights = f.saved[SAVED_WEIGHTS], *d_weights = f.tile[3];
  f.copy_tile(t.cols4, f.tile[3], weights);
  apply_dropout(f, t, f.tile[3]);
  accumulate_keys(f, t, f.tile[3], p.grad, 1.0f, p.d_value);
  scores(f, t, p.grad, p.value, 1.0f, d_weights);
  apply_dropout(f, t, d_weights);
  f.template row_sums<1>(
      t.cols4,
      [&](int j, int r, float (&sums)[1]) {
        sums[0] += weights[f.at(j, r)] * d_weights[f.at(j, r)];
      },
      [&](int r, const float (&totals)[1]) { f.row_value(TOTAL, r) = totals[0]; });
  if (p.d_time_table) {
    f.elements(t.cols4, [&](int j, int r) {
      if (!f.allowed(t, j, r)) return;
      const int at = f.at(j, r);
      f.time_sums()[f.thread_of(j, r) * TIME_BUCKETS + f.time_bucket_of(t, j, r)] +=
          weights[at] * (d_weights[at] - f.row_value(TOTAL, r));
    });
  }
  const float scale_bias = p.scale_bias ? p.scale_bias[t.head] : 0.0f;
  f.template row_sums<1>(
      t.cols4,
      [&](int j, int r, float (&sums)[1]) {
        const int at = f.at(j, r);
        const float dz = weights[at] * (d_weights[at] - f.row_value(TOTAL, r));
        if (p.d_bias && r < t.rows && j < p.keys) {
          p.d_bias[(f.noise_head(t) * p.rows + t.t0 + r) * p.keys + j] = dz;
        }
        f.tile[0][at] = dz * activation_slope(p.activation, f.tile[0][at]);
        if (!spread) return;
        const Softplus<float> omega = softplus(f.tile[2][at] + scale_bias);
        f.tile[2][at] = dz * f.tile[1][at] * omega.slope;
        f.tile[1][at] = dz * omega.value;
        sums[0] += f.tile[2][at];
      },
      [&](int r, const float (&totals)[1]) { f.row_value(SHARE_0, r) += totals[0]; });
}

// From d S in tile 1: the gradient of the factor (or of K, for the mean) is added up, d alpha
// comes out in tile 1.
template <class F>
RKA_DEVICE void deviates_backward(const F& f, const Tile& t) {
  const Problem& p = f.p;
  float *d_deviates = f.tile[1], *a = f.tile[0], *b = f.tile[2], *c = f.tile[3];
  const float* none = nullptr;
  const int keys = t.cols4 < p.keys ? t.cols4 : p.keys;
  const auto add = [&](int i, int j, float x) { f.d_covariance[int64_t(i) * p.keys + j] += x; };
  const auto grad_row = [&](int r, float sum) {
    return SkewRowGrad<float>::of(skew_row(p.mode, f.row_value(Q, r), f.row_value(PROJECTION, r)),
                                  sum);
  };
  const auto row = [&](int r) {
    return skew_row(p.mode, f.row_value(Q, r), f.row_value(PROJECTION, r));
  };
  if (!p.has_shape()) {
    noise_tile(f, t, b);
    outer_products<true>(f, keys, d_deviates, none, keys, b, none, p.layout.pitch, add);
    return;
  }
  f.copy_tile(t.cols4, f.saved[SAVED_SHAPE], a);
  f.copy_tile(t.cols4, f.saved[SAVED_PRODUCT], b);
  if (p.mode == Mode::mean) {  // S = c P, P = A K
    f.template row_sums<1>(
        t.cols4,
        [&](int j, int r, float (&sums)[1]) { sums[0] += d_deviates[f.at(j, r)] * b[f.at(j, r)]; },
        [&](int r, const float (&totals)[1]) { f.row_value(TOTAL, r) = totals[0]; });
    f.elements(t.cols4, [&](int j, int r) {
      const int at = f.at(j, r);
      const float d_q = grad_row(r, f.row_value(TOTAL, r)).shape_to_p;
      c[at] = row(r).p_weight * d_deviates[at] + d_q * a[at];
    });
    outer_products<false>(f, keys, a, none, keys, c, none, p.layout.pitch, add);
    multiply_packed<Packed::symmetric>(f, t.cols4, c, d_deviates);
    f.elements(t.cols4, [&](int j, int r) {
      const float d_q = grad_row(r, f.row_value(TOTAL, r)).shape_to_p;
      d_deviates[f.at(j, r)] += d_q * b[f.at(j, r)];
    });
    return;
  }
  // S = C L' with C = E + c B and B = A L.
  multiply_packed<Packed::lower>(f, t.cols4, d_deviates, c);  // d C
  f.template row_sums<1>(
      t.cols4, [&](int j, int r, float (&sums)[1]) { sums[0] += c[f.at(j, r)] * b[f.at(j, r)]; },
      [&](int r, const float (&totals)[1]) { f.row_value(TOTAL, r) = totals[0]; });
  const uint64_t seed = uint64_t(*p.seed);
  f.elements(t.cols4 / 4, [&](int group, int r) {
    const Four e = normals(seed, group, t.position + r, f.noise_head(t));
    const float weight = row(r).p_weight;
    const SkewRowGrad<float> g = grad_row(r, f.row_value(TOTAL, r));
    for (int i = 0; i < 4; ++i) {
      const int at = f.at(4 * group + i, r);
      const float product = b[at], noise = r < t.rows ? e[i] : 0.0f;
      b[at] = noise + weight * product;                                               // C
      c[at] = weight * c[at] + g.shape_to_x * noise + 2.0f * g.shape_to_p * product;  // d B
    }
  });
  outer_products<true>(f, keys, d_deviates, a, keys, b, c, p.layout.pitch, add);
  multiply_packed<Packed::transposed>(f, t.cols4, c, d_deviates);
}

template <class F>
RKA_DEVICE void backward_tile(const F& f, const Tile& t) {
  const Problem& p = f.p;
  weights_tile<true>(f, t, f.tile[3]);
  softmax_backward(f, t);
  scores_backward(f, t, f.tile[0], p.query, p.key, p.location_scale, p.d_query, p.d_key);
  if (!p.has_spread()) return;
  scores_backward(f, t, f.tile[2], p.scale_query, p.scale_key, inverse_root(p.scale_query.width),
                  p.d_scale_query, p.d_scale_key);
  if (!p.needs_covariance()) return;
  deviates_backward(f, t);
  if (!p.has_shape() || !(p.d_shape_query || p.d_shape_key)) return;
  f.elements(t.cols4,
             [&](int j, int r) { f.tile[1][f.at(j, r)] *= f.saved[SAVED_SLOPE][f.at(j, r)]; });
  scores_backward(f, t, f.tile[1], p.shape_query, p.shape_key, inverse_root(p.shape_query.width),
                  p.d_shape_query, p.d_shape_key);
}

// The threads' tables of a head, added up.
template <class F>
RKA_DEVICE void store_time_sums(const F& f, int head) {
  float* to = f.p.d_time_table + (int64_t(f.b) * f.p.heads + head) * TIME_BUCKETS;
  f.block.for_each(TIME_BUCKETS, [&](int k) {
    float sum = 0.0f;
    for (int i = 0; i < THREADS; ++i) sum += f.time_sums()[i * TIME_BUCKETS + k];
    to[k] = sum;
  });
}

template <class Block>
RKA_DEVICE void backward_block(const Block& block, const Problem& p, int b, int64_t scratch,
                               float* shared) {
  const Frame<Block> f(block, p, b, scratch, shared);
  const int64_t keys = int64_t(p.heads) * p.keys;
  set_zero(f, p.d_key, keys * p.query.width);
  set_zero(f, p.d_value, keys * p.value.width);
  set_zero(f, p.d_scale_key, keys * p.scale_key.width);
  set_zero(f, p.d_shape_key, keys * p.shape_key.width);
  if (p.needs_covariance()) {
    block.for_each(p.keys * p.keys, [&](int i) { f.d_covariance[i] = 0.0f; });
  }
  prepare(f);
  for (int head = 0; head < p.heads; ++head) {
    block.for_each(p.layout.tile_rows, [&](int r) { f.row_value(SHARE_0, r) = 0.0f; });
    if (p.d_time_table) {
      block.for_each(THREADS * TIME_BUCKETS, [&](int i) { f.time_sums()[i] = 0.0f; });
    }
    for (int index = 0; index < f.tile_count(); ++index) backward_tile(f, f.tile_at(head, index));
    if (p.d_time_table) store_time_sums(f, head);
    if (p.d_scale_bias && p.has_spread()) {
      block.for_each(1, [&](int) {
        float sum = 0.0f;
        for (int r = 0; r < p.layout.tile_rows; ++r) sum += f.row_value(SHARE_0, r);
        p.d_scale_bias[int64_t(b) * p.heads + head] = sum;
      });
    }
  }
  if (!p.wants_covariance()) return;
  if (p.correlation) return store_ready(f);
  if (p.mode == Mode::sample) cholesky_backward(f);
  cosine_kernel_backward(f, static_cast<const float*>(nullptr));
  if (p.gate) cosine_kernel_backward(f, gate_of(f));
}

}  // namespace rka::cuda
