// From the gradient of the factor of a long sequence to those of features, gate, mixture and
// concentrations, square by square: d K + d K' = L^-T (Phi(L' d L) + its transpose) L^-1 (Murray,
// arXiv 1602.07527), by rows of squares, each a block's.
#pragma once

#include "long_covariance.h"
#include "strip_covariance_backward.h"

namespace rka::cuda {

// The heads' parts of a square, added up in the first one's place.
RKA_DEVICE void add_heads(const Problem& p, const Workspace& w, const Adjoint& adjoint, int local,
                          int index) {
#pragma unroll 1
  for (int n = 4 * thread_index(); n < SQUARE_FLOATS; n += TILE_FLOATS) {
    const int64_t at = int64_t(index) * SQUARE_FLOATS + n;
    Four sum = load4(adjoint.d_factor_of(w, local, 0, 0, 0) + at);
#pragma unroll 1
    for (int head = 1; head < p.heads; ++head) {
      const Four x = load4(adjoint.d_factor_of(w, local, head, 0, 0) + at);
      for (int c = 0; c < 4; ++c) sum[c] += x[c];
    }
    store4(adjoint.d_factor_of(w, local, 0, 0, 0) + at, sum);
  }
}

// Rows of `x` <- x L^-1, with L by rows in `square`: a row to a thread, 16 columns at a time from
// the last ones on.
RKA_DEVICE void divide_row(float* x, const float* square) {
  constexpr int P = Square::PITCH;
#pragma unroll 1
  for (int c0 = SIDE - STRIP; c0 >= 0; c0 -= STRIP) {
    float sums[STRIP];
    const auto subtract = [&](float y, const float* row, int end) {
#pragma unroll
      for (int i = 0; i < STRIP; i += 4) {
        if (i >= end) continue;
        const Four l = load4(row + i);
        for (int c = 0; c < 4; ++c) {
          if (i + c < end) sums[i + c] = fmaf(-y, l[c], sums[i + c]);
        }
      }
    };
#pragma unroll
    for (int i = 0; i < STRIP; i += 4) {
      const Four old = load4(x + c0 + i);
      for (int c = 0; c < 4; ++c) sums[i + c] = old[c];
    }
#pragma unroll 1
    for (int k = c0 + STRIP; k < SIDE; k += 4) {
      const Four y = load4(x + k);
#pragma unroll
      for (int c = 0; c < 4; ++c) subtract(y[c], square + (k + c) * P + c0, STRIP);
    }
#pragma unroll
    for (int j = STRIP - 1; j >= 0; --j) {
      const float* row = square + (c0 + j) * P + c0;
      sums[j] *= reciprocal(row[j]);
      subtract(sums[j], row, j);
    }
#pragma unroll
    for (int i = 0; i < STRIP; i += 4) {
      store4(x + c0 + i, {{sums[i], sums[i + 1], sums[i + 2], sums[i + 3]}});
    }
  }
}

// (x - the products with what stands right of it in `row`) L^-1, square j of a row whose others, up
// to `end`, are finished: into its place there.
RKA_DEVICE void divide_square(const Long& s, const Lane& l, Strip<Square::TILES>& x, float* row,
                              int j, int end) {
  constexpr int P = Square::PITCH;
  Strip<Square::TILES> sum;
  sum.clear();
#pragma unroll 1
  for (int k = j + 1; k < end; ++k) {
    sync_block();
    s.fetch_square<Square>(s.buffer(0), row + int64_t(k) * SQUARE_FLOATS);
    s.fetch_square<ByColumns>(s.buffer(1), s.w.relation(s.local, k, j));
    wait_for_copies<0>();
    sync_block();
    const float* top = s.buffer(0) + l.row(0) * P + 2 * l.t;
    const auto left = [&](int n) {
      const Pair u = load_pair(top + 8 * n), v = load_pair(top + 8 * P + 8 * n);
      return Four{{u.x, u.y, v.x, v.y}};
    };
    multiply_tiles<true>(l, sum, left, Square::TILES, s.buffer(1), Square::TILES / 2, false);
  }
  sync_block();
  s.fetch_square<Square>(s.buffer(1), s.w.relation(s.local, j, j));
#pragma unroll
  for (int k = 0; k < Square::TILES; ++k) {
    float* to = s.buffer(0) + l.row(0) * P + 8 * k + 2 * l.t;
    store_pair(to, x[k][0] - sum[k][0], x[k][1] - sum[k][1]);
    store_pair(to + 8 * P, x[k][2] - sum[k][2], x[k][3] - sum[k][3]);
  }
  wait_for_copies<0>();
  sync_block();
  if (thread_index() < SIDE) divide_row(s.buffer(0) + thread_index() * P, s.buffer(1));
  sync_block();
#pragma unroll 1
  for (int n = thread_index(); n < SQUARE_FLOATS / 4; n += WARPS * LANES) {
    const int r = n / (SIDE / 4), column = n % (SIDE / 4) * 4;
    store4(row + int64_t(j) * SQUARE_FLOATS + r * SIDE + column,
           load4(s.buffer(0) + r * P + column));
  }
}

// Row i of Y = Phi(L' d L) L^-1, lower triangular.
RKA_DEVICE void divide_lower(const Problem& p, const Workspace& w, const Adjoint& adjoint,
                             int local, int i, float* shared) {
  const Long s(p, w, local, i, shared);
  const Lane l;
#pragma unroll 1
  for (int j = i; j >= 0; --j) {
    Strip<Square::TILES> x;
    x.clear();
#pragma unroll 1
    for (int k = i; k < w.key_squares; ++k) {
      sync_block();
      s.fetch_square<ByColumns>(s.buffer(0), w.relation(local, k, i));
      s.fetch_square<ByColumns>(s.buffer(1), adjoint.d_factor_of(w, local, 0, k, j));
      wait_for_copies<0>();
      sync_block();
      if (k == j) {  // what stands above the diagonal is no gradient
#pragma unroll 1
        for (int n = thread_index(); n < SQUARE_FLOATS; n += WARPS * LANES) {
          if (n % SIDE > n / SIDE) s.buffer(1)[n / SIDE * ByColumns::PITCH + n % SIDE] = 0.0f;
        }
        sync_block();
      }
      multiply_transposed<ByColumns>(l, x, s.buffer(0), s.buffer(1), 0, Square::TILES,
                                     Square::TILES);
    }
    if (i == j) {
      const int first = 2 * l.t - l.row(0);
#pragma unroll
      for (int k = 0; k < Square::TILES; ++k) {
        for (int c = 0; c < 4; ++c) {
          const int ahead = first + 8 * k + c % 2 - c / 2 * 8;
          x[k][c] = ahead > 0 ? 0.0f : ahead == 0 ? 0.5f * x[k][c] : x[k][c];
        }
      }
    }
    divide_square(s, l, x, adjoint.lower_row(w, local, i), j, i + 1);
  }
}

// Row i of Z = Y' L^-1.
RKA_DEVICE void divide_whole(const Problem& p, const Workspace& w, const Adjoint& adjoint,
                             int local, int i, float* shared) {
  constexpr int P = ByColumns::PITCH;
  const Long s(p, w, local, i, shared);
  const Lane l;
#pragma unroll 1
  for (int j = w.key_squares - 1; j >= 0; --j) {
    Strip<Square::TILES> x;
    x.clear();
    if (j >= i) {
      sync_block();
      s.fetch_square<ByColumns>(s.buffer(0),
                                adjoint.lower_row(w, local, j) + int64_t(i) * SQUARE_FLOATS);
      wait_for_copies<0>();
      sync_block();
#pragma unroll
      for (int k = 0; k < Square::TILES; ++k) {
        for (int c = 0; c < 4; ++c)
          x[k][c] = s.buffer(0)[(8 * k + 2 * l.t + c % 2) * P + l.row(c / 2)];
      }
    }
    divide_square(s, l, x, adjoint.whole_row(w, local, i), j, w.key_squares);
  }
}

// d K + d K' in the warp's rows of square (i, j).
RKA_DEVICE Strip<Square::TILES> d_relation(const Long& s, const Lane& l, const Adjoint& adjoint,
                                           int i, int j) {
  const bool draws = s.p.mode == Mode::sample, across = draws || j > i;
  Strip<Square::TILES> x;
  x.clear();
  sync_block();
  if (across) {
    s.fetch_square<ByColumns>(
        s.buffer(1), draws ? adjoint.whole_row(s.w, s.local, j) + int64_t(i) * SQUARE_FLOATS
                           : adjoint.d_factor_of(s.w, s.local, 0, j, i));
    wait_for_copies<0>();
    sync_block();
#pragma unroll
    for (int k = 0; k < Square::TILES; ++k) {
      for (int c = 0; c < 4; ++c)
        x[k][c] = s.buffer(1)[(8 * k + 2 * l.t + c % 2) * ByColumns::PITCH + l.row(c / 2)];
    }
    if (!draws) return x;
  }
  const float* at = draws ? adjoint.whole_row(s.w, s.local, i) + int64_t(j) * SQUARE_FLOATS
                          : adjoint.d_factor_of(s.w, s.local, 0, i, j);
  at += l.row(0) * SIDE + 2 * l.t;
#pragma unroll
  for (int k = 0; k < Square::TILES; ++k) {
    const Pair u = load_pair(at + 8 * k), v = load_pair(at + 8 * SIDE + 8 * k);
    x[k][0] += u.x, x[k][1] += u.y, x[k][2] += v.x, x[k][3] += v.y;
  }
  return x;
}

// Row i of the gradients of both Gram matrices, as the threads hold them, and sums over its
// entries; `along` is how far a row's norm pulls it back along itself.
RKA_DEVICE void gram_backward(const Long& s, const Lane& l, const Adjoint& adjoint,
                              float (&along)[2][2]) {
  const Problem& p = s.p;
  const Workspace& w = s.w;
  const Beside beside(s.shared);
  const float *mixture = p.mixture + s.b * p.mixture_batch, scale = 1.0f / (1.0f + p.jitter);
  const int i = s.tile;
  CosineBackward by_item{p.concentration[0], mixture[1]};
  CosineBackward by_user{p.concentration[1], p.gate ? mixture[2] : 0.0f};
  const uint64_t row_exists = s.exist(i);
  float item_norm[2], user_norm[2], support[2], counted = 0.0f;
#pragma unroll 1
  for (int n = 0; n < w.key_squares; ++n) {
    const int j = n == 0 ? i : n <= i ? n - 1 : n;
    Strip<Square::TILES> item, user;
    gram_square(s, l, j, item, user);
    sync_block();
    if (n == 0) {
      for (int half = 0; half < 2; ++half) {
        item_norm[half] = beside.item_norm[l.row(half)];
        user_norm[half] = beside.user_norm[l.row(half)];
        support[half] = beside.support[l.row(half)];
      }
    }
    float *to_item = adjoint.gram_row(w, s.local, i, 0),
          *to_user = adjoint.gram_row(w, s.local, i, 1);
    {  // registers are needed
#pragma unroll
      for (int k = 0; k < Square::TILES; ++k) {
        store4(s.own(to_item, 8 * j + k), {{item[k][0], item[k][1], item[k][2], item[k][3]}});
        store4(s.own(to_user, 8 * j + k), {{user[k][0], user[k][1], user[k][2], user[k][3]}});
      }
    }
    const Strip<Square::TILES> x = d_relation(s, l, adjoint, i, j);
    const uint64_t columns = s.exist(j) >> 2 * l.t;
#pragma unroll
    for (int k = 0; k < Square::TILES; ++k) {
      Four d_item = load4(s.own(to_item, 8 * j + k)), d_user = load4(s.own(to_user, 8 * j + k));
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int half = c / 2, column = 8 * k + 2 * l.t + c % 2, key = SIDE * i + l.row(half);
        const bool used = (i != j || l.row(half) != column) && row_exists >> l.row(half) & 1 &&
                          columns >> (8 * k + c % 2) & 1;
        if (!used) {  // nor need there be a number
          d_item[c] = d_user[c] = 0.0f;
          continue;
        }
        const float gradient = scale * x[k][c];
        if (p.cooccurrence) {
          const float count = s.counts()[int64_t(key) * p.keys + SIDE * j + column];
          counted = fmaf(0.5f * gradient * support[half] * beside.support[column], count, counted);
        }
        by_item.entry(gradient, item_norm[half] * beside.item_norm[column], half, d_item[c]);
        by_user.entry(gradient, user_norm[half] * beside.user_norm[column], half, d_user[c]);
      }
      store4(s.own(to_item, 8 * j + k), d_item), store4(s.own(to_user, 8 * j + k), d_user);
    }
  }
  for (int half = 0; half < 2; ++half) {
    along[0][half] = sum_of_row(by_item.along[half]) * item_norm[half] * item_norm[half];
    along[1][half] = sum_of_row(by_user.along[half]) * user_norm[half] * user_norm[half];
  }
  float shares[5] = {by_item.of_gamma, by_user.of_gamma, counted, by_item.of_weight,
                     by_user.of_weight};
  sync_block();
  for (int n = 0; n < 5; ++n) {
    for (int mask = 1; mask < LANES; mask *= 2) shares[n] += shuffle_xor(shares[n], mask);
    if (l.lane == 0) s.shared[8 * l.warp + n] = shares[n];
  }
  sync_block();
  if (thread_index() < 5) {
    float sum = 0.0f;
    for (int warp = 0; warp < WARPS; ++warp) sum += s.shared[8 * warp + thread_index()];
    adjoint.shares_of(w, s.local, i)[thread_index()] = sum;
  }
}

// Row i of the gradient of the features, and its share of the gate's.
RKA_DEVICE void correlation_backward(const Problem& p, const Workspace& w, const Adjoint& adjoint,
                                     int local, int i, float* shared) {
  const Long s(p, w, local, i, shared);
  const Lane l;
  const Beside beside(shared);
  const int width = p.feature_width, thread = thread_index();
  const float* features = p.features + int64_t(s.b) * p.keys * width;
  s.describe_keys();
  sync_block();
  float along[2][2];
  gram_backward(s, l, adjoint, along);
  if (!p.d_features && !p.d_gate) return;
#pragma unroll 1
  for (int c0 = 0; c0 < width; c0 += SIDE) {
    const int chunk = width - c0 < SIDE ? width - c0 : SIDE, tiles = (chunk + 7) / 8;
    Strip<Square::TILES> sum;
    sum.clear();
#pragma unroll 1
    for (int user = 0; user <= (p.gate != nullptr); ++user) {
      Strip<Square::TILES> d;
      d.clear();
      const float* from = adjoint.gram_row(w, local, i, user);
#pragma unroll 1
      for (int n = 1; n <= w.key_squares; ++n) {
        const int j = (i + n) % w.key_squares;  // its own square at last
        sync_block();
        fetch_rows<ByColumns>(s.buffer(0), features + int64_t(SIDE) * j * width + c0, width, chunk,
                              s.whole_keys_of(j), s.exist(j));
        wait_for_copies<0>();
        sync_block();
        const auto left = [&](int k) { return load4(s.own(from, 8 * j + k)); };
        multiply_tiles<true>(l, d, left, s.whole_keys_of(j) / 8, s.buffer(0),
                             (chunk + STRIP - 1) / STRIP, false);
      }
      const bool rows = l.first_row < s.keys_of(i);
#pragma unroll
      for (int k = 0; k < Square::TILES; ++k) {
        if (k >= tiles) continue;
        float of_gate[2] = {};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          Pair f = {0.0f, 0.0f};
          if (rows) f = load_pair(s.buffer(0) + l.row(half) * ByColumns::PITCH + 8 * k + 2 * l.t);
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const int column = c0 + 8 * k + 2 * l.t + c;
            const float g = user && column < width ? p.gate[int64_t(s.b) * width + column] : 1.0f;
            const float feature = c ? f.y : f.x,
                        x = fmaf(-along[user][half], feature, d[k][2 * half + c]);
            sum[k][2 * half + c] = fmaf(g * g, x, sum[k][2 * half + c]);
            of_gate[c] = fmaf(x, feature, of_gate[c]);
          }
        }
        if (!user) continue;
        for (int c = 0; c < 2; ++c) {
          for (int mask = 4; mask < LANES; mask *= 2) of_gate[c] += shuffle_xor(of_gate[c], mask);
        }
        if (l.g == 0) {
          store_pair(s.buffer(1) + l.warp * SIDE + 8 * k + 2 * l.t, of_gate[0], of_gate[1]);
        }
      }
    }
    if (p.d_features) {
      float* to = p.d_features + int64_t(s.b) * p.keys * width + c0;
      s.store(sum, to, p.keys, width, chunk);
    }
    sync_block();
    if (p.gate && thread < chunk) {
      float total = 0.0f;
      for (int warp = 0; warp < WARPS; ++warp) total += s.buffer(1)[warp * SIDE + thread];
      adjoint.gate_of(p, w, local, i)[c0 + thread] = total;
    }
    sync_block();
  }
}

// The rows' shares, added up.
RKA_DEVICE void add_shares(const Problem& p, const Workspace& w, const Adjoint& adjoint,
                           int local) {
  const int b = w.first + local, thread = thread_index(), width = p.feature_width;
  if (thread < 5) {
    float sum = 0.0f;
#pragma unroll 1
    for (int i = 0; i < w.key_squares; ++i) sum += adjoint.shares_of(w, local, i)[thread];
    // In the order of gram_backward's shares: without a kernel there is none of its own.
    const int had = 0b01001 | (p.gate ? 0b10010 : 0) | (p.cooccurrence ? 0b00100 : 0);
    if (!(had >> thread & 1)) sum = 0.0f;
    if (thread < 2) {
      if (p.d_concentration) p.d_concentration[2 * b + thread] = sum;
    } else if (p.d_mixture) {
      p.d_mixture[3 * b + thread - 2] = sum;
    }
  }
  if (!p.gate || !p.d_gate) return;
#pragma unroll 1
  for (int c = thread; c < width; c += WARPS * LANES) {
    float sum = 0.0f;
#pragma unroll 1
    for (int i = 0; i < w.key_squares; ++i) sum += adjoint.gate_of(p, w, local, i)[c];
    p.d_gate[int64_t(b) * width + c] = p.gate[int64_t(b) * width + c] * sum;
  }
}

}  // namespace rka::cuda
