// K of one sequence, the prior of its shapes, and the gradients from dK to the features.
#pragma once

#include "sequence.h"
// After the vector functions that it is to find.
#include "../covariance.h"

namespace rka {
inline namespace RKA_ISA {

// Lower triangle of whole blocks to the upper one.
template <class T>
void mirror(int n, T* a, int64_t ld) {
  constexpr int W = LANES<T>;
  for (int i = 0; i < n; i += W)
    for (int j = 0; j < i; j += W) transpose_block(a + i * ld + j, ld, a + j * ld + i, ld);
}

// x x' from x' (width, ld), whole blocks of the lower triangle, and 1 / norms from its diagonal.
template <class T>
void gram(int m, int width, const T* transposed, int ld, T* out, T* inverse) {
  for (int i = 0; i < m; i += TILE) {
    const int rows = minimum(TILE, m - i);
    gemm<T, true, Op::set>(rows, Sequence<T>::padded(i + rows), width, transposed + i, ld,
                           transposed, ld, out + i * ld, ld);
  }
  for (int j = 0; j < ld; ++j) inverse[j] = j < m ? inverse_norm(out[j * ld + j]) : T(0);
}

// Counts of the window without their diagonal, and 1 / sqrt(support).
template <class T>
void read_counts(Sequence<T>& s) {
  const View& c = s.problem.cooccurrence;
  const int rows = s.has_prior && s.n + s.shift > s.m ? s.n + s.shift : s.m;
  for (int i = 0; i < rows; ++i) {
    T* row = s.counts + i * s.ld;
    read_row(c, s.b, 0, s.col0 + i, s.col0, s.m, T(1), row);
    if (i < s.m) {
      s.inverse_count[i] = inverse_norm(row[i]);
      row[i] = T(0);
    }
  }
  for (int j = s.m; j < s.ld; ++j) s.inverse_count[j] = T(0);
}

// K, symmetric with unit diagonal. Padding is independent of everything.
template <class T>
void correlation(Sequence<T>& s) {
  const Problem& problem = s.problem;
  const int m = s.m, ld = s.ld, width = int(problem.feature_width);
  for (int i = 0; i < 3; ++i) s.weight[i] = read<T>(problem.mixture, s.b, 0, 0, i);
  for (int i = 0; i < 2; ++i) s.twice_gamma[i] = T(2) * read<T>(problem.concentration, 0, 0, 0, i);

  pack(problem.features, s.b, 0, s.col0, m, width, s.padded(m), s.feature_padded, T(1), s.valid,
       s.features);
  transpose(m, width, s.features, s.feature_padded, s.features_transposed, ld);
  gram(m, width, s.features_transposed, ld, s.cosine_item, s.inverse_item);
  if (problem.gate) {
    for (int c = 0; c < width; ++c) {
      const T g = read<T>(problem.gate, s.b, 0, 0, c);
      for (int j = 0; j < m; j += LANES<T>)
        store(s.gated_transposed + c * ld + j, g * load(s.features_transposed + c * ld + j));
    }
    gram(m, width, s.gated_transposed, ld, s.cosine_user, s.inverse_user);
  }
  if (problem.cooccurrence) read_counts(s);

  typedef Vec<T> V;
  const T shrink = T(1) / (T(1) + T(problem.jitter));
  const T r0 = s.weight[0] * shrink, r1 = s.weight[1] * shrink, r2 = s.weight[2] * shrink;
  for (int i = 0; i < m; ++i) {
    const int64_t at = int64_t(i) * ld;
    for (int j = 0; j <= i; j += LANES<T>) {
      // One norm after the other: the product of two large inverses may not be finite.
      const V ci = load(s.cosine_item + at + j) * s.inverse_item[i] * load(s.inverse_item + j);
      V entry = r1 * cosine_kernel(ci, broadcast(s.twice_gamma[0]));
      if (problem.gate) {
        const V cu = load(s.cosine_user + at + j) * s.inverse_user[i] * load(s.inverse_user + j);
        entry += r2 * cosine_kernel(cu, broadcast(s.twice_gamma[1]));
        store(s.cosine_user + at + j, cu);
      }
      if (problem.cooccurrence)
        entry += r0 * load(s.counts + at + j) * (s.inverse_count[i] * load(s.inverse_count + j));
      store(s.cosine_item + at + j, ci);
      store(s.k + at + j, entry * (s.valid[i] * load(s.valid + j)));
    }
    s.k[at + i] = T(1);
  }
  for (int i = m; i < s.padded(m); ++i)
    for (int j = 0; j < ld; ++j) s.k[int64_t(i) * ld + j] = T(0);
  mirror(m, s.k, ld);
  for (int i = 0; i < m; ++i)
    for (int j = s.padded(m); j < ld; ++j) s.k[int64_t(i) * ld + j] = T(0);
}

// Adds row i of the counts, unless it is padding.
template <class T>
void add_valid_row(const Sequence<T>& s, int i, T* sums) {
  if (s.valid[i] == T(0)) return;
  for (int j = 0; j < s.m; j += LANES<T>)
    store(sums + j, load(sums + j) + load(s.counts + i * s.ld + j));
}

// alpha-hat / max alpha-hat of every row, for the mask of one head.
template <class T>
void shape_prior(Sequence<T>& s, int64_t head) {
  typedef Vec<T> V;
  const int ld = s.ld;
  T* masked = s.p;      // M o C
  T* product = s.x;     // (M o C) C
  T* column = s.noise;  // M C: of the tile with a user's mask, else one row of running sums
  const bool masks = bool(s.problem.mask);
  if (!masks) {
    for (int j = 0; j < ld; ++j) column[j] = T(0);
    for (int i = 0; i < (s.problem.causal ? minimum(s.shift, s.m) : s.m); ++i)
      add_valid_row(s, i, column);
  }
  for (int first = 0; first < s.n; first += TILE) {
    const auto t = s.tile(first);
    s.allow(t, head);
    for (int r = 0; r < t.rows; ++r)
      for (int j = 0; j < t.columns; j += LANES<T>)
        store(masked + r * ld + j,
              load(s.allowed + r * ld + j) * load(s.counts + (first + r + s.shift) * ld + j));
    gemm<T, false, Op::set>(t.rows, t.columns, t.limit, masked, ld, s.counts, ld, product, ld);
    if (masks)
      gemm<T, false, Op::set>(t.rows, t.columns, t.limit, s.allowed, ld, s.counts, ld, column, ld);
    for (int r = 0; r < t.rows; ++r) {
      const int row = first + r + s.shift;  // the key that the row is
      T* sums = masks ? column + r * ld : column;
      if (!masks && s.problem.causal && row < s.m) add_valid_row(s, row, sums);
      const T others = s.allowed_count[r] - T(1);
      const T inverse = T(1) / (others > T(1) ? others : T(1));
      const bool sees_itself = row < t.limit && s.allowed[r * ld + row] != T(0);
      const T own = sees_itself ? sums[row] * inverse : T(0);
      if (sees_itself) product[r * ld + row] += own * own;
      V largest = {};
      T* out = s.prior + (first + r) * ld;
      for (int j = 0; j < t.columns; j += LANES<T>) {
        const V mean = load(sums + j) * inverse;
        const V entry = load(s.allowed + r * ld + j) * prior_entry(load(product + r * ld + j),
                                                                   load(s.counts + row * ld + j),
                                                                   mean, broadcast(own));
        largest = select(entry > largest, entry, largest);
        store(out + j, entry);
      }
      const T most = maximum<T>(largest);
      const T scale = most > T(0) ? T(1) / most : T(1);
      for (int j = 0; j < t.columns; j += LANES<T>) store(out + j, load(out + j) * scale);
    }
  }
}

// sum(dK . k) and sum(dK . dk/d gamma) over the pairs of one cosine kernel; the gradient of its
// Gram matrix replaces the cosines.
template <class T>
struct CosineGrad {
  double weight = 0, twice_gamma = 0;
  Vec<T> row_weight, row_twice_gamma;  // of the row so far: long sums in float would drift
  T *cosine, *inverse, *diagonal;
  T r, gamma2;

  CosineGrad(T* cosine, T* inverse, T* diagonal, T r, T gamma2, int ld)
      : cosine(cosine), inverse(inverse), diagonal(diagonal), r(r), gamma2(gamma2) {
    for (int j = 0; j < ld; ++j) diagonal[j] = T(0);
  }
  void begin_row() { row_weight = row_twice_gamma = Vec<T>{}; }
  void end_row(int i, Vec<T> pull) {
    diagonal[i] += sum<T>(pull);
    weight += double(sum<T>(row_weight));
    twice_gamma += double(sum<T>(row_twice_gamma));
  }
  // Entries (i, j ..) of the lower triangle, `grad` their dK; returns what row i's norm collects.
  Vec<T> entries(int i, int j, int ld, Vec<T> grad) {
    T* at = cosine + int64_t(i) * ld + j;
    const Vec<T> c = load(at);
    const Vec<T> weighted = grad * cosine_kernel(c, broadcast(gamma2));
    row_weight += weighted;
    row_twice_gamma += weighted * r * (c - T(1));
    const Vec<T> d_cosine = weighted * (r * gamma2);
    const Vec<T> pull = d_cosine * c;  // cos_ij = G_ij / sqrt(G_ii G_jj)
    store(diagonal + j, load(diagonal + j) + pull);
    store(at, d_cosine * inverse[i] * load(inverse + j));
    return pull;
  }
};

// The whole symmetric gradient of a Gram matrix from its lower triangle and what the norms pull.
template <class T>
void close_gram(int m, int ld, const T* diagonal, const T* inverse, T* gram) {
  for (int i = 0; i < m; ++i) gram[int64_t(i) * ld + i] = -diagonal[i] * inverse[i] * inverse[i];
  mirror(m, gram, ld);
  for (int i = 0; i < m; ++i)
    for (int j = i / LANES<T> * LANES<T>; j < i; ++j)
      gram[int64_t(j) * ld + i] = gram[int64_t(i) * ld + j];
}

// From s.dk (entries of K, not yet symmetric) and, where there was a draw, s.du (symmetric) to the
// Gram matrices, the mixture and the concentrations.
template <class T>
void grams_backward(Sequence<T>& s, const Gradients& g) {
  typedef Vec<T> V;
  const int m = s.m, ld = s.ld;
  T* flipped = s.k;  // K itself is done with
  transpose(m, m, s.dk, ld, flipped, ld);
  const V lane = lane_numbers<T>();
  const T shrink = T(1) / (T(1) + T(s.problem.jitter));
  const bool gate = bool(s.problem.gate), counts = bool(s.problem.cooccurrence);
  CosineGrad<T> item(s.cosine_item, s.inverse_item, s.diagonal_item, s.weight[1], s.twice_gamma[0],
                     ld);
  CosineGrad<T> user(s.cosine_user, s.inverse_user, s.diagonal_user, s.weight[2], s.twice_gamma[1],
                     ld);
  double counting = 0;
  for (int i = 0; i < m; ++i) {
    V item_pull = {}, user_pull = {}, counted = {};
    item.begin_row();
    user.begin_row();
    for (int j = 0; j <= i; j += LANES<T>) {
      const int64_t at = int64_t(i) * ld + j;
      V grad = load(s.dk + at) + load(flipped + at);
      if (s.sampled) grad += load(s.du + at);
      grad = select(lane + T(j) < broadcast(T(i)), grad, V{});  // each pair once
      grad *= (shrink * s.valid[i]) * load(s.valid + j);
      item_pull += item.entries(i, j, ld, grad);
      if (gate) user_pull += user.entries(i, j, ld, grad);
      if (counts) counted += grad * load(s.counts + at) * load(s.inverse_count + j);
    }
    item.end_row(i, item_pull);
    if (gate) user.end_row(i, user_pull);
    if (counts) counting += double(sum<T>(counted)) * double(s.inverse_count[i]);
  }
  close_gram(m, ld, s.diagonal_item, s.inverse_item, s.cosine_item);
  if (gate) close_gram(m, ld, s.diagonal_user, s.inverse_user, s.cosine_user);
  const T mixture[3] = {T(counting), T(item.weight), T(user.weight)};
  const T concentration[2] = {T(2 * item.twice_gamma), T(2 * user.twice_gamma)};
  if (g.mixture) write_row(g.mixture, s.b, 0, 0, 0, 3, T(1), mixture);
  if (g.concentration) write_row(g.concentration, s.b, 0, 0, 0, 2, T(1), concentration);
}

// Gradients of everything that K depends on.
template <class T>
void correlation_backward(Sequence<T>& s, const Gradients& g) {
  grams_backward(s, g);
  if (!g.features && !g.gate) return;
  const Problem& problem = s.problem;
  const int m = s.m, ld = s.ld, width = int(problem.feature_width), fp = s.feature_padded;
  T* d_features = s.features_transposed;
  gemm<T, false, Op::set>(m, width, m, s.cosine_item, ld, s.features, fp, d_features, fp);
  if (problem.gate) {
    T *gate = s.gate, *d_gate = s.gate_grad, *gated = s.gated_transposed, *d_gated = s.gated_grad;
    clear(d_gate, fp);
    read_row(problem.gate, s.b, 0, 0, 0, width, T(1), gate);
    for (int i = 0; i < m; ++i)
      for (int c = 0; c < fp; c += LANES<T>)
        store(gated + i * fp + c, load(gate + c) * load(s.features + i * fp + c));
    gemm<T, false, Op::set>(m, width, m, s.cosine_user, ld, gated, fp, d_gated, fp);
    for (int i = 0; i < m; ++i)
      for (int c = 0; c < fp; c += LANES<T>) {
        const Vec<T> d = load(d_gated + i * fp + c);
        store(d_features + i * fp + c, load(d_features + i * fp + c) + load(gate + c) * d);
        store(d_gate + c, load(d_gate + c) + load(s.features + i * fp + c) * d);
      }
    if (g.gate) write_row(g.gate, s.b, 0, 0, 0, width, T(1), d_gate);
  }
  if (!g.features) return;
  for (int i = 0; i < m; ++i)
    write_row(g.features, s.b, 0, s.col0 + i, 0, width, T(1), d_features + i * fp);
}

}  // namespace RKA_ISA
}  // namespace rka
