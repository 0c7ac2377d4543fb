// From the gradient of the factor to those of features, gate, mixture and concentrations.
#pragma once

#include "strip_covariance.h"

namespace rka::cuda {

// The warp's 16 x 16 block of L on the diagonal makes way for its inverse, transposed: above the
// diagonal, which is all that divide_by_lower reads. A column to a lane.
template <class S>
RKA_DEVICE void invert_diagonal_block(const Lane& l, float* square) {
  const int column = l.lane % STRIP;
  float* block = square + l.first_row * (S::PITCH + 1);
  float x[STRIP];
#pragma unroll
  for (int i = 0; i < STRIP; ++i) {
    if (l.first_row + i >= S::SIZE) continue;
    float sum = i == column ? 1.0f : 0.0f, own = 1.0f;
#pragma unroll
    for (int k = 0; k <= i; k += 4) {
      const Four row = load4(block + i * S::PITCH + k);
      for (int c = 0; c < 4; ++c) {
        if (k + c < i) sum = fmaf(-row[c], x[k + c], sum);
        if (k + c == i) own = row[c];
      }
    }
    x[i] = sum * reciprocal(own);
  }
  sync_warp();
#pragma unroll
  for (int i = 0; i < STRIP; ++i) {
    if (l.lane < STRIP && i >= column && l.first_row + i < S::SIZE) {
      block[column * S::PITCH + i] = x[i];
    }
  }
}

// From the gradient of L in x that of K, L^-T Phi(L' x) L^-1 (Murray, arXiv 1602.07527), and its
// transpose, summed: by rows into the square in place of L, each row for its own warp.
template <class S>
RKA_DEVICE void factor_backward(const Sequence<S>& s, Strip<S::TILES>& x) {
  const Lane& l = s.lane;
  const int all = (s.p.keys + STRIP - 1) / STRIP, own = l.first_row < s.p.keys ? l.warp + 1 : 0;
  const auto lower = [&](float diagonal) {
    const int first = kept(l.column(0) - l.row(0));
#pragma unroll
    for (int j = 0; j < S::TILES; ++j) {
      for (int c = 0; c < 4; ++c) {
        const int ahead = first + 8 * j + c % 2 - c / 2 * 8;
        x[j][c] = ahead > 0 ? 0.0f : ahead == 0 ? diagonal * x[j][c] : x[j][c];
      }
    }
  };
  lower(1.0f);
  s.put(x, s.buffer(0));
  sync_block();
  x.clear();
  if (own > 0) {
    multiply_upper<S>(l, x, s.square, s.buffer(0), 2 * all < S::TILES ? 2 * all : S::TILES);
  }
  lower(0.5f);
  sync_block();
  s.put(x, s.buffer(0));  // registers are needed
  if (own > 0) invert_diagonal_block<S>(l, s.square);
  sync_block();
  x = s.get(s.buffer(0));
  sync_warp();
#pragma unroll 1
  for (int side = 0; side < 2; ++side) {
    divide_by_lower<S>(l, x, s.square, own == 0 ? 0 : side == 0 ? own : all);
    s.put(x, s.buffer(0));
    sync_block();
    const Strip<S::TILES> across = s.transposed(s.buffer(0));
#pragma unroll
    for (int j = 0; j < S::TILES; ++j) {
      for (int c = 0; c < 4; ++c) x[j][c] = side == 0 ? across[j][c] : x[j][c] + across[j][c];
    }
    sync_block();
  }
  s.put(x, s.square);
}

// A gradient of K in x and its transpose, summed, into the square.
template <class S>
RKA_DEVICE void add_transposed(const Sequence<S>& s, Strip<S::TILES>& x) {
  s.put(x, s.buffer(0));
  sync_block();
  const Strip<S::TILES> across = s.transposed(s.buffer(0));
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) x[j][c] += across[j][c];
  }
  sync_block();
  s.put(x, s.square);
}

// Of one exponential kernel: entry becomes the gradient of the Gram matrix.
struct CosineBackward {
  float gamma, weight;
  float of_gamma = 0, of_weight = 0;  // sums over the lane's entries
  float along[2] = {};                // of a row: how far the norms pull x back along itself

  RKA_DEVICE void entry(float gradient, float norms, int half, float& entry) {
    const float cosine = entry * norms;
    const float weighted = gradient * exp2_fast(2.0f * LOG2_E * gamma * (cosine - 1.0f));
    const float d_cosine = weighted * weight * 2.0f * gamma;
    of_weight = fmaf(0.5f, weighted, of_weight);  // each pair is met twice
    of_gamma = fmaf(weighted * weight, cosine - 1.0f, of_gamma);
    along[half] = fmaf(d_cosine, cosine, along[half]);
    entry = d_cosine * norms;
  }
};

// The gradients of one chunk of feature columns, which is in the first buffer. Of the Gram matrices
// the item's is in the square, the user's in the second buffer.
template <class S>
RKA_DEVICE void features_backward(const Sequence<S>& s, const CosineBackward& by_item,
                                  const CosineBackward& by_user, int pairs, int c0, int chunk) {
  const Problem& p = s.p;
  const Lane& l = s.lane;
  const int width = p.feature_width, tiles = (chunk + 7) / 8, i = thread_index();
  Strip<S::TILES> sum;
  sum.clear();
#pragma unroll 1
  for (int user = 0; user <= (p.gate != nullptr); ++user) {
    Strip<S::TILES> d;
    d.clear();
    multiply_square_columns<S>(l, d, user ? s.buffer(1) : s.square, pairs, s.buffer(0), tiles);
#pragma unroll
    for (int j = 0; j < S::TILES; ++j) {
      if (j >= tiles) continue;
      const Pair g2 = user ? load_pair(s.gate_squared + l.column(j)) : Pair{1.0f, 1.0f};
      float of_gate[2] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float along = user ? by_user.along[half] : by_item.along[half];
        const Pair f = load_pair(s.buffer(0) + s.row_in_square(half) * S::PITCH + l.column(j));
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const float feature = c ? f.y : f.x, x = fmaf(-along, feature, d[j][2 * half + c]);
          sum[j][2 * half + c] = fmaf(c ? g2.y : g2.x, x, sum[j][2 * half + c]);
          if (pairs > 0 && l.row(half) < S::SIZE) of_gate[c] = fmaf(x, feature, of_gate[c]);
        }
      }
      if (!user) continue;
      for (int c = 0; c < 2; ++c) {
        for (int mask = 4; mask < LANES; mask *= 2) of_gate[c] += shuffle_xor(of_gate[c], mask);
      }
      if (l.g == 0) store_pair(s.extra() + l.warp * S::SIZE + l.column(j), of_gate[0], of_gate[1]);
    }
  }
  if (p.d_features) {
    float* to = p.d_features + int64_t(s.b) * p.keys * width + c0;
    s.store(sum, to, p.keys, width, chunk);
  }
  sync_block();
  if (p.gate && p.d_gate && i < chunk) {
    float total = 0.0f;
    for (int w = 0; w < WARPS; ++w) total += s.extra()[w * S::SIZE + i];
    p.d_gate[int64_t(s.b) * width + c0 + i] = p.gate[int64_t(s.b) * width + c0 + i] * total;
  }
}

// From the gradient of K and its transpose, summed, by rows in the square.
template <class S>
RKA_DEVICE void correlation_backward(const Sequence<S>& s) {
  const Problem& p = s.p;
  const Lane& l = s.lane;
  const int all = (p.keys + STRIP - 1) / STRIP, pairs = l.first_row < p.keys ? all : 0;
  Strip<S::TILES> item, user;
  gram<false>(s, pairs, item, user);
  wait_for_copies<0>();
  sync_block();
  const float* mixture = p.mixture + s.b * p.mixture_batch;
  const float scale = 1.0f / (1.0f + p.jitter);
  CosineBackward by_item{p.concentration[0], mixture[1]};
  CosineBackward by_user{p.concentration[1], p.gate ? mixture[2] : 0.0f};
  float counted = 0.0f;
  const uint64_t columns = s.exists >> 2 * l.t;
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    if (j / 2 >= pairs) continue;
    const int column = l.column(j);
    const Pair in = load_pair(s.item_norm + column), un = load_pair(s.user_norm + column),
               sn = load_pair(s.support + column);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = s.row_in_square(half);
      const Pair counts = load_pair(s.buffer(1) + row * S::PITCH + column),
                 x = load_pair(s.square + row * S::PITCH + column);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int e = 2 * half + c;
        const bool used = l.row(half) != column + c && l.row(half) < S::SIZE &&
                          s.has(l.row(half)) && columns >> (8 * j + c) & 1;
        const float gradient = used ? scale * (c ? x.y : x.x) : 0.0f;
        counted = fmaf(0.5f * gradient * s.support[row] * (c ? sn.y : sn.x),
                       c ? counts.y : counts.x, counted);
        by_item.entry(gradient, s.item_norm[row] * (c ? in.y : in.x), half, item[j][e]);
        by_user.entry(gradient, s.user_norm[row] * (c ? un.y : un.x), half, user[j][e]);
      }
    }
  }
  add_up(s, 1, by_item.of_gamma), add_up(s, 2, by_user.of_gamma), add_up(s, 3, counted);
  add_up(s, 4, by_item.of_weight), add_up(s, 5, by_user.of_weight);
  for (int half = 0; half < 2; ++half) {
    const float i = s.item_norm[s.row_in_square(half)], u = s.user_norm[s.row_in_square(half)];
    by_item.along[half] = sum_of_row(by_item.along[half]) * i * i;
    by_user.along[half] = sum_of_row(by_user.along[half]) * u * u;
  }
  sync_block();  // rows of the buffer are read by their own warp, but for those beyond the square
  s.put(item, s.square), s.put(user, s.buffer(1));
  if (thread_index() == 0) {
    if (p.d_concentration) {
      for (int i = 0; i < 2; ++i) {
        const bool had = i == 0 || p.gate;
        p.d_concentration[2 * s.b + i] = had ? added_up(s, 1 + i) : 0.0f;
      }
    }
    if (p.d_mixture) {
      for (int i = 0; i < 3; ++i) {
        const bool had = i == 1 || (i == 0 ? p.cooccurrence != nullptr : p.gate != nullptr);
        p.d_mixture[3 * s.b + i] = had ? added_up(s, 3 + i) : 0.0f;
      }
    }
  }
  if (!p.d_features && !p.d_gate) return;
  const int width = p.feature_width;
  const float* features = p.features + int64_t(s.b) * p.keys * width;
#pragma unroll 1
  for (int c0 = 0; c0 < width; c0 += S::SIZE) {
    const int chunk = width - c0 < S::SIZE ? width - c0 : S::SIZE, i = thread_index();
    if (width > S::SIZE) {
      sync_block();
      s.fetch(s.buffer(0), features + c0, width, chunk);
      if (i < S::SIZE) {
        const float g = p.gate && i < chunk ? p.gate[int64_t(s.b) * width + c0 + i] : 0.0f;
        s.gate_squared[i] = g * g;
      }
      wait_for_copies<0>();
      sync_block();
    }
    features_backward(s, by_item, by_user, pairs, c0, chunk);
  }
}

}  // namespace rka::cuda
