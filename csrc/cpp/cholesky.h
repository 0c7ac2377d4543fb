// Upper Cholesky factor K = U'U (U = L') of one sequence in cache, and its reverse.
//
// Rows of U are processed in blocks. Everything runs along rows: products by gemm.h, the
// triangular solves with one vector of columns in registers.
#pragma once

#include "gemm.h"

namespace rka {
inline namespace RKA_ISA {

constexpr int BLOCK = 8;

// Factor of the BLOCK x BLOCK corner at `u`, upper part in place, zeros below. A pivot that is not
// positive becomes `least` and its row ends there, for what follows in it is rounding as well, and
// `ended` says so. False for NaN.
template <class T>
bool factor_corner(int size, T* u, int64_t ld, T least, bool* ended) {
  for (int r = 0; r < size; ++r) {
    T* row = u + r * ld;
    if (row[r] != row[r]) return false;
    ended[r] = row[r] <= T(0);
    if (ended[r]) {
      row[r] = least;
      for (int j = r + 1; j < size; ++j) row[j] = T(0);
    }
    const T pivot = std::sqrt(row[r]), inverse = T(1) / pivot;
    row[r] = pivot;
    for (int j = r + 1; j < size; ++j) row[j] *= inverse;
    for (int i = r + 1; i < size; ++i) {
      T* below = u + i * ld;
      below[r] = T(0);
      for (int j = i; j < size; ++j) below[j] -= row[i] * row[j];
    }
  }
  return true;
}

// Rows of X <- U^-T X (or U^-1 X with BACKWARD) for the corner U, over `columns` columns.
template <class T, bool BACKWARD, int SIZE>
void solve_corner(const T* u, int64_t ldu, int columns, T* x, int64_t ldx) {
  T inverse[SIZE];
  for (int r = 0; r < SIZE; ++r) inverse[r] = T(1) / u[r * ldu + r];
  for (int j = 0; j < columns; j += LANES<T>) {
    Vec<T> v[SIZE];
#pragma GCC unroll 8
    for (int i = 0; i < SIZE; ++i) {
      const int r = BACKWARD ? SIZE - 1 - i : i;
      v[r] = load(x + r * ldx + j);
#pragma GCC unroll 8
      for (int l = 0; l < i; ++l) {
        const int p = BACKWARD ? SIZE - 1 - l : l;
        v[r] -= (BACKWARD ? u[r * ldu + p] : u[p * ldu + r]) * v[p];
      }
      v[r] *= inverse[r];
      store(x + r * ldx + j, v[r]);
    }
  }
}

// U from K, both n rows of `ld`; K symmetric with zeros in the padding of its rows. `jitter` was
// added to K, so that in exact arithmetic no pivot is below `least`. NaN gives NaN everywhere,
// which shows in the loss.
template <class T>
void cholesky(int n, const T* k, T* u, int64_t ld, T jitter) {
  const T least = jitter / (T(1) + jitter);
  bool ended[BLOCK];
  const int padded = (n + LANES<T> - 1) / LANES<T> * LANES<T>;
  bool definite = true;
  for (int r0 = 0; r0 < n && definite; r0 += BLOCK) {
    const int rows = n - r0 < BLOCK ? n - r0 : BLOCK;
    const int rest = r0 + BLOCK < n ? n - r0 - BLOCK : 0;
    T* row = u + r0 * ld;
    // Whole vectors may read and write left of the diagonal: these entries are zeroed here.
    const int start = r0 / LANES<T> * LANES<T>;
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < start; ++j) row[i * ld + j] = T(0);
      for (int j = start; j < padded; j += LANES<T>)
        store(row + i * ld + j, load(k + (r0 + i) * ld + j));
    }
    gemm<T, true, Op::subtract>(rows, padded - start, r0, u + r0, ld, u + start, ld, row + start,
                                ld);
    for (int i = 0; i < rows; ++i)
      for (int j = start; j < r0; ++j) row[i * ld + j] = T(0);
    definite = factor_corner(rows, row + r0, ld, least, ended);
    if (rest > 0 && definite) {
      solve_corner<T, false, BLOCK>(row + r0, ld, rest, row + r0 + BLOCK, ld);
      for (int i = 0; i < BLOCK; ++i)
        for (int j = r0 + BLOCK; j < n && ended[i]; ++j) row[i * ld + j] = T(0);
    }
  }
  if (!definite)
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < padded; ++j) u[i * ld + j] = T(NAN);
}

// Gradient of a corner from that of its factor; upper triangles in place, one entry for each pair.
template <class T>
void factor_corner_backward(int size, const T* u, int64_t ldu, T* g, int64_t ldg) {
  for (int r = size - 1; r >= 0; --r) {
    const T* row = u + r * ldu;
    T* grad = g + r * ldg;
    for (int i = size - 1; i > r; --i)  // below[j] -= row[i] * row[j]
      for (int j = i; j < size; ++j) {
        const T below = g[i * ldg + j];
        grad[i] -= below * row[j];
        grad[j] -= below * row[i];
      }
    const T inverse = T(1) / row[r];
    T diagonal = grad[r];
    for (int j = r + 1; j < size; ++j) {
      diagonal -= grad[j] * row[j] * inverse;
      grad[j] *= inverse;
    }
    grad[r] = T(0.5) * diagonal * inverse;
  }
}

// In place: from dU (upper triangle) to the full symmetric matrix whose entry (i, j), i != j, is
// the gradient of the pair K_ij = K_ji (diagonal: twice the gradient).
//
// Row block r of U enters the later blocks c through S_cj = K_cj - sum_r U_rc' U_rj; summed over
// them its gradient is -U_r,later times the symmetric gradient found so far.
template <class T>
void cholesky_backward(int n, const T* u, T* g, int64_t ld, T* corner) {
  const int blocks = (n + BLOCK - 1) / BLOCK;
  for (int b = blocks - 1; b >= 0; --b) {
    const int r0 = b * BLOCK, rows = n - r0 < BLOCK ? n - r0 : BLOCK, c0 = r0 + BLOCK;
    const int rest = c0 < n ? n - c0 : 0;
    const T* factor = u + r0 * ld;
    T* grad = g + r0 * ld;
    if (rest > 0) {
      gemm<T, false, Op::subtract>(rows, rest, rest, factor + c0, ld, g + c0 * ld + c0, ld,
                                   grad + c0, ld);
      solve_corner<T, true, BLOCK>(factor + r0, ld, rest, grad + c0, ld);
      for (int i = 0; i < BLOCK; ++i)  // mirror
        for (int j = c0; j < n; ++j) g[j * ld + r0 + i] = grad[i * ld + j];
      gemm<T, false, Op::set>(rows, BLOCK, rest, factor + c0, ld, g + c0 * ld + r0, ld, corner,
                              LANES<T> > BLOCK ? LANES<T> : BLOCK);
      for (int i = 0; i < rows; ++i)
        for (int j = i; j < rows; ++j)
          grad[i * ld + r0 + j] -= corner[i * (LANES<T> > BLOCK ? LANES<T> : BLOCK) + j];
    }
    factor_corner_backward(rows, factor + r0, ld, grad + r0, ld);
    for (int i = 0; i < rows; ++i) {
      grad[i * ld + r0 + i] *= T(2);
      for (int j = i + 1; j < rows; ++j) grad[j * ld + r0 + i] = grad[i * ld + r0 + j];
    }
  }
}

}  // namespace RKA_ISA
}  // namespace rka
