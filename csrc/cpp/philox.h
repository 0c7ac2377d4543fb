// Rows of noise: the scalar definitions of philox.h, several counters at a time.
#pragma once

#include "../philox.h"
#include "simd.h"

namespace rka {
inline namespace RKA_ISA {

// Counters per step: each 32-bit word sits in a 64-bit lane, where one instruction gives the whole
// 64-bit product.
constexpr int GROUPS = VECTOR_BYTES / 8;

typedef uint64_t WideV __attribute__((vector_size(VECTOR_BYTES)));

inline WideV wide_multiply(WideV x, uint32_t y) {
  const WideV factor = WideV{} + y;
#if defined(RKA_AVX512)
  return (WideV)_mm512_mul_epu32((__m512i)x, (__m512i)factor);
#elif defined(RKA_AVX2)
  return (WideV)_mm256_mul_epu32((__m256i)x, (__m256i)factor);
#else
  return (x & 0xFFFFFFFFu) * factor;
#endif
}

// The four words of GROUPS counters (c0, c1, head, stream), each in the lower half of its lane.
// The upper halves are garbage: products read the lower halves only.
struct WideWords {
  WideV w[4];
};
inline WideWords philox(uint64_t seed, WideV c0, WideV c1, uint32_t head, uint32_t stream) {
  WideV c2 = WideV{} + head, c3 = WideV{} + stream;
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < PHILOX_ROUNDS; ++round) {
    const WideV p0 = wide_multiply(c0, PHILOX_M0), p1 = wide_multiply(c2, PHILOX_M1);
    c0 = (p1 >> 32) ^ c1 ^ (WideV{} + k0);
    c2 = (p0 >> 32) ^ c3 ^ (WideV{} + k1);
    c1 = p1;
    c3 = p0;
    k0 += PHILOX_W0;
    k1 += PHILOX_W1;
  }
  return {{c0, c1, c2, c3}};
}

// Words of columns [0, 4 * GROUPS) of one row, counters from group `first`.
inline void philox_groups(uint64_t seed, uint32_t first, uint32_t row, uint32_t head,
                          uint32_t stream, uint32_t* out) {
  WideV group = {};
  for (int g = 0; g < GROUPS; ++g) group[g] = first + g;
  const WideWords words = philox(seed, group, WideV{} + row, head, stream);
  for (int c = 0; c < 4 * GROUPS; ++c) out[c] = uint32_t(words.w[c & 3][c >> 2]);
}

// Box-Muller for LANES pairs; the float32 version is what fills the time.
inline void normal_pairs(IntV x, IntV y, FloatV& first, FloatV& second) {
  const FloatV u1 = __builtin_convertvector(x ^ (x >> 31), FloatV) * UNIFORM_SCALE;
  const FloatV u2 = __builtin_convertvector(y ^ (y >> 31), FloatV) * UNIFORM_SCALE;
  const FloatV clamped = select(u1 > SMALLEST_UNIFORM, u1, constant<FloatV>(SMALLEST_UNIFORM));
  const FloatV radius = sqrt_(-2.0f * log_(clamped));
  FloatV sine, cosine;
  sincos_(6.283185307179586f * u2, sine, cosine);
  first = radius * cosine;
  second = radius * sine;
}

// Normals of GROUPS counters, four after four.
inline void normal_groups(uint64_t seed, WideV group, WideV row, uint32_t head, uint32_t stream,
                          float* out) {
  constexpr int W = LANES<float>;
  const WideWords words = philox(seed, group, row, head, stream);
  // Words 0 and 2 of a group side by side, and 1 and 3: the results of lane l are columns 2 l and
  // 2 l + 1.
  const WideV low = WideV{} + 0xFFFFFFFFu;
  FloatV a, b;
  normal_pairs((IntV)((words.w[0] & low) | (words.w[2] << 32)),
               (IntV)((words.w[1] & low) | (words.w[3] << 32)), a, b);
#if defined(__GNUC__) && !defined(__clang__)
  for (int half = 0; half < 2; ++half) {
    IntV from = {};
    for (int l = 0; l < W; ++l) from[l] = (l & 1) * W + (half * W + l) / 2;
    store(out + half * W, (FloatV)__builtin_shuffle(a, b, from));
  }
#else
  for (int l = 0; l < W; ++l) out[2 * l] = a[l], out[2 * l + 1] = b[l];
#endif
}

// E for rows [row, row + rows) and columns [0, columns(r)) of each, counters from `group`. Whole
// groups of four are written. Groups are chained over the rows, so that few lanes idle.
template <class Columns>
inline void normal_tile(uint64_t seed, uint32_t group, uint32_t row, uint32_t head, int rows,
                        const Columns& columns, float* out, int64_t ld) {
  constexpr int CHUNK = 8 * GROUPS;  // collected well before they are read as vectors
  alignas(64) uint64_t groups[CHUNK], rows_of[CHUNK];
  float* to[CHUNK];
  int filled = 0;
  const auto draw = [&] {
    for (int i = 0; i < filled; i += GROUPS) {
      alignas(64) float normals[4 * GROUPS];
      WideV c0, c1;
      std::memcpy(&c0, groups + i, sizeof c0);
      std::memcpy(&c1, rows_of + i, sizeof c1);
      normal_groups(seed, c0, c1, head, NOISE, normals);
      for (int g = 0; g < GROUPS && i + g < filled; ++g)
        std::memcpy(to[i + g], normals + 4 * g, 4 * sizeof(float));
    }
    filled = 0;
  };
  std::memset(groups, 0, sizeof groups);
  std::memset(rows_of, 0, sizeof rows_of);
  for (int r = 0; r < rows; ++r) {
    const int count = columns(r);
    for (int c = 0; c < count; c += 4) {
      groups[filled] = group + uint32_t(c / 4);
      rows_of[filled] = row + uint32_t(r);
      to[filled] = out + r * ld + c;
      if (++filled == CHUNK) draw();
    }
  }
  draw();
}

template <class Columns>
inline void normal_tile(uint64_t seed, uint32_t group, uint32_t row, uint32_t head, int rows,
                        const Columns& columns, double* out, int64_t ld) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns(r); c += 4) {
      const Words words = philox4x32(seed, group + uint32_t(c / 4), row + uint32_t(r), head, NOISE);
      for (int p = 0; p < 4; p += 2)
        normal_pair<double>(uniform(words.w[p]), uniform(words.w[p + 1]), out[r * ld + c + p],
                            out[r * ld + c + p + 1]);
    }
}

// T of rows [row, row + rows).
inline void skew_noise_tile(uint64_t seed, uint32_t row, uint32_t head, int rows, float* out) {
  for (int first = 0; first < rows; first += GROUPS) {
    alignas(64) float normals[4 * GROUPS];
    WideV number = {};
    for (int g = 0; g < GROUPS; ++g) number[g] = row + uint32_t(first + g);
    normal_groups(seed, WideV{}, number, head, SKEW, normals);
    for (int g = 0; g < GROUPS && first + g < rows; ++g) out[first + g] = normals[4 * g];
  }
}
inline void skew_noise_tile(uint64_t seed, uint32_t row, uint32_t head, int rows, double* out) {
  for (int r = 0; r < rows; ++r) out[r] = skew_noise<double>(seed, row + r, head);
}

// 1 / (1 - p) where the weight is kept, 0 where it is dropped.
template <class T>
inline void dropout_row(uint64_t seed, uint32_t group, uint32_t row, uint32_t head, int columns,
                        T probability, T* out) {
  const T kept = T(1) / (T(1) - probability);
  alignas(64) uint32_t words[4 * GROUPS];
  for (int c = 0; c < columns; c += 4 * GROUPS, group += GROUPS) {
    philox_groups(seed, group, row, head, DROPOUT, words);
    for (int l = 0; l < 4 * GROUPS; ++l)
      out[c + l] = T(uniform(words[l])) >= probability ? kept : T(0);
  }
}

}  // namespace RKA_ISA
}  // namespace rka
