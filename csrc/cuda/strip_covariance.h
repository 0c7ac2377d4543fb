// K of one sequence in shared memory, from features, gate and counts: the strip's rows of it, and
// of the prior of the shape.
#pragma once

#include "../covariance.h"
#include "strip_sequence.h"

namespace rka::cuda {

constexpr float LOG2_E = 1.4426950408889634f;

RKA_DEVICE float inverse_norm_fast(float square) {
  return square > 0.0f ? inverse_sqrt(square) : square <= 0.0f ? 0.0f : square;  // NaN stays
}

// Gram matrices of the features and of the gated features: they share their right operand, the
// gate's square is on the left one, of whose columns `depth` tiles are there. WHOLE: all four
// products in TF32, where the result is to be factored.
template <bool WHOLE, class S, int TILES>
RKA_DEVICE void add_gram(const float* top, const float* bottom, const float* right,
                         const float* gate, int depth, int pairs, Strip<TILES>& item,
                         Strip<TILES>& user) {
  if (pairs == 0) return;  // beyond the keys there is nothing to read
  with_width<TILES>(2 * pairs, [&](auto width) {
#pragma unroll 1
    for (int k = 0; k < depth; ++k) {
      const Pair u = load_pair(top + 8 * k), v = load_pair(bottom + 8 * k),
                 g = load_pair(gate + 8 * k);
      const Left a = left_operand(u.x, v.x, u.y, v.y),
                 gated = left_operand(u.x * g.x, v.x * g.x, u.y * g.y, v.y * g.y);
#pragma unroll
      for (int j = 0; j < width.value; ++j) {
        const Pair b = load_pair(right + 8 * j * S::PITCH + 8 * k);
        if constexpr (WHOLE) {
          Pair high, low;
          split(b.x, high.x, low.x);
          split(b.y, high.y, low.y);
          multiply_add_all(item[j], a, high, low);
          multiply_add_all(user[j], gated, high, low);
        } else {
          multiply_add(item[j], a, b);
          multiply_add(user[j], gated, b);
        }
      }
    }
  });
}
// Of one chunk of feature columns in `x`.
template <bool WHOLE, class S>
RKA_DEVICE void add_gram(const Sequence<S>& s, const float* x, int depth, int pairs,
                         Strip<S::TILES>& item, Strip<S::TILES>& user) {
  const Lane& l = s.lane;
  const float *top = x + s.row_in_square(0) * S::PITCH + 2 * l.t,
              *bottom = x + s.row_in_square(1) * S::PITCH + 2 * l.t,
              *right = x + kept(l.g * S::PITCH + 2 * l.t), *gate = s.gate_squared + 2 * l.t;
  add_gram<WHOLE, S>(top, bottom, right, gate, depth, pairs, item, user);
}

// Starts the copy of the counts into the second buffer; 1 / sqrt of every item's support. Zeros
// where there are none.
template <class S>
RKA_DEVICE void fetch_counts(const Sequence<S>& s) {
  const int i = thread_index(), keys = s.p.keys;
  const bool some = s.p.cooccurrence && i < keys;
  if (i < S::SIZE)
    s.support[i] = some ? inverse_norm_fast(s.counts()[int64_t(i) * (keys + 1)]) : 0.0f;
  if (s.p.cooccurrence) {
    s.fetch_counts();
    return;
  }
#pragma unroll 1
  for (int at = i; at < S::SQUARE; at += WARPS * LANES) s.buffer(1)[at] = 0.0f;
  end_of_copies();
}

// Both Gram matrices of the warp's rows, up to the diagonal; 1 / norm of every key into shared
// memory. Uses the first buffer; the counts come into the second meanwhile.
template <bool WHOLE, class S>
RKA_DEVICE void gram(const Sequence<S>& s, int pairs, Strip<S::TILES>& item,
                     Strip<S::TILES>& user) {
  const Problem& p = s.p;
  const int width = p.feature_width, i = thread_index();
  const float* features = p.features + int64_t(s.b) * p.keys * width;
  const float* gate = p.gate ? p.gate + int64_t(s.b) * width : nullptr;
  item.clear(), user.clear();
#pragma unroll 1
  for (int c0 = 0; c0 < width; c0 += S::SIZE) {
    const int columns = width - c0 < S::SIZE ? width - c0 : S::SIZE;
    if (c0 > 0) sync_block();  // the last chunk is done with
    s.fetch(s.buffer(0), features + c0, width, columns);
    if (i < S::SIZE) {
      const float g = gate && i < columns ? gate[c0 + i] : 0.0f;
      s.gate_squared[i] = g * g;
    }
    if (c0 == 0) {
      fetch_counts(s);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    sync_block();
    add_gram<WHOLE>(s, s.buffer(0), (columns + 7) / 8, pairs, item, user);
  }
  // Norms from the diagonal of the one Gram matrix: a cosine beyond 1 is rounding only.
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float a = diagonal<S>(s.lane, item, half), b = diagonal<S>(s.lane, user, half);
    const int row = s.lane.row(half);
    if (s.lane.has_diagonal() && row < S::SIZE) {
      s.item_norm[row] = inverse_norm_fast(a);
      s.user_norm[row] = inverse_norm_fast(b);
    }
  }
}

// The lower triangle of the square over its upper one.
template <class S>
RKA_DEVICE void mirror(const Sequence<S>& s) {
  sync_block();
  for (int i = thread_index(); i < S::SIZE * S::SIZE; i += WARPS * LANES) {
    const int row = i / S::SIZE, column = i % S::SIZE;
    if (column > row) s.square[row * S::PITCH + column] = s.square[column * S::PITCH + row];
  }
}

// What turns products into entries of K: the kernels' weights, and their slopes over a cosine.
struct Mixture {
  float counting, by_item, by_user, item_slope, user_slope;

  RKA_DEVICE Mixture(const Problem& p, int b) {
    const float* mixture = p.mixture + b * p.mixture_batch;
    const float scale = 1.0f / (1.0f + p.jitter);
    counting = p.cooccurrence ? mixture[0] * scale : 0.0f, by_item = mixture[1] * scale;
    by_user = p.gate ? mixture[2] * scale : 0.0f;
    item_slope = 2.0f * LOG2_E * p.concentration[0];
    user_slope = 2.0f * LOG2_E * p.concentration[1];
  }
  // Of a count times both supports and its weight, and products times the row's norm and slope.
  RKA_DEVICE float entry(float counted, float item, float item_norm, float user,
                         float user_norm) const {
    const float by_cosine = fmaf(item, item_norm, -item_slope),
                gated = fmaf(user, user_norm, -user_slope);
    return fmaf(by_user, exp2_fast(gated), fmaf(by_item, exp2_fast(by_cosine), counted));
  }
};

// K's lower triangle into the square, for the mean the upper one too. The counts stay in the
// second buffer, their diagonal zero. Ends before the barrier that makes the square visible.
template <class S>
RKA_DEVICE void correlation(const Sequence<S>& s) {
  const Problem& p = s.p;
  const Lane& l = s.lane;
  const int pairs = l.first_row < p.keys ? l.warp + 1 : 0;
  Strip<S::TILES> item, user;
  gram<true>(s, pairs, item, user);
  wait_for_copies<0>();
  if (p.cooccurrence) s.clear_diagonal();
  sync_block();
  const Mixture mixture(p, s.b);
  const uint64_t columns = s.exists >> 2 * l.t;
  const uint64_t both[2] = {s.has(l.row(0)) ? columns : 0, s.has(l.row(1)) ? columns : 0};
  uint32_t bits = 0;
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    if (j / 2 >= pairs) continue;
    const int column = l.column(j);
    const Pair in = load_pair(s.item_norm + column), un = load_pair(s.user_norm + column),
               sn = load_pair(s.support + column);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = l.row(half);
      if (row >= S::SIZE) continue;
      const float ir = s.item_norm[row] * mixture.item_slope,
                  ur = s.user_norm[row] * mixture.user_slope,
                  sr = s.support[row] * mixture.counting;
      const Pair counts = load_pair(s.buffer(1) + row * S::PITCH + column);
      bits |= float_to_bits(counts.x) | float_to_bits(counts.y);
      float k[2];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        k[c] = mixture.entry(sr * (c ? sn.y : sn.x) * (c ? counts.y : counts.x),
                             item[j][2 * half + c] * ir, c ? in.y : in.x,
                             user[j][2 * half + c] * ur, c ? un.y : un.x);
        if (!(both[half] >> (8 * j + c) & 1)) k[c] = 0.0f;
      }
      store_pair(s.square + row * S::PITCH + column, k[0], k[1]);
    }
  }
  const bool rounded = ballot((bits & 0x1FFF) != 0) != 0;
  if (l.lane == 0) s.rounded[l.warp] = rounded ? 1.0f : 0.0f;  // the ballot also ends the stores
  const int row = l.first_row + l.lane;
  if (l.lane < STRIP && row < S::SIZE) s.square[row * (S::PITCH + 1)] = 1.0f;
  if (p.mode == Mode::mean) mirror(s);
}

// products += (M o C) C and means += M C, M what the rows see of some columns, C without its
// diagonal: the rows' from `top` and `bottom`, of which `depth` tiles are used, and as the right
// operand. EXACT: all counts are whole numbers below 2,048, which TF32 holds.
template <bool EXACT, class S>
RKA_DEVICE void add_counts(const Rows& rows, const float* top, const float* bottom,
                           const float* right, int depth, int pairs, Strip<S::TILES>& products,
                           Strip<S::TILES>& means) {
  with_width<S::TILES>(2 * pairs, [&](auto width) {
#pragma unroll 1
    for (int k = 0; k < depth; ++k) {
      const Pair u = load_pair(top + 8 * k), v = load_pair(bottom + 8 * k);
      const uint32_t first = uint32_t(rows.seen[0] >> 8 * k),
                     second = uint32_t(rows.seen[1] >> 8 * k);
      const float seen[4] = {first & 1 ? 1.0f : 0.0f, second & 1 ? 1.0f : 0.0f,
                             first & 2 ? 1.0f : 0.0f, second & 2 ? 1.0f : 0.0f};
      const float counted[4] = {first & 1 ? u.x : 0.0f, second & 1 ? v.x : 0.0f,
                                first & 2 ? u.y : 0.0f, second & 2 ? v.y : 0.0f};
      Left a;
      if constexpr (!EXACT) a = left_operand(counted[0], counted[1], counted[2], counted[3]);
#pragma unroll
      for (int j = 0; j < width.value; ++j) {
        const Pair b = load_pair(right + 8 * j * S::PITCH + 8 * k);
        if constexpr (EXACT) {
          multiply_tile(products[j], counted, b.x, b.y);
        } else {
          multiply_add(products[j], a, b);
          multiply_tile(means[j], seen, low_part(b.x), low_part(b.y));
        }
        multiply_tile(means[j], seen, b.x, b.y);
      }
    }
  });
}
// Of the warp's rows; the counts are in the second buffer.
template <bool EXACT, class S>
RKA_DEVICE void multiply_counts(const Sequence<S>& s, const Rows& rows, Strip<S::TILES>& products,
                                Strip<S::TILES>& means) {
  const Lane& l = s.lane;
  const float *counts = s.buffer(1), *right = counts + kept(l.g * S::PITCH + 2 * l.t),
              *top = counts + s.row_in_square(0) * S::PITCH + 2 * l.t,
              *bottom = counts + s.row_in_square(1) * S::PITCH + 2 * l.t;
  products.clear(), means.clear();
  const int depth = 2 * rows.pairs < S::TILES ? 2 * rows.pairs : S::TILES;
  add_counts<EXACT, S>(rows, top, bottom, right, depth, rows.pairs, products, means);
}

// alpha-hat / max alpha-hat where allowed. Reads the counts in the second buffer.
template <class S>
RKA_DEVICE void shape_prior(const Sequence<S>& s, const Rows& rows, Strip<S::TILES>& prior) {
  const Lane& l = s.lane;
  if (!s.p.cooccurrence) {
#pragma unroll
    for (int j = 0; j < S::TILES; ++j) {
      for (int c = 0; c < 4; ++c) prior[j][c] = rows.allowed(j, c) ? 1.0f : 0.0f;
    }
    return;
  }
  Strip<S::TILES> means;
  bool exact = true;
  for (int w = 0; w < WARPS; ++w) exact = exact && s.rounded[w] == 0.0f;
  if (exact) {
    multiply_counts<true>(s, rows, prior, means);
  } else {
    multiply_counts<false>(s, rows, prior, means);
  }
  clear_beyond<S>(prior, rows.pairs);
  float inverse[2], own[2];  // D_tt, where the row sees itself
  for (int half = 0; half < 2; ++half) {
    inverse[half] = reciprocal(rows.count[half] > 2 ? float(rows.count[half] - 1) : 1.0f);
    const bool itself = l.has_diagonal() && rows.sees_itself(l, half);
    const float mean = diagonal<S>(l, means, half) * inverse[half];
    own[half] = sum_of_row(itself ? mean : 0.0f);
  }
  float largest[2] = {};
  const float* counts[2];
  int beyond[2];  // columns from the lane's first to the diagonal
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    counts[half] = s.buffer(1) + kept(s.row_in_square(half) * S::PITCH + l.column(0));
    beyond[half] = kept(l.row(half) - l.column(0));
  }
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    if (j / 2 >= rows.pairs) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Pair count = load_pair(counts[half] + 8 * j);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int e = 2 * half + c;
        float x =
            prior_entry(prior[j][e], c ? count.y : count.x, means[j][e] * inverse[half], own[half]);
        if (beyond[half] == 8 * j + c) x = fmaf(own[half], own[half], x);
        prior[j][e] = rows.allowed(j, e) ? x : 0.0f;
        largest[half] = fmaxf(largest[half], prior[j][e]);
      }
    }
  }
  for (float& x : largest) {
    x = largest_of_row(x);
    x = x > 0.0f ? reciprocal(x) : 1.0f;
  }
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) prior[j][c] *= largest[c / 2];
  }
}

}  // namespace rka::cuda
