// K and the prior of the shape of a long sequence, square by square: every block makes a row of
// squares of either.
#pragma once

#include "long_sequence.h"
#include "strip_covariance.h"

namespace rka::cuda {

// The diagonal of a warp's two tiles of a Gram matrix, from the lanes that have it.
RKA_DEVICE void store_norms(const Lane& l, const Strip<2>& x, float* norms) {
  if (!l.has_diagonal()) return;
  for (int half = 0; half < 2; ++half) {
    const float square = l.g % 2 ? x[half][2 * half + 1] : x[half][2 * half];
    norms[l.first_row + l.g + 8 * half] = inverse_norm_fast(square);
  }
}

// What stands behind the squares in shared memory: of one square's columns.
struct Beside {
  float *gate_squared, *item_norm, *user_norm, *support;
  RKA_DEVICE explicit Beside(float* shared) : gate_squared(shared + LONG_FLOATS) {
    item_norm = gate_squared + SIDE, user_norm = item_norm + SIDE, support = user_norm + SIDE;
  }
};

// Gram matrices of the rows' features with those of square j's keys, whose norms come from their
// own Gram matrix: the same number wherever it is needed. All is there after the next barrier.
RKA_DEVICE void gram_square(const Long& s, const Lane& l, int j, Strip<Square::TILES>& item,
                            Strip<Square::TILES>& user) {
  const Problem& p = s.p;
  const Beside beside(s.shared);
  const int width = p.feature_width, i = s.tile, thread = thread_index();
  const float* features = p.features + int64_t(s.b) * p.keys * width;
  const float* gate = p.gate ? p.gate + int64_t(s.b) * width : nullptr;
  Strip<2> own_item, own_user;
  item.clear(), user.clear(), own_item.clear(), own_user.clear();
#pragma unroll 1
  for (int c0 = 0; c0 < width; c0 += SIDE) {
    const int columns = width - c0 < SIDE ? width - c0 : SIDE;
    sync_block();  // the last chunk, and what stands beside, is done with
    if (i == j || width > SIDE) {
      fetch_rows<Square>(s.buffer(0), features + int64_t(SIDE) * i * width + c0, width, columns,
                         SIDE, s.exist(i));
    }
    if (i != j) {
      fetch_rows<Square>(s.buffer(1), features + int64_t(SIDE) * j * width + c0, width, columns,
                         SIDE, s.exist(j));
    }
    if (thread < SIDE) {
      const float g = gate && thread < columns ? gate[c0 + thread] : 0.0f;
      beside.gate_squared[thread] = g * g;
    }
    wait_for_copies<0>();
    sync_block();
    const float *rows = s.buffer(0), *keys = s.buffer(i == j ? 0 : 1);
    const int depth = (columns + 7) / 8, mine = kept(l.row(0) * Square::PITCH + 2 * l.t),
              below = 8 * Square::PITCH;
    const bool some_rows = l.first_row < s.keys_of(i), some_keys = l.first_row < s.keys_of(j);
    add_gram<true, Square>(rows + mine, rows + mine + below,
                           keys + kept(l.g * Square::PITCH + 2 * l.t),
                           beside.gate_squared + 2 * l.t, depth,
                           some_rows ? s.whole_keys_of(j) / STRIP : 0, item, user);
    add_gram<true, Square>(keys + mine, keys + mine + below, keys + mine,
                           beside.gate_squared + 2 * l.t, depth, some_keys, own_item, own_user);
  }
  store_norms(l, own_item, beside.item_norm);
  store_norms(l, own_user, beside.user_norm);
  if (thread < SIDE) {
    const int key = SIDE * j + thread;
    const bool some = p.cooccurrence && key < p.keys;
    beside.support[thread] =
        some ? inverse_norm_fast(s.counts()[int64_t(key) * (p.keys + 1)]) : 0.0f;
  }
}

// K of row of squares i, up to the diagonal; the square on it is whole.
RKA_DEVICE void relate(const Problem& p, const Workspace& w, int local, int i, float* shared) {
  const Long s(p, w, local, i, shared);
  const Lane l;
  const Beside beside(shared);
  const Mixture mixture(p, s.b);
  float item_norm[2], user_norm[2], support[2];
  uint32_t bits = 0;
  s.describe_keys();
  sync_block();
  const uint64_t row_exists = s.exist(i);
#pragma unroll 1
  for (int n = 0; n <= i; ++n) {
    const int j = n == 0 ? i : n - 1;
    Strip<Square::TILES> item, user;
    gram_square(s, l, j, item, user);
    sync_block();
    if (n == 0) {
      for (int half = 0; half < 2; ++half) {
        item_norm[half] = beside.item_norm[l.row(half)] * mixture.item_slope;
        user_norm[half] = beside.user_norm[l.row(half)] * mixture.user_slope;
        support[half] = beside.support[l.row(half)] * mixture.counting;
      }
    }
    const uint64_t columns = s.exist(j) >> 2 * l.t;
    float* to = w.relation(local, i, j) + l.row(0) * SIDE + 2 * l.t;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = l.row(half), key = SIDE * i + row, first = SIDE * j + 2 * l.t;
      const uint64_t both = row_exists >> row & 1 ? columns : 0;
      const bool counted = p.cooccurrence && key < p.keys;
      const float* counts = counted ? s.counts() + int64_t(key) * p.keys + first : nullptr;
#pragma unroll
      for (int k = 0; k < Square::TILES; ++k) {
        const int column = 8 * k + 2 * l.t;
        float entry[2];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const bool itself = i == j && row == column + c;
          const float count =
              counted && !itself && first + 8 * k + c < p.keys ? counts[8 * k + c] : 0.0f;
          bits |= float_to_bits(count);
          const float x =
              mixture.entry(support[half] * beside.support[column + c] * count,
                            item[k][2 * half + c] * item_norm[half], beside.item_norm[column + c],
                            user[k][2 * half + c] * user_norm[half], beside.user_norm[column + c]);
          entry[c] = itself ? 1.0f : both >> (8 * k + c) & 1 ? x : 0.0f;
        }
        store_pair(to + 8 * half * SIDE + 8 * k, entry[0], entry[1]);
      }
    }
  }
  sync_block();  // the squares' place is free
  const bool rounded = ballot((bits & 0x1FFF) != 0) != 0;
  if (l.lane == 0) shared[l.warp] = rounded ? 1.0f : 0.0f;
  sync_block();
  if (thread_index() == 0) {
    w.rounded[int64_t(local) * w.key_squares + i] = shared[0] + shared[1] + shared[2] + shared[3];
  }
}

// Starts the copy of a square of counts, zeros beyond the keys.
RKA_DEVICE void fetch_counts(const Long& s, float* to, int i, int j) {
  const int left = s.p.keys - SIDE * i;
  const uint64_t keys = left <= 0 ? 0 : ~uint64_t(0) >> (left < SIDE ? SIDE - left : 0);
  const float* from = s.counts() + (keys ? int64_t(SIDE) * i * s.p.keys : 0) + SIDE * j;
  fetch_rows<Square>(to, from, s.p.keys, s.keys_of(j), SIDE, keys);
}

// products = (M o C) C and means = M C in the columns of square j. The rows' own counts there are
// in the first buffer afterwards; what they see of it comes out.
template <bool EXACT>
RKA_DEVICE Rows multiply_counts(const Long& s, const Lane& l, int head, int j,
                                Strip<Square::TILES>& products, Strip<Square::TILES>& means) {
  const int seen = s.seen_squares(), pairs = s.pairs_of(j);
  Rows rows;
  products.clear(), means.clear();
#pragma unroll 1
  for (int n = 1; n <= seen; ++n) {
    const int k = (j + n) % seen;  // square j at last
    sync_block();
    fetch_counts(s, s.buffer(0), s.tile, k);
    fetch_counts(s, s.buffer(1), j, k);
    rows = s.rows_of(head, k);
    wait_for_copies<0>();
    sync_block();
    if (k == s.tile || k == j) {
      const int thread = thread_index(), diagonal = thread * (Square::PITCH + 1);
      if (thread < SIDE && k == s.tile) s.buffer(0)[diagonal] = 0.0f;
      if (thread < SIDE && k == j) s.buffer(1)[diagonal] = 0.0f;
      sync_block();
    }
    const float* top = s.buffer(0) + kept(l.row(0) * Square::PITCH + 2 * l.t);
    add_counts<EXACT, Square>(rows, top, top + 8 * Square::PITCH,
                              s.buffer(1) + kept(l.g * Square::PITCH + 2 * l.t), 2 * rows.pairs,
                              pairs, products, means);
  }
  return rows;
}

// alpha-hat of row of squares i where allowed, and 1 / its largest of every row.
RKA_DEVICE void shape_prior(const Problem& p, const Workspace& w, int local, int number, int i,
                            float* shared) {
  const Long s(p, w, local, i, shared);
  const Lane l;
  const int seen = s.seen_squares();
  const bool own_square = i < seen;
  const int64_t row = w.prior_row(local, number, i);
  s.describe_keys();
  sync_block();
  bool exact = true;
  int count[2] = {};
#pragma unroll 1
  for (int j = 0; j < w.key_squares; ++j) {
    exact = exact && w.rounded[int64_t(local) * w.key_squares + j] == 0.0f;
  }
#pragma unroll 1
  for (int j = 0; j < seen; ++j) {
    const Rows rows = s.rows_of(number, j);
    for (int half = 0; half < 2; ++half) count[half] += rows.count[half];
  }
  float inverse[2], own[2] = {}, largest[2] = {};  // own: D_tt, where the row sees itself
  for (int half = 0; half < 2; ++half)
    inverse[half] = reciprocal(count[half] > 2 ? float(count[half] - 1) : 1.0f);
#pragma unroll 1
  for (int n = 0; n < seen; ++n) {
    const int j = !own_square ? n : n == 0 ? i : n <= i ? n - 1 : n;  // its own square first
    Strip<Square::TILES> prior, means;
    const Rows rows = exact ? multiply_counts<true>(s, l, number, j, prior, means)
                            : multiply_counts<false>(s, l, number, j, prior, means);
    if (j == i) {
      for (int half = 0; half < 2; ++half) {
        const bool itself = l.has_diagonal() && rows.sees_itself(l, half);
        const float mean = diagonal<Square>(l, means, half) * inverse[half];
        own[half] = sum_of_row(itself ? mean : 0.0f);
      }
    }
    const float* counts = s.buffer(0) + kept(l.row(0) * Square::PITCH + 2 * l.t);
    const int beyond = j == i ? l.row(0) - 2 * l.t : -1;  // columns to the diagonal
    float* to = w.prior_square(row, j);
#pragma unroll
    for (int k = 0; k < Square::TILES; ++k) {
      if (k / 2 >= rows.pairs) continue;
      Four x;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Pair of_row = load_pair(counts + 8 * half * Square::PITCH + 8 * k);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int e = 2 * half + c;
          float y = prior_entry(prior[k][e], c ? of_row.y : of_row.x, means[k][e] * inverse[half],
                                own[half]);
          if (j == i && beyond + 8 * half == 8 * k + c) y = fmaf(own[half], own[half], y);
          x[e] = rows.allowed(k, e) ? y : 0.0f;
          largest[half] = fmaxf(largest[half], x[e]);
        }
      }
      store4(s.own(to, k), x);
    }
  }
  for (int half = 0; half < 2; ++half) {
    const float x = largest_of_row(largest[half]);
    if (l.t == 0) w.prior_weight[row * SIDE + l.row(half)] = x > 0.0f ? reciprocal(x) : 1.0f;
  }
}

}  // namespace rka::cuda
