// K of one sequence from features, gate and counts into the packed triangle, its gradients, and the
// prior of the shape.
#pragma once

#include "../covariance.h"
#include "products.h"
#include "triangle.h"

namespace rka::cuda {

// Entries of the Gram matrix of the features, gated for the user kernel: rows of the tile.
template <class F>
RKA_DEVICE void gram(const F& f, const Tile& t, const float* gate, float* out) {
  const int width = f.p.feature_width, keys = f.p.keys;
  const float* x = f.p.features + int64_t(f.b) * keys * width;
  const auto at = [&](int i, int k) {
    if (i >= keys || !f.exists(i)) return 0.0f;
    return x[int64_t(i) * width + k] * (gate ? gate[k] : 1.0f);
  };
  dot_products(f, width, t.cols4, 1.0f, [&](int r, int k) { return at(t.t0 + r, k); }, at, out);
}

template <class F>
RKA_DEVICE const float* gate_of(const F& f) {
  return f.p.gate ? f.p.gate + int64_t(f.b) * f.p.feature_width : nullptr;
}
template <class F>
RKA_DEVICE const float* counts_of(const F& f) {
  return f.p.cooccurrence ? f.p.cooccurrence + int64_t(f.b) * f.p.keys * f.p.keys : nullptr;
}

// Which keys exist, and the support of their items.
template <class F>
RKA_DEVICE void describe_keys(const F& f) {
  const float* counts = counts_of(f);
  const int keys = f.p.keys;
  f.block.for_each(f.p.layout.keys4, [&](int j) {
    const bool exists = j < keys && !(f.p.padding && f.p.padding[int64_t(f.b) * keys + j]);
    f.key_value(EXISTS, j) = exists ? 1.0f : 0.0f;
    if (counts) {
      f.key_value(SUPPORT, j) = j < keys ? inverse_norm(counts[int64_t(j) * (keys + 1)]) : 0.0f;
    }
  });
}

// K into the packed triangle; the norms of features and gated features stay for the backward pass.
template <class F>
RKA_DEVICE void correlation(const F& f) {
  const Problem& p = f.p;
  const float *counts = counts_of(f), *gate = gate_of(f);
  const float* r = p.mixture + f.b * p.mixture_batch;
  const float scale = 1.0f / (1.0f + p.jitter);
  const int keys = p.keys;
  for (int index = 0; index << p.layout.tile_shift < p.layout.keys4; ++index) {
    Tile t = f.key_tile(index);
    t.cols4 = t.t0 + p.layout.tile_rows < t.cols4 ? t.t0 + p.layout.tile_rows : t.cols4;
    gram(f, t, nullptr, f.tile[0]);
    if (gate) gram(f, t, gate, f.tile[1]);
    // Norms from the diagonal of the one Gram matrix: a cosine beyond 1 is rounding only.
    f.block.for_each(p.layout.tile_rows, [&](int i) {
      const int j = t.t0 + i;
      if (j >= p.layout.keys4) return;
      f.key_value(ITEM_NORM, j) = inverse_norm(f.tile[0][f.at(j, i)]);
      if (gate) f.key_value(USER_NORM, j) = inverse_norm(f.tile[1][f.at(j, i)]);
    });
    f.elements(t.cols4, [&](int j, int row) {
      const int i = t.t0 + row;
      if (i >= p.layout.keys4 || j / 4 > i / 4) return;
      float k = i == j ? 1.0f : 0.0f;
      if (i != j && f.exists(i) && f.exists(j)) {
        const float cosine =
            f.tile[0][f.at(j, row)] * f.key_value(ITEM_NORM, i) * f.key_value(ITEM_NORM, j);
        k = r[1] * cosine_kernel(cosine, 2.0f * p.concentration[0]);
        if (gate) {
          const float gated =
              f.tile[1][f.at(j, row)] * f.key_value(USER_NORM, i) * f.key_value(USER_NORM, j);
          k += r[2] * cosine_kernel(gated, 2.0f * p.concentration[1]);
        }
        if (counts) {
          const float c = counts[int64_t(i) * keys + j];
          k += r[0] * c * f.key_value(SUPPORT, i) * f.key_value(SUPPORT, j);
        }
        k *= scale;
      }
      packed_at(f.factor, i, j) = k;
    });
  }
}

// Gradients through one exponential kernel: the item's (gate null) or the user's.
template <class F>
RKA_DEVICE void cosine_kernel_backward(const F& f, const float* gate) {
  const Problem& p = f.p;
  const int which = gate ? 2 : 1, norm = gate ? USER_NORM : ITEM_NORM;
  const int keys = p.keys, width = p.feature_width;
  const float weight = p.mixture[f.b * p.mixture_batch + which];
  const float gamma = p.concentration[which - 1], scale = 1.0f / (1.0f + p.jitter);
  const float* counts = gate ? nullptr : counts_of(f);
  const float* x = p.features + int64_t(f.b) * keys * width;
  float* d_features = p.d_features ? p.d_features + int64_t(f.b) * keys * width : nullptr;
  f.block.for_each(p.layout.tile_rows, [&](int r) {
    for (const int share : {SHARE_0, SHARE_1, SHARE_2}) f.row_value(share, r) = 0.0f;
  });
  for (int index = 0; index < f.key_tile_count(); ++index) {
    const Tile t = f.key_tile(index);
    float* d_gram = f.tile[0];
    gram(f, t, gate, d_gram);
    f.template row_sums<4>(
        t.cols4,
        [&](int j, int r, float (&sums)[4]) {
          const int i = t.t0 + r;
          float& entry = d_gram[f.at(j, r)];
          float result = 0.0f;
          if (r < t.rows && j < keys && i != j && f.exists(i) && f.exists(j)) {
            const float norms = f.key_value(norm, i) * f.key_value(norm, j);
            const float cosine = entry * norms;
            // Each pair is met twice, once in either order.
            const float g = scale * (f.d_covariance[int64_t(i) * keys + j] +
                                     f.d_covariance[int64_t(j) * keys + i]);
            const float weighted = g * cosine_kernel(cosine, 2.0f * gamma);
            const float d_cosine = weighted * weight * 2.0f * gamma;
            result = d_cosine * norms;
            sums[0] += 0.5f * weighted;
            sums[1] += weighted * weight * (cosine - 1.0f);
            sums[2] += d_cosine * cosine;
            if (counts) {
              sums[3] += 0.5f * g * counts[int64_t(i) * keys + j] * f.key_value(SUPPORT, i) *
                         f.key_value(SUPPORT, j);
            }
          }
          entry = result;
        },
        [&](int r, const float (&totals)[4]) {
          f.row_value(SHARE_0, r) += totals[0];
          f.row_value(SHARE_1, r) += totals[1];
          f.row_value(SHARE_2, r) += totals[3];
          // The norms pull x_i back along itself.
          const float inverse = r < t.rows ? f.key_value(norm, t.t0 + r) : 0.0f;
          f.row_value(TOTAL, r) = totals[2] * inverse * inverse;
        });
    weighted_rows_of(f, t, d_gram, x, width, width, [&](int r, int c, float sum) {
      const int64_t at = int64_t(t.t0 + r) * width + c;
      const bool exists = f.exists(t.t0 + r);
      const float feature = exists ? x[at] : 0.0f;
      const float g = gate ? gate[c] : 1.0f;
      const float d_x = exists ? g * (sum - f.row_value(TOTAL, r) * feature) : 0.0f;
      if (!gate) {
        if (d_features) d_features[at] = d_x;
      } else {
        if (d_features) d_features[at] += d_x * g;
        f.d_gated()[at] = d_x * feature;
      }
    });
  }
  f.block.for_each(1, [&](int) {
    float shares[3] = {};
    for (int r = 0; r < p.layout.tile_rows; ++r) {
      for (int i = 0; i < 3; ++i) shares[i] += f.row_value(SHARE_0 + i, r);
    }
    if (p.d_concentration) p.d_concentration[f.b * 2 + which - 1] = shares[1];
    if (p.d_mixture) {
      p.d_mixture[f.b * 3 + which] = shares[0];
      if (!gate) p.d_mixture[f.b * 3] = shares[2];
    }
  });
  if (gate && p.d_gate) {
    f.block.for_each(width, [&](int c) {
      float sum = 0.0f;
      for (int i = 0; i < keys; ++i) sum += f.d_gated()[int64_t(i) * width + c];
      p.d_gate[int64_t(f.b) * width + c] = sum;
    });
  }
}

// out = alpha-hat / max alpha-hat where allowed. Uses all of tiles 0, 1 and 2; out is tile 2.
template <class F>
RKA_DEVICE void shape_prior(const F& f, const Tile& t) {
  float *seen_counts = f.tile[0], *seen = f.tile[1], *prior = f.tile[2];
  const float* counts = counts_of(f);
  const int keys = f.p.keys, shift = f.p.layout.tile_shift - 2, columns = t.cols4 / 4;
  if (!counts) {
    f.elements(t.cols4, [&](int j, int r) {
      const float given = f.allowed(t, j, r) ? 1.0f : 0.0f;
      const bool ready = f.p.prior.data && given != 0.0f;
      prior[f.at(j, r)] = ready ? f.p.prior.at(f.b, t.head, t.t0 + r, j) : given;
    });
    return;
  }
  f.elements_by_row(t.cols4, [&](int k, int r) {
    const bool allowed = f.allowed(t, k, r), self = k == t.position + r;
    seen[f.at(k, r)] = allowed ? 1.0f : 0.0f;
    seen_counts[f.at(k, r)] = allowed && !self ? counts[int64_t(t.position + r) * keys + k] : 0.0f;
  });
  f.template row_sums<1>(
      t.cols4, [&](int k, int r, float (&sums)[1]) { sums[0] += seen[f.at(k, r)]; },
      [&](int r, const float (&totals)[1]) {
        f.row_value(TOTAL, r) = 1.0f / (totals[0] > 2.0f ? totals[0] - 1.0f : 1.0f);
        f.row_value(OWN, r) = 0.0f;
      });
  f.block.for_each(columns << shift, [&](int i) {
    const int g = i & ((1 << shift) - 1), j = i >> shift;
    Four products[4] = {}, means[4] = {};
    for (int k = 0; k < t.cols4 && k < keys; ++k) {
      const bool exists = f.exists(k);
      const Four a = load4(seen_counts + f.at(k, 4 * g)), m = load4(seen + f.at(k, 4 * g));
      for (int c = 0; c < 4; ++c) {
        const int column = j + c * columns;
        const bool used = exists && column < keys && column != k;
        const float count = used ? counts[int64_t(k) * keys + column] : 0.0f;
        for (int r = 0; r < 4; ++r) {
          products[c][r] = fmaf(a[r], count, products[c][r]);
          means[c][r] = fmaf(m[r], count, means[c][r]);
        }
      }
    }
    for (int c = 0; c < 4; ++c) {
      const int column = j + c * columns;
      for (int r = 0; r < 4; ++r) {
        const float mean = means[c][r] * f.row_value(TOTAL, 4 * g + r);
        const float own_count = seen_counts[f.at(column, 4 * g + r)];
        // D_tt is needed by the whole row: kept aside, added below.
        if (column == t.position + 4 * g + r && seen[f.at(column, 4 * g + r)] != 0.0f) {
          f.row_value(OWN, 4 * g + r) = mean;
        }
        products[c][r] = prior_entry(products[c][r], own_count, mean, 0.0f);
      }
      store4(prior + f.at(column, 4 * g), products[c]);
    }
  });
  f.row_largest(t.cols4, 0.0f, [&](int j, int r) {
    const float own = f.row_value(OWN, r);
    float x = prior[f.at(j, r)] + own * seen_counts[f.at(j, r)];
    if (j == t.position + r) x += own * own;
    x = seen[f.at(j, r)] != 0.0f ? x : 0.0f;
    prior[f.at(j, r)] = x;
    return x;
  });
  f.elements(t.cols4, [&](int j, int r) {
    const float largest = f.row_value(LARGEST, r);
    prior[f.at(j, r)] *= largest > 0.0f ? 1.0f / largest : 1.0f;
  });
}

}  // namespace rka::cuda
