// Small matrix products in cache: C (+-)= op(A) B with everything row-major.
//
// All products of the operator have the form "broadcast an element of A, multiply a vector of B",
// so one register-tiled micro-kernel serves them; A may be read transposed. B and C have rows
// padded to whole vectors. The order of the sum over k is fixed by the shapes alone.
#pragma once

#include "simd.h"

namespace rka {
inline namespace RKA_ISA {

enum class Op { set, add, subtract };

#if defined(RKA_AVX512)
constexpr int TILE_ROWS = 8, TILE_VECTORS = 3;  // 24 of 32 registers accumulate
constexpr bool NARROW = true;                   // half a vector for the last columns costs half
#else
constexpr int TILE_ROWS = 4, TILE_VECTORS = 3;
constexpr bool NARROW = false;
#endif

template <class T>
struct Narrow;
template <>
struct Narrow<float> {
  typedef float V __attribute__((vector_size(VECTOR_BYTES / 2)));
};
template <>
struct Narrow<double> {
  typedef double V __attribute__((vector_size(VECTOR_BYTES / 2)));
};
template <class T>
using NarrowVec = typename Narrow<T>::V;

template <class V, class T>
inline V load_as(const T* p) {
  typedef V Unaligned __attribute__((aligned(alignof(T))));
  return *reinterpret_cast<const Unaligned*>(p);
}
template <class V, class T>
inline void store_as(T* p, V x) {
  typedef V Unaligned __attribute__((aligned(alignof(T))));
  *reinterpret_cast<Unaligned*>(p) = x;
}

template <class T, class V, int ROWS, int VECTORS, bool TRANSPOSED, Op OP>
inline __attribute__((always_inline)) void tile_kernel(int depth, const T* a, int64_t lda,
                                                       const T* b, int64_t ldb, T* c, int64_t ldc) {
  constexpr int W = sizeof(V) / sizeof(T);
  V acc[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) acc[r][v] = V{};
#pragma GCC unroll 1
  for (int k = 0; k < depth; ++k) {
    V row[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) row[v] = load_as<V>(b + v * W);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const V x = (TRANSPOSED ? a[r] : a[r * lda]) - V{};  // x + 0 would have to be computed
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) acc[r][v] += x * row[v];
    }
    a += TRANSPOSED ? lda : 1;
    b += ldb;
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      T* out = c + r * ldc + v * W;
      if (OP == Op::set) store_as<V>(out, acc[r][v]);
      if (OP == Op::add) store_as<V>(out, load_as<V>(out) + acc[r][v]);
      if (OP == Op::subtract) store_as<V>(out, load_as<V>(out) - acc[r][v]);
    }
}

// Columns [0, VECTORS vectors) or, with VECTORS = 0, half a vector.
template <class T, int ROWS, int VECTORS, bool TRANSPOSED, Op OP>
inline __attribute__((always_inline)) void micro_kernel(int depth, const T* a, int64_t lda,
                                                        const T* b, int64_t ldb, T* c,
                                                        int64_t ldc) {
  if constexpr (VECTORS == 0)
    tile_kernel<T, NarrowVec<T>, ROWS, 1, TRANSPOSED, OP>(depth, a, lda, b, ldb, c, ldc);
  else
    tile_kernel<T, Vec<T>, ROWS, VECTORS, TRANSPOSED, OP>(depth, a, lda, b, ldb, c, ldc);
}

template <class T, int VECTORS, bool TRANSPOSED, Op OP>
void gemm_panel(int rows, int depth, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
                int64_t ldc) {
  const int64_t step = TRANSPOSED ? 1 : lda;
  int r = 0;
  for (; r + TILE_ROWS <= rows; r += TILE_ROWS)
    micro_kernel<T, TILE_ROWS, VECTORS, TRANSPOSED, OP>(depth, a + r * step, lda, b, ldb,
                                                        c + r * ldc, ldc);
  if (TILE_ROWS > 4 && r + 4 <= rows) {
    micro_kernel<T, 4, VECTORS, TRANSPOSED, OP>(depth, a + r * step, lda, b, ldb, c + r * ldc, ldc);
    r += 4;
  }
  if (r + 2 <= rows) {
    micro_kernel<T, 2, VECTORS, TRANSPOSED, OP>(depth, a + r * step, lda, b, ldb, c + r * ldc, ldc);
    r += 2;
  }
  if (r < rows)
    micro_kernel<T, 1, VECTORS, TRANSPOSED, OP>(depth, a + r * step, lda, b, ldb, c + r * ldc, ldc);
}

// C[rows x columns] op= A[rows x depth] B[depth x columns]; with TRANSPOSED, A is stored as
// [depth x rows]. Columns are rounded up to half vectors: what lies beyond is left alone.
template <class T, bool TRANSPOSED, Op OP>
void gemm(int rows, int columns, int depth, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
          int64_t ldc) {
  constexpr int W = LANES<T>;
  const int rest = columns % W;
  const bool half = NARROW && rest > 0 && rest <= W / 2;
  int left = columns / W + (rest > 0 && !half);
  while (left > 0) {
    // Of 4 vectors with tiles of 3, 2 + 2 keeps the units busier than 3 + 1.
    const int take = left >= TILE_VECTORS && left != TILE_VECTORS + 1 ? TILE_VECTORS
                     : left > 1                                       ? 2
                                                                      : 1;
    if (take == 3)
      gemm_panel<T, 3, TRANSPOSED, OP>(rows, depth, a, lda, b, ldb, c, ldc);
    else if (take == 2)
      gemm_panel<T, 2, TRANSPOSED, OP>(rows, depth, a, lda, b, ldb, c, ldc);
    else
      gemm_panel<T, 1, TRANSPOSED, OP>(rows, depth, a, lda, b, ldb, c, ldc);
    b += take * W;
    c += take * W;
    left -= take;
  }
  if (half) gemm_panel<T, 0, TRANSPOSED, OP>(rows, depth, a, lda, b, ldb, c, ldc);
}

// C op= A B where B is upper triangular: column block j needs only rows k <= its last column.
template <class T, Op OP>
void gemm_upper(int rows, int columns, int depth, const T* a, int64_t lda, const T* b, int64_t ldb,
                T* c, int64_t ldc) {
  constexpr int BLOCK = TILE_VECTORS * LANES<T>;
  for (int j = 0; j < columns; j += BLOCK) {
    const int width = columns - j < BLOCK ? columns - j : BLOCK;
    const int limit = j + width < depth ? j + width : depth;
    gemm<T, false, OP>(rows, width, limit, a, lda, b + j, ldb, c + j, ldc);
  }
}

// The upper triangle of C += A' B (with what a block of it needs below); A and B [depth x ...].
template <class T>
void gemm_to_upper(int rows, int columns, int depth, const T* a, int64_t lda, const T* b,
                   int64_t ldb, T* c, int64_t ldc) {
  constexpr int BLOCK = 16;
  constexpr int W = LANES<T>;
  for (int i = 0; i < rows; i += BLOCK) {
    const int height = rows - i < BLOCK ? rows - i : BLOCK;
    const int j = i / W * W;
    gemm<T, true, Op::add>(height, columns - j, depth, a + i, lda, b + j, ldb, c + i * ldc + j,
                           ldc);
  }
}

// One exchange of the transpose below: [a0 b0 a2 b2 ..] and [a1 b1 a3 b3 ..] for STEP = 1, pairs
// for STEP = 2, ...
template <int W, int STEP>
struct Even {
  static constexpr int of(int lane) { return lane & STEP ? W + lane - STEP : lane; }
};
template <int W, int STEP>
struct Odd {
  static constexpr int of(int lane) { return lane & STEP ? W + lane : lane + STEP; }
};
template <class T, int STEP>
inline __attribute__((always_inline)) void exchange(Vec<T>* x) {
  constexpr int W = LANES<T>;
  if constexpr (STEP < W) {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i)
      if (!(i & STEP)) {
        const Vec<T> a = x[i], b = x[i + STEP];
        x[i] = shuffle<Even<W, STEP>, T>(a, b);
        x[i + STEP] = shuffle<Odd<W, STEP>, T>(a, b);
      }
    exchange<T, 2 * STEP>(x);
  }
}

// Transpose of one LANES x LANES block by a butterfly of log2(LANES) exchanges.
template <class T>
inline void transpose_block(const T* in, int64_t ldi, T* out, int64_t ldo) {
  constexpr int W = LANES<T>;
  Vec<T> x[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) x[i] = load(in + i * ldi);
  exchange<T, 1>(x);
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) store(out + i * ldo, x[i]);
}

// out [columns x rows] = in [rows x columns]'; both dimensions are rounded up to whole vectors.
template <class T>
void transpose(int rows, int columns, const T* in, int64_t ldi, T* out, int64_t ldo) {
  for (int i = 0; i < rows; i += LANES<T>)
    for (int j = 0; j < columns; j += LANES<T>)
      transpose_block(in + i * ldi + j, ldi, out + j * ldo + i, ldo);
}

}  // namespace RKA_ISA
}  // namespace rka
