// softmax(Z) V of one sequence, a tile of rows at a time.
#pragma once

#include <cfloat>

#include "relations.h"
#include "skew_normal.h"

namespace rka {
inline namespace RKA_ISA {

// What is the same for all heads: K, its factor and, unless the mask differs by head, the prior.
template <class T>
void prepare(Sequence<T>& s) {
  if (s.problem.time_table) s.find_buckets();
  if (!s.skewed && !s.sampled) return;
  if (s.problem.correlation) {
    read_relations(s);
  } else {
    correlation(s);
    if (s.sampled) cholesky(s.m, s.k, s.u, s.ld, T(s.problem.jitter));
  }
  if (s.has_prior && !s.problem.prior && !s.problem.mask_per_head) shape_prior(s, 0);
  // Keys that no row of a tile sees get no noise; what stands there must be finite.
  if (s.sampled) clear(s.noise, int64_t(TILE) * s.ld);
}

template <class T>
void prepare_head(Sequence<T>& s, int64_t head) {
  s.pack_keys(s.location, head);
  s.pack_value(head);
  if (s.problem.time_table)
    read_row(s.problem.time_table, 0, 0, head, 0, TIME_BUCKETS, T(1), s.time_table);
  if (!s.spread) return;
  s.pack_keys(s.scale, head);
  if (!s.skewed) return;
  s.pack_keys(s.shape, head);
  if (s.has_prior && !s.problem.prior && s.problem.mask_per_head) shape_prior(s, head);
}

// Adds a row's entries of the table of relative times (or sets them, without a bias).
template <class T>
void add_time_bias(const Sequence<T>& s, const Tile<T>& t, int r, T* row) {
  const uint8_t* bucket = s.bucket + int64_t(t.first + r) * s.ld;
  for (int j = 0; j < t.columns; ++j)
    row[j] = s.time_table[bucket[j]] + (s.problem.bias ? row[j] : T(0));
}

// Z of one row into `z`; returns the maximum over its allowed keys.
template <class T>
T logits_row(Sequence<T>& s, const Tile<T>& t, int r, int64_t head, T scale_bias, T* z) {
  typedef Vec<T> V;
  const Problem& problem = s.problem;
  if (problem.bias)
    read_row(problem.bias, s.b, head, s.row0 + t.first + r, s.col0, t.limit, T(1), s.row_buffer);
  if (problem.time_table) add_time_bias(s, t, r, s.row_buffer);
  // As if masked keys had the lowest finite logit: a row with allowed keys at -inf only is zero.
  const T lowest = sizeof(T) == 4 ? T(-FLT_MAX) : T(-DBL_MAX);
  V most = broadcast(s.allowed_count[r] < T(problem.keys) ? lowest : T(-INFINITY));
  for (int j = 0; j < t.columns; j += LANES<T>) {
    const int at = r * s.ld + j;
    V value = activate(problem.activation, load(s.location.tile + at));
    if (problem.bias || problem.time_table) value += load(s.row_buffer + j);
    if (s.spread) value += softplus(load(s.scale.tile + at) + scale_bias).value * deviates(s, r, j);
    store(z + j, value);
    const auto visible = load(s.allowed + at) != V{};
    most = select(visible & (value > most), value, most);
  }
  return maximum<T>(most);
}

// Softmax weights of one row, zero where nothing may be seen. `z` in place.
template <class T>
void softmax_row(const Sequence<T>& s, const Tile<T>& t, int r, T most, T* z) {
  typedef Vec<T> V;
  V total = {};
  for (int j = 0; j < t.columns; j += LANES<T>) {
    const auto visible = load(s.allowed + r * s.ld + j) != V{};
    const V e = select(visible, exp_(load(z + j) - most), V{});
    total += e;
    store(z + j, e);
  }
  const T denominator = sum<T>(total);
  const T inverse = denominator == T(0) ? T(0) : T(1) / denominator;
  for (int j = 0; j < t.columns; j += LANES<T>) store(z + j, load(z + j) * inverse);
}

// The scores of a tile, A and P: what its draws share.
template <class T>
void scores_tile(Sequence<T>& s, const Tile<T>& t, int64_t head) {
  const Problem& problem = s.problem;
  s.fetch_next(problem.value, t, head, problem.value_width);
  s.allow(t, head);
  if (s.has_prior && problem.prior) read_prior(s, t, head);
  s.score_tile(s.location, t, head);
  if (s.spread) s.score_tile(s.scale, t, head);
  if (s.skewed || s.sampled) shape_tile(s, t, head);
}

// A draw's softmax weights of a tile of scores (and its dropout factors in s.keep).
template <class T>
void weights_tile(Sequence<T>& s, const Tile<T>& t, int64_t head) {
  const Problem& problem = s.problem;
  const T scale_bias = problem.scale_bias ? read<T>(problem.scale_bias, 0, 0, 0, head) : T(0);
  if (s.skewed || s.sampled) skew_normal_tile(s, t, head);
  for (int r = 0; r < t.rows; ++r) {
    T* z = s.weights + r * s.ld;
    softmax_row(s, t, r, logits_row(s, t, r, head, scale_bias, z), z);
    if (problem.dropout > 0)
      dropout_row(s.seed, uint32_t(s.col0 / 4), s.position(t.first + r),
                  uint32_t(s.b * problem.heads + head), t.columns, T(problem.dropout),
                  s.keep + r * s.ld);
  }
}

template <class T>
void forward(const Problem& problem, int64_t b, void* scratch) {
  Sequence<T> s(problem, b);
  Arena arena{static_cast<char*>(scratch)};
  s.allocate(arena, false);
  const bool open = s.open();
  const int width = int(problem.value_width);
  if (open) prepare(s);
  for (int64_t head = 0; head < problem.heads; ++head) {
    for (int64_t draw = 0; draw < problem.draws; ++draw)
      write_zeros(s, shifted(problem.output, draw * problem.output_stride), head, 0,
                  open ? s.row0 : problem.rows, width);
    if (!open) continue;
    prepare_head(s, head);
    for (int first = 0; first < s.n; first += TILE) {
      const Tile<T> t = s.tile(first);
      scores_tile(s, t, head);
      for (int64_t draw = 0; draw < problem.draws; ++draw) {
        const Heads output = shifted(problem.output, draw * problem.output_stride);
        s.fetch_own(output, t, head, width);
        s.begin_draw(draw);
        weights_tile(s, t, head);
        if (problem.dropout > 0)
          for (int i = 0; i < t.rows * s.ld; ++i) s.weights[i] *= s.keep[i];
        gemm<T, false, Op::set>(t.rows, width, t.limit, s.weights, s.ld, s.value, s.value_padded,
                                s.output_tile, s.value_padded);
        for (int r = 0; r < t.rows; ++r)
          write_row(output, b, head, s.row0 + first + r, 0, width, T(1),
                    s.output_tile + r * s.value_padded);
      }
    }
  }
}

}  // namespace RKA_ISA
}  // namespace rka
