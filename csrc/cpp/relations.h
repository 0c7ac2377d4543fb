// Ready-made K, L and prior: made for many calls, read by a call, and their gradients.
//
// K and L are the identity, and the prior is zero, outside the window of what exists.
#pragma once

#include "covariance.h"

namespace rka {
inline namespace RKA_ISA {

// Rows of the lower triangle of a (B, m, m) view, transposed: U = L', zeros elsewhere.
template <class T>
void read_lower(Sequence<T>& s, const View& v, T* buffer, T* out) {
  clear(buffer, int64_t(s.padded(s.m)) * s.ld);
  for (int i = 0; i < s.m; ++i)
    read_row(v, s.b, 0, s.col0 + i, s.col0, i + 1, T(1), buffer + int64_t(i) * s.ld);
  clear(out, int64_t(s.padded(s.m)) * s.ld);
  transpose(s.m, s.m, buffer, s.ld, out, s.ld);
}
// And back; the rest of the view stays as it is.
template <class T>
void write_lower(Sequence<T>& s, const View& v, const T* upper, T* buffer) {
  transpose(s.m, s.m, upper, s.ld, buffer, s.ld);
  for (int i = 0; i < s.m; ++i)
    write_row(v, s.b, 0, s.col0 + i, s.col0, i + 1, T(1), buffer + int64_t(i) * s.ld);
}

template <class T>
void read_square(Sequence<T>& s, const View& v, T* out) {
  clear(out, int64_t(s.padded(s.m)) * s.ld);
  for (int i = 0; i < s.m; ++i)
    read_row(v, s.b, 0, s.col0 + i, s.col0, s.m, T(1), out + int64_t(i) * s.ld);
}
template <class T>
void write_square(Sequence<T>& s, const View& v, const T* in) {
  for (int i = 0; i < s.m; ++i)
    write_row(v, s.b, 0, s.col0 + i, s.col0, s.m, T(1), in + int64_t(i) * s.ld);
}

// K and, where there is a draw, U of a call that brings them.
template <class T>
void read_relations(Sequence<T>& s) {
  if (s.sampled) read_lower(s, s.problem.factor, s.k, s.u);
  read_square(s, s.problem.correlation, s.k);
}

// A tile's rows of a prior that the call brings; zero where nothing may be seen.
template <class T>
void read_prior(Sequence<T>& s, const typename Sequence<T>::Tile& t, int64_t head) {
  for (int r = 0; r < t.rows; ++r) {
    T* row = s.prior + int64_t(t.first + r) * s.ld;
    read_row(s.problem.prior, s.b, head, s.row0 + t.first + r, s.col0, t.limit, T(1), row);
    for (int j = 0; j < t.columns; j += LANES<T>) {
      const auto visible = load(s.allowed + r * s.ld + j) != Vec<T>{};
      store(row + j, select(visible, load(row + j), Vec<T>{}));
    }
  }
}

// s.dk and s.du into the gradients of a call's K and L.
template <class T>
void write_relation_gradients(Sequence<T>& s, const Gradients& g) {
  if (g.correlation) write_square(s, g.correlation, s.dk);
  if (g.factor) write_lower(s, g.factor, s.du, s.k);  // K is done with
}

// K, L and the prior of one sequence.
template <class T>
void relations(const Problem& problem, const Relations& out, int64_t b, void* scratch) {
  Sequence<T> s(problem, b);
  Arena arena{static_cast<char*>(scratch)};
  s.allocate(arena, false);
  const bool open = s.open();
  const T one = T(1);
  for (int j = 0; j < int(problem.keys); ++j) {
    if (open && j >= s.col0 && j < s.col0 + s.m) continue;
    write_row(out.correlation, b, 0, j, j, 1, one, &one);
    write_row(out.factor, b, 0, j, j, 1, one, &one);
  }
  if (!open) return;
  correlation(s);
  cholesky(s.m, s.k, s.u, s.ld, T(problem.jitter));
  write_square(s, out.correlation, s.k);
  write_lower(s, out.factor, s.u, s.k);
  for (int64_t head = 0; out.prior && head < problem.heads; ++head) {
    shape_prior(s, head);
    for (int first = 0; first < s.n; first += TILE) {
      const auto t = s.tile(first);
      for (int r = first; r < first + t.rows; ++r)
        write_row(out.prior, b, head, s.row0 + r, s.col0, t.limit, one,
                  s.prior + int64_t(r) * s.ld);
    }
  }
}

// Gradients of what K depends on, from those of K and L.
template <class T>
void relations_backward(const Problem& problem, const Relations& grad, const Gradients& g,
                        int64_t b, void* scratch) {
  Sequence<T> s(problem, b);
  Arena arena{static_cast<char*>(scratch)};
  s.allocate(arena, true);
  const bool open = s.open();
  if (!open) s.col0 = s.m = 0;
  const int width = int(problem.feature_width);
  write_zeros(s, g.features, 0, 0, s.col0, width);
  write_zeros(s, g.features, 0, s.col0 + s.m, problem.keys, width);
  if (!open) return;  // the others were zero to begin with
  correlation(s);
  s.sampled = bool(grad.factor);
  if (grad.factor) {
    cholesky(s.m, s.k, s.u, s.ld, T(problem.jitter));
    read_lower(s, grad.factor, s.k, s.du);
    cholesky_backward(s.m, s.u, s.du, s.ld, s.d_alpha);
  }
  if (grad.correlation)
    read_square(s, grad.correlation, s.dk);
  else
    clear(s.dk, int64_t(s.padded(s.m)) * s.ld);
  correlation_backward(s, g);
}

}  // namespace RKA_ISA
}  // namespace rka
