// Gradients of one sequence. Nothing is kept from the forward pass: every tile is computed again.
#pragma once

#include "attention.h"

namespace rka {
inline namespace RKA_ISA {

// From d(query key' / sqrt(width)) of a tile to the query's rows, and into the key's sums.
template <class T>
void score_backward(Sequence<T>& s, Score<T>& score, const Tile<T>& t, int64_t head, const T* grad,
                    const Heads& d_query, const Heads& d_key) {
  s.fetch_own(d_key, t, head, score.width);
  if (d_query) {
    s.fetch_own(d_query, t, head, score.width);
    gemm<T, false, Op::set>(t.rows, score.width, t.limit, grad, s.ld, score.rows, score.padded,
                            s.width_tile, score.padded);
    for (int r = 0; r < t.rows; ++r)
      write_row(d_query, s.b, head, s.row0 + t.first + r, 0, score.width, score.factor,
                s.width_tile + r * score.padded);
  }
  if (d_key)
    gemm<T, true, Op::add>(t.limit, score.width, t.rows, grad, s.ld, score.query_tile, score.padded,
                           score.key_grad, score.padded);
}

// dZ of a tile from dO, into s.d_weights; adds to dV.
template <class T>
void softmax_backward(Sequence<T>& s, const Gradients& g, const Tile<T>& t, int64_t head) {
  typedef Vec<T> V;
  const int width = int(s.problem.value_width), vp = s.value_padded, ld = s.ld;
  const bool dropout = s.problem.dropout > 0;
  s.fetch_next(g.output, t, head, width);
  s.fetch_own(g.value, t, head, width);
  pack(g.output, s.b, head, s.row0 + t.first, t.rows, width, t.rows, vp, T(1),
       static_cast<const T*>(nullptr), s.output_tile);
  gemm<T, false, Op::set>(t.rows, t.columns, width, s.output_tile, vp, s.value_transposed, ld,
                          s.d_weights, ld);
  if (g.value) {
    T* dropped = s.weights;
    if (dropout) {
      dropped = s.d_p;  // free until later
      for (int i = 0; i < t.rows * ld; ++i) dropped[i] = s.weights[i] * s.keep[i];
    }
    gemm<T, true, Op::add>(t.limit, width, t.rows, dropped, ld, s.output_tile, vp, s.value_grad,
                           vp);
  }
  for (int r = 0; r < t.rows; ++r) {
    V dot = {};
    for (int j = 0; j < t.columns; j += LANES<T>) {
      const int at = r * ld + j;
      V grad = load(s.d_weights + at);
      if (dropout) {
        grad *= load(s.keep + at);
        store(s.d_weights + at, grad);
      }
      dot += grad * load(s.weights + at);
    }
    const T mean = sum<T>(dot);
    for (int j = 0; j < t.columns; j += LANES<T>) {
      const int at = r * ld + j;
      store(s.d_weights + at, load(s.weights + at) * (load(s.d_weights + at) - mean));
    }
  }
}

// Adds dZ of a tile to the sequence's partial sum of the bias.
template <class T>
void bias_backward(Sequence<T>& s, const Pairs& d_bias, const Tile<T>& t, int64_t head) {
  for (int r = 0; r < t.rows; ++r) {
    const int64_t* stride = d_bias.stride;
    T* out = reinterpret_cast<T*>(d_bias.data) + s.b * stride[0] + head * stride[1] +
             (s.row0 + t.first + r) * stride[2] + s.col0 * stride[3];
    const T* dz = s.d_weights + r * s.ld;
    for (int j = 0; j < t.limit; ++j) out[j * stride[3]] += dz[j];
  }
}

// Adds dZ of a tile to the head's sums over the buckets of the relative times.
template <class T>
void time_table_backward(Sequence<T>& s, const Tile<T>& t) {
  for (int r = 0; r < t.rows; ++r) {
    const uint8_t* bucket = s.bucket + int64_t(t.first + r) * s.ld;
    const T* dz = s.d_weights + r * s.ld;
    for (int j = 0; j < t.limit; ++j) s.time_table_grad[bucket[j]] += dz[j];
  }
}

// From dS of a row (in s.d_x) to dX, dP and the direct part of dA.
template <class T>
void skew_backward_row(Sequence<T>& s, const Tile<T>& t, int r) {
  typedef Vec<T> V;
  V dot = {};
  for (int j = 0; j < t.columns; j += LANES<T>)
    dot += load(s.d_x + r * s.ld + j) * load(s.p + r * s.ld + j);
  const SkewRow<T>& row = s.skew[r];
  const auto c = SkewRowGrad<T>::of(row, sum<T>(dot));
  for (int j = 0; j < t.columns; j += LANES<T>) {
    const int at = r * s.ld + j;
    const V d_deviates = load(s.d_x + at), a = load(s.alpha + at);
    V d_alpha = c.shape_to_p * load(s.p + at);
    if (s.sampled) d_alpha += c.shape_to_x * load(s.x + at);
    store(s.d_alpha + at, d_alpha);
    store(s.d_x + at, d_deviates + c.shape_to_x * a);
    store(s.d_p + at, row.p_weight * d_deviates + c.shape_to_p * a);
  }
}

// From dZ (s.d_weights) to scale and shape scores; adds to dK, dU and the scale bias.
template <class T>
void spread_backward(Sequence<T>& s, const Gradients& g, const Tile<T>& t, int64_t head,
                     T& d_scale_bias) {
  typedef Vec<T> V;
  const Problem& problem = s.problem;
  const int ld = s.ld;
  const T scale_bias = problem.scale_bias ? read<T>(problem.scale_bias, 0, 0, 0, head) : T(0);
  V bias_sum = {};
  for (int r = 0; r < t.rows; ++r) {
    for (int j = 0; j < t.columns; j += LANES<T>) {
      const int at = r * ld + j;
      const V dz = load(s.d_weights + at);
      const auto omega = softplus(load(s.scale.tile + at) + scale_bias);
      // Hidden keys have dZ = 0, but what stands at them need not be finite.
      const V d_scale = select(dz == V{}, V{}, dz * deviates(s, r, j) * omega.slope);
      bias_sum += d_scale;
      store(s.scale.tile + at, d_scale);
      store(s.d_x + at, dz * omega.value);
    }
    if (s.skewed) skew_backward_row(s, t, r);
  }
  d_scale_bias += sum<T>(bias_sum);
  score_backward(s, s.scale, t, head, s.scale.tile, g.scale_query, g.scale_key);
  if (s.sampled && s.du)
    gemm_to_upper(t.limit, t.columns, t.rows, s.noise, ld, s.d_x, ld, s.du, ld);
  if (!s.skewed) return;
  if (head == 0) s.fetch_own(g.features, t, 0, problem.feature_width);
  gemm<T, false, Op::add>(t.rows, t.columns, t.limit, s.d_p, ld, s.k, ld, s.d_alpha, ld);
  gemm<T, true, Op::add>(t.limit, t.columns, t.rows, s.alpha, ld, s.d_p, ld, s.dk, ld);
  for (int r = 0; r < t.rows; ++r) {
    const T* prior = prior_row(s, t, r);
    for (int j = 0; j < t.columns; j += LANES<T>) {
      T* at = s.shape.tile + r * ld + j;
      store(at, load(s.d_alpha + r * ld + j) * load(prior + j) *
                    activation_slope(problem.activation, load(at)));
    }
  }
  score_backward(s, s.shape, t, head, s.shape.tile, g.shape_query, g.shape_key);
}

// The sums over rows of one head, and zeros for what is outside the window.
template <class T>
void write_keys(Sequence<T>& s, const Heads& v, const T* sums, int64_t head, int width,
                int padded) {
  if (!v) return;
  write_zeros(s, v, head, 0, s.col0, width);
  for (int j = 0; j < s.m; ++j)
    write_row(v, s.b, head, s.col0 + j, 0, width, T(1), sums + int64_t(j) * padded);
  write_zeros(s, v, head, s.col0 + s.m, s.problem.keys, width);
}

template <class T>
void head_backward(Sequence<T>& s, const Gradients& g, int64_t head) {
  const Problem& problem = s.problem;
  const int width = int(problem.value_width), rows = s.padded(s.m);
  prepare_head(s, head);
  transpose(s.m, width, s.value, s.value_padded, s.value_transposed, s.ld);
  clear(s.value_grad, int64_t(rows) * s.value_padded);
  clear(s.location.key_grad, int64_t(rows) * s.location.padded);
  clear(s.scale.key_grad, int64_t(rows) * s.scale.padded);
  clear(s.shape.key_grad, int64_t(rows) * s.shape.padded);
  clear(s.time_table_grad, TIME_BUCKETS);
  T d_scale_bias = T(0);
  s.begin_draw(0);
  for (int first = 0; first < s.n; first += TILE) {
    const Tile<T> t = s.tile(first);
    scores_tile(s, t, head);
    weights_tile(s, t, head);
    softmax_backward(s, g, t, head);
    if (g.bias) bias_backward(s, g.bias, t, head);
    if (g.time_table) time_table_backward(s, t);
    if (s.spread) spread_backward(s, g, t, head, d_scale_bias);
    for (int r = 0; r < t.rows; ++r)
      for (int j = 0; j < t.columns; j += LANES<T>) {
        T* at = s.d_weights + r * s.ld + j;
        store(at, load(at) *
                      activation_slope(problem.activation, load(s.location.tile + r * s.ld + j)));
      }
    score_backward(s, s.location, t, head, s.d_weights, g.query, g.key);
  }
  write_keys(s, g.key, s.location.key_grad, head, s.location.width, s.location.padded);
  write_keys(s, g.scale_key, s.scale.key_grad, head, s.scale.width, s.scale.padded);
  write_keys(s, g.shape_key, s.shape.key_grad, head, s.shape.width, s.shape.padded);
  write_keys(s, g.value, s.value_grad, head, width, s.value_padded);
  if (g.scale_bias) write_row(g.scale_bias, s.b, 0, 0, head, 1, T(1), &d_scale_bias);
  if (g.time_table) {
    T* sums = reinterpret_cast<T*>(g.time_table.data) + s.b * g.time_table.stride[0] +
              head * g.time_table.stride[2];
    for (int k = 0; k < TIME_BUCKETS; ++k) sums[k] += s.time_table_grad[k];
  }
}

template <class T>
void backward(const Problem& problem, const Gradients& g, int64_t b, void* scratch) {
  Sequence<T> s(problem, b);
  Arena arena{static_cast<char*>(scratch)};
  s.allocate(arena, true);
  const bool open = s.open();
  if (!open) s.col0 = s.m = 0;
  const int64_t closed_rows = open ? s.row0 : problem.rows;
  const int features = int(problem.feature_width);
  for (int64_t head = 0; head < problem.heads; ++head) {
    write_zeros(s, g.query, head, 0, closed_rows, s.location.width);
    write_zeros(s, g.scale_query, head, 0, closed_rows, s.scale.width);
    write_zeros(s, g.shape_query, head, 0, closed_rows, s.shape.width);
  }
  write_zeros(s, g.features, 0, 0, s.col0, features);
  write_zeros(s, g.features, 0, s.col0 + s.m, problem.keys, features);
  if (!open) {
    for (int64_t head = 0; head < problem.heads; ++head) {
      write_keys(s, g.key, s.value_grad, head, s.location.width, 0);
      write_keys(s, g.scale_key, s.value_grad, head, s.scale.width, 0);
      write_keys(s, g.shape_key, s.value_grad, head, s.shape.width, 0);
      write_keys(s, g.value, s.value_grad, head, int(problem.value_width), 0);
    }
    return;  // gate and partial sums were zero to begin with
  }
  prepare(s);
  const bool covariance =
      (s.skewed || s.sampled) && (g.features || g.gate || g.mixture || g.concentration);
  if (!covariance && !g.factor) s.du = nullptr;
  const int64_t square = int64_t(s.padded(s.m)) * s.ld;
  clear(s.dk, square);
  clear(s.du, square);
  for (int64_t head = 0; head < problem.heads; ++head) head_backward(s, g, head);
  if (problem.correlation) return write_relation_gradients(s, g);
  if (!covariance) return;
  if (s.sampled) cholesky_backward(s.m, s.u, s.du, s.ld, s.d_alpha);
  correlation_backward(s, g);
}

}  // namespace RKA_ISA
}  // namespace rka
