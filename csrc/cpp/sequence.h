// One sequence of a call and the scratch memory it is processed in.
//
// Everything lives in buffers of the calling thread that fit its L2 cache for the usual sizes; the
// rows of the attention matrix are produced in tiles and never all at once. Matrices are row-major
// with rows of `ld` elements, and what lies beyond their width is zero unless said otherwise.
#pragma once

#include "../skew_normal.h"
#include "../times.h"
#include "cholesky.h"
#include "philox.h"
#include "views.h"

namespace rka {
inline namespace RKA_ISA {

constexpr int TILE = 16;  // rows of the attention matrix at a time

inline int minimum(int64_t a, int64_t b) { return int(a < b ? a : b); }

template <class T>
void clear(T* p, int64_t count) {
  if (p) std::memset(static_cast<void*>(p), 0, size_t(count) * sizeof(T));
}

// Hands out aligned pieces of one block; with a null base it only counts.
struct Arena {
  char* base;
  size_t used = 0;

  // `count` elements for each of the pointers.
  template <class T, class... More>
  void take(int64_t count, T*& p, More*&... more) {
    p = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (size_t(count) * sizeof(T) + 63) / 64 * 64;
    if constexpr (sizeof...(more) > 0) take(count, more...);
  }
};

// A query-key product: location, scale or shape.
template <class T>
struct Score {
  const Heads *query, *key;
  int width, padded;
  T factor;            // 1 / sqrt(width)
  T* transposed = {};  // (width, ld) keys
  T* rows = {};        // (m, padded) keys
  T* query_tile = {};  // (TILE, padded) queries times the factor
  T* tile = {};        // (TILE, ld) products; not yet through the activation
  T* key_grad = {};    // (m, padded)
};

template <class T>
struct Sequence {
  const Problem& problem;
  const int64_t b;
  uint64_t seed = 0;  // of the draw at work
  // The window of what exists: leading and trailing padding is cut off. Local indices count from
  // row0 and col0; local row r is local key r + shift, and shift >= 0 where that matters: when
  // causal, and with a prior. col0 is a multiple of 4, as the noise needs it.
  int row0 = 0, col0 = 0, n = 0, m = 0, shift = 0;
  int ld;
  bool spread, skewed, sampled, has_prior;

  T *valid = {}, *row_buffer = {};  // (ld); valid: 1 where the key exists
  Score<T> location, scale, shape;
  int value_padded, feature_padded;
  T *value = {}, *value_transposed = {}, *value_grad = {};  // (m, padded), (padded, ld)
  T *features = {}, *features_transposed = {}, *gated_transposed = {};
  T *gate = {}, *gate_grad = {}, *gated_grad = {};
  T *k = {}, *u = {}, *dk = {}, *du = {};      // (ld, ld): K, its upper factor, gradients
  T *cosine_item = {}, *cosine_user = {};      // (ld, ld): lower triangles
  T *diagonal_item = {}, *diagonal_user = {};  // (ld)
  T *inverse_item = {}, *inverse_user = {}, *inverse_count = {};  // (ld): 1 / norm
  T *counts = {}, *prior = {};                                    // (n or m, ld)
  uint8_t* bucket = {};                                           // (n, ld) of the relative times
  T *time_table = {}, *time_table_grad = {};                      // (TIME_BUCKETS) of the head
  T weight[3], twice_gamma[2];

  // Tiles (TILE, ld), and two of a value's or score's width.
  T *allowed = {}, *alpha = {}, *p = {}, *x = {}, *noise = {}, *weights = {}, *keep = {};
  T *d_weights = {}, *d_p = {}, *d_x = {}, *d_alpha = {};
  T *output_tile = {}, *width_tile = {};
  T allowed_count[TILE];
  SkewRow<T> skew[TILE];

  Sequence(const Problem& c, int64_t sequence)
      : problem(c),
        b(sequence),
        spread(c.mode != Mode::location),
        skewed(spread && bool(c.shape_query)),
        sampled(c.mode == Mode::sample),
        has_prior(skewed && (c.cooccurrence || c.prior)) {
    ld = padded(c.keys + BLOCK);  // one block of slack: see cholesky_backward
    location = score(c.query, c.key, c.width);
    if (c.scale) location.factor = T(*c.scale);
    scale = score(c.scale_query, c.scale_key, c.scale_width);
    shape = score(c.shape_query, c.shape_key, c.shape_width);
    value_padded = padded(c.value_width);
    feature_padded = padded(c.feature_width);
  }

  static int padded(int64_t width) { return int((width + LANES<T> - 1) / LANES<T> * LANES<T>); }

  static Score<T> score(const Heads& query, const Heads& key, int64_t width) {
    return {&query, &key, int(width), padded(width), T(1) / std::sqrt(T(width > 0 ? width : 1))};
  }

  // Lays the buffers out. `backward`: those of the backward pass too.
  void allocate(Arena& arena, bool backward) {
    const int64_t rows = padded(problem.rows > problem.keys ? problem.rows : problem.keys);
    const int64_t tile = int64_t(TILE) * ld, slack = 4 * GROUPS;  // noise comes in whole steps
    int widest = value_padded > feature_padded ? value_padded : feature_padded;
    arena.take(ld, valid, row_buffer);
    arena.take(tile + slack, allowed, weights, keep);
    arena.take(rows * value_padded, value);
    allocate_score(arena, location, rows, backward, widest);
    if (spread) allocate_score(arena, scale, rows, backward, widest);
    if (skewed) allocate_score(arena, shape, rows, backward, widest);
    if (skewed || sampled) {
      arena.take(tile + slack, alpha, p, x, noise);
      allocate_covariance(arena, rows, backward);
    }
    if (backward) {
      arena.take(tile, d_weights, d_p, d_x, d_alpha);
      arena.take(int64_t(value_padded) * ld, value_transposed);
      arena.take(rows * value_padded, value_grad);
    }
    if (problem.time_table) {
      arena.take(rows * ld, bucket);
      arena.take(padded(TIME_BUCKETS), time_table, time_table_grad);
    }
    arena.take(int64_t(TILE) * value_padded, output_tile);
    arena.take(int64_t(TILE) * widest, width_tile);
  }

  // Finds the window. False where no key exists: the output is zero.
  bool open() {
    int first = 0, last = int(problem.keys);
    if (problem.padding) {
      const auto is_padding = [&](int j) {
        return *(problem.padding.data + b * problem.padding.stride[0] +
                 j * problem.padding.stride[3]) != 0;
      };
      while (first < last && is_padding(first)) ++first;
      while (last > first && is_padding(last - 1)) --last;
      // Without causality the prior relates every query to the keys, so none may go.
      col0 = has_prior && !problem.causal ? 0 : first & ~3;
      for (int j = 0; j < ld; ++j)
        valid[j] = j < last - col0 && !is_padding(col0 + j) ? T(1) : T(0);
    } else {
      for (int j = 0; j < ld; ++j) valid[j] = j < last ? T(1) : T(0);
    }
    m = last - col0;
    const int64_t begin = col0 - problem.row_offset;  // the row of the first key
    row0 = problem.causal && begin > 0 ? minimum(begin, problem.rows) : 0;
    n = int(problem.rows) - row0;
    shift = int(row0 - begin);
    return last > first && n > 0;
  }
  void begin_draw(int64_t draw) {
    const View& seeds = problem.seed;
    if (seeds)
      seed = uint64_t(reinterpret_cast<const int64_t*>(seeds.data)[draw * seeds.stride[3]]);
  }
  // Row `first` of a tile as the noise counts it.
  uint32_t position(int row) const { return uint32_t(row0 + row + problem.row_offset); }

  // Keys of a tile: `limit` of them can matter, `columns` = limit in whole vectors.
  struct Tile {
    int first, rows, limit, columns;
  };
  Tile tile(int first) const {
    const int rows = minimum(TILE, n - first);
    const int limit = problem.causal ? minimum(m, int64_t(first) + rows + shift) : m;
    return {first, rows, limit, padded(limit)};
  }

  // A tile's rows of an input, of the sequence that is likely to come next.
  void fetch_next(const View& v, const Tile& t, int64_t head, int64_t width) const {
    if (b + problem.ahead < problem.batch)
      fetch<For::reading>(v, b + problem.ahead, head, row0 + t.first, t.rows, int(width));
  }
  // And of an output, of this sequence.
  void fetch_own(const View& v, const Tile& t, int64_t head, int64_t width) const {
    fetch<For::writing>(v, b, head, row0 + t.first, t.rows, int(width));
  }

  // M of a tile as 0 and 1, and the number of allowed keys in each row.
  void allow(const Tile& t, int64_t head) {
    const Vec<T> lane = lane_numbers<T>();
    for (int r = 0; r < t.rows; ++r) {
      T* row = allowed + r * ld;
      const int end = visible_keys(t, r);
      if (problem.mask) read_row(problem.mask, b, head, row0 + t.first + r, col0, end, T(1), row);
      Vec<T> count = {};
      for (int j = 0; j < t.columns; j += LANES<T>) {
        const auto inside = lane + T(j) < broadcast(T(end));
        Vec<T> one = select(inside, load(valid + j), Vec<T>{});
        if (problem.mask) one = select(inside, one * load(row + j), Vec<T>{});
        count += one;
        store(row + j, one);
      }
      allowed_count[r] = sum<T>(count);
    }
  }
  // Keys of a row that causality leaves.
  int visible_keys(const Tile& t, int r) const {
    return problem.causal ? minimum(t.limit, int64_t(t.first) + r + 1 + shift) : t.limit;
  }

  // Buckets of all rows and keys that a row may see; the same for every head.
  void find_buckets() {
    static const TimeEdges edges;
    const auto times = [&](const View& v) {
      return reinterpret_cast<const int64_t*>(v.data) + b * v.stride[0];
    };
    const int64_t *row_times = times(problem.row_times), *key_times = times(problem.key_times);
    for (int first = 0; first < n; first += TILE) {
      const Tile t = tile(first);
      for (int r = first; r < first + t.rows; ++r) {
        const int64_t time = row_times[(row0 + r) * problem.row_times.stride[3]];
        uint8_t* out = bucket + int64_t(r) * ld;
        for (int j = 0; j < t.columns; ++j)
          out[j] = j < t.limit
                       ? uint8_t(time_bucket(edges.seconds, time,
                                             key_times[(col0 + j) * problem.key_times.stride[3]]))
                       : 0;
      }
    }
  }

  // The keys of one head, as both products of the forward and of the backward pass read them.
  void pack_keys(Score<T>& s, int64_t head) {
    pack(*s.key, b, head, col0, m, s.width, padded(m), s.padded, T(1), valid, s.rows);
    transpose(m, s.width, s.rows, s.padded, s.transposed, ld);
  }
  void pack_value(int64_t head) {
    pack(problem.value, b, head, col0, m, int(problem.value_width), padded(m), value_padded, T(1),
         valid, value);
  }

  // tile = query key' / sqrt(width).
  void score_tile(Score<T>& s, const Tile& t, int64_t head) {
    fetch_next(*s.query, t, head, s.width);
    fetch_next(*s.key, t, head, s.width);
    pack(*s.query, b, head, row0 + t.first, t.rows, s.width, t.rows, s.padded, s.factor,
         static_cast<const T*>(nullptr), s.query_tile);
    gemm<T, false, Op::set>(t.rows, t.columns, s.width, s.query_tile, s.padded, s.transposed, ld,
                            s.tile, ld);
  }

 private:
  void allocate_score(Arena& arena, Score<T>& s, int64_t rows, bool backward, int& widest) {
    arena.take(int64_t(s.padded) * ld, s.transposed);
    arena.take(rows * s.padded, s.rows);
    arena.take(int64_t(TILE) * s.padded, s.query_tile);
    arena.take(int64_t(TILE) * ld, s.tile);
    if (backward) arena.take(rows * s.padded, s.key_grad);
    if (s.padded > widest) widest = s.padded;
  }

  void allocate_covariance(Arena& arena, int64_t rows, bool backward) {
    const int64_t square = int64_t(ld) * ld;
    arena.take(square, k, u);
    if (has_prior) arena.take(rows * ld, prior);
    if (problem.correlation) {
      if (backward) arena.take(square, dk, du);
      return;
    }
    arena.take(rows * feature_padded, features);
    arena.take(int64_t(feature_padded) * ld, features_transposed);
    arena.take(ld, inverse_item, inverse_user, inverse_count);
    if (problem.gate) arena.take(int64_t(feature_padded) * ld, gated_transposed);
    if (problem.cooccurrence) arena.take(rows * ld, counts);
    if (!backward) {  // both end where they began: in the buffers of K and of its factor
      cosine_item = k;
      cosine_user = u;
      return;
    }
    arena.take(square, cosine_item, cosine_user, dk, du);
    arena.take(ld, diagonal_item, diagonal_user);
    arena.take(feature_padded, gate, gate_grad);
    arena.take(rows * feature_padded, gated_grad);
  }
};

// Zeros into rows [from, to) of the last two dimensions.
template <class T>
void write_zeros(Sequence<T>& s, const View& v, int64_t head, int64_t from, int64_t to, int width) {
  if (!v || from >= to) return;
  for (int c = 0; c < width; ++c) s.width_tile[c] = T(0);
  for (int64_t i = from; i < to; ++i) write_row(v, s.b, head, i, 0, width, T(1), s.width_tile);
}

}  // namespace RKA_ISA
}  // namespace rka
