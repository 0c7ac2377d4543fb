// softmax(Z) V of one sequence, a tile of rows at a time.
#pragma once

#include <cfloat>

#include "correlation.h"

namespace rka {
inline namespace RKA_ISA {

template <class T>
using Tile = typename Sequence<T>::Tile;

// What is the same for all heads: K, its factor and, unless the mask differs by head, the prior.
template <class T>
void prepare(Sequence<T>& s) {
  if (s.call.time_table) s.find_buckets();
  if (!s.skewed && !s.sampled) return;
  correlation(s);
  if (s.sampled) cholesky(s.m, s.k, s.u, s.ld);
  if (s.prior_from_counts && !s.call.mask_per_head) shape_prior(s, 0);
  // Keys that no row of a tile sees get no noise; what stands there must be finite.
  if (s.sampled) clear(s.noise, int64_t(TILE) * s.ld);
}

template <class T>
void prepare_head(Sequence<T>& s, int64_t head) {
  s.pack_keys(s.location, head);
  s.pack_value(head);
  if (s.call.time_table)
    read_row(s.call.time_table, 0, 0, head, 0, TIME_BUCKETS, T(1), s.time_table);
  if (!s.spread) return;
  s.pack_keys(s.scale, head);
  if (!s.skewed) return;
  s.pack_keys(s.shape, head);
  if (s.prior_from_counts && s.call.mask_per_head) shape_prior(s, head);
}

template <class T>
const T* prior_row(const Sequence<T>& s, const Tile<T>& t, int r) {
  return s.prior_from_counts ? s.prior + int64_t(t.first + r) * s.ld : s.allowed + r * s.ld;
}

// A, P = A K, X = E U and the coefficients of S for the rows of a tile.
template <class T>
void skew_normal_tile(Sequence<T>& s, const Tile<T>& t, int64_t head) {
  typedef Vec<T> V;
  const Call& call = s.call;
  const int ld = s.ld;
  const uint32_t stream_head = uint32_t(s.b * call.heads + head);
  if (s.skewed) {
    s.score_tile(s.shape, t, head);
    for (int r = 0; r < t.rows; ++r) {
      const T* prior = prior_row(s, t, r);
      for (int j = 0; j < t.columns; j += LANES<T>)
        store(s.alpha + r * ld + j,
              activate(call.activation, load(s.shape.tile + r * ld + j)) * load(prior + j));
    }
    gemm<T, false, Op::set>(t.rows, t.columns, t.limit, s.alpha, ld, s.k, ld, s.p, ld);
  }
  if (head == 0) {
    s.fetch_next(call.features, t, 0, call.feature_width);
    s.fetch_next(call.cooccurrence, t, 0, call.keys);
  }
  if (s.sampled) {
    const auto columns = [&](int r) { return s.visible_keys(t, r); };
    normal_tile(call.seed, uint32_t(s.col0 / 4), s.position(t.first), stream_head, t.rows, columns,
                s.noise, ld);
    gemm_upper<T, Op::set>(t.rows, t.columns, t.limit, s.noise, ld, s.u, ld, s.x, ld);
  }
  if (!s.skewed) return;
  T skew_noise[TILE];
  if (s.sampled)
    skew_tile(call.seed, s.position(t.first), stream_head, t.rows, skew_noise);
  for (int r = 0; r < t.rows; ++r) {
    V q = {}, projection = {};
    for (int j = 0; j < t.columns; j += LANES<T>) {
      const V a = load(s.alpha + r * ld + j);
      q += a * load(s.p + r * ld + j);
      if (s.sampled) projection += a * load(s.x + r * ld + j);
    }
    s.skew[r] = s.sampled ? SkewRow<T>::sample(sum<T>(q), sum<T>(projection) + skew_noise[r])
                          : SkewRow<T>::mean(sum<T>(q));
  }
}

// S of LANES keys from j: X - 2 delta min(h, 0), its mean, or X alone.
template <class T>
Vec<T> standard(const Sequence<T>& s, int r, int j) {
  const int at = r * s.ld + j;
  if (!s.skewed) return s.sampled ? load(s.x + at) : Vec<T>{};
  const Vec<T> skewed = s.skew[r].p_weight * load(s.p + at);
  return s.sampled ? load(s.x + at) + skewed : skewed;
}

// Adds a row's entries of the table of relative times (or sets them, without a bias).
template <class T>
void add_time_bias(const Sequence<T>& s, const Tile<T>& t, int r, T* row) {
  const uint8_t* bucket = s.bucket + int64_t(t.first + r) * s.ld;
  for (int j = 0; j < t.columns; ++j)
    row[j] = s.time_table[bucket[j]] + (s.call.bias ? row[j] : T(0));
}

// Z of one row into `z`; returns the maximum over its allowed keys.
template <class T>
T logits_row(Sequence<T>& s, const Tile<T>& t, int r, int64_t head, T scale_bias, T* z) {
  typedef Vec<T> V;
  const Call& call = s.call;
  if (call.bias)
    read_row(call.bias, s.b, head, s.row0 + t.first + r, s.col0, t.limit, T(1), s.row_buffer);
  if (call.time_table) add_time_bias(s, t, r, s.row_buffer);
  // As if masked keys had the lowest finite logit: a row with allowed keys at -inf only is zero.
  const T lowest = sizeof(T) == 4 ? T(-FLT_MAX) : T(-DBL_MAX);
  V most = broadcast(s.allowed_count[r] < T(call.keys) ? lowest : T(-INFINITY));
  for (int j = 0; j < t.columns; j += LANES<T>) {
    const int at = r * s.ld + j;
    V value = activate(call.activation, load(s.location.tile + at));
    if (call.bias || call.time_table) value += load(s.row_buffer + j);
    if (s.spread)
      value += softplus(load(s.scale.tile + at) + scale_bias).value * standard(s, r, j);
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

// Everything up to the softmax weights of a tile (and the dropout factors in s.keep).
template <class T>
void weights_tile(Sequence<T>& s, const Tile<T>& t, int64_t head) {
  const Call& call = s.call;
  const T scale_bias = call.scale_bias ? read<T>(call.scale_bias, 0, 0, 0, head) : T(0);
  s.fetch_next(call.value, t, head, call.value_width);
  s.allow(t, head);
  s.score_tile(s.location, t, head);
  if (s.spread) s.score_tile(s.scale, t, head);
  if (s.skewed || s.sampled) skew_normal_tile(s, t, head);
  for (int r = 0; r < t.rows; ++r) {
    T* z = s.weights + r * s.ld;
    softmax_row(s, t, r, logits_row(s, t, r, head, scale_bias, z), z);
    if (call.dropout > 0)
      dropout_row(call.seed, uint32_t(s.col0 / 4), s.position(t.first + r),
                  uint32_t(s.b * call.heads + head), t.columns, T(call.dropout),
                  s.keep + r * s.ld);
  }
}

// Zeros into rows [from, to) of the last two dimensions.
template <class T>
void write_zeros(Sequence<T>& s, const View& v, int64_t head, int64_t from, int64_t to, int width) {
  if (!v || from >= to) return;
  for (int c = 0; c < width; ++c) s.width_tile[c] = T(0);
  for (int64_t i = from; i < to; ++i) write_row(v, s.b, head, i, 0, width, T(1), s.width_tile);
}

template <class T>
void forward(const Call& call, int64_t b, void* scratch) {
  Sequence<T> s(call, b);
  Arena arena{static_cast<char*>(scratch)};
  s.allocate(arena, false);
  const bool open = s.open();
  const int width = int(call.value_width);
  if (open) prepare(s);
  for (int64_t head = 0; head < call.heads; ++head) {
    write_zeros(s, call.output, head, 0, open ? s.row0 : call.rows, width);
    if (!open) continue;
    prepare_head(s, head);
    for (int first = 0; first < s.n; first += TILE) {
      const Tile<T> t = s.tile(first);
      s.fetch_own(call.output, t, head, width);
      weights_tile(s, t, head);
      if (call.dropout > 0)
        for (int i = 0; i < t.rows * s.ld; ++i) s.weights[i] *= s.keep[i];
      gemm<T, false, Op::set>(t.rows, width, t.limit, s.weights, s.ld, s.value, s.value_padded,
                              s.output_tile, s.value_padded);
      for (int r = 0; r < t.rows; ++r)
        write_row(call.output, b, head, s.row0 + first + r, 0, width, T(1),
                  s.output_tile + r * s.value_padded);
    }
  }
}

}  // namespace RKA_ISA
}  // namespace rka
