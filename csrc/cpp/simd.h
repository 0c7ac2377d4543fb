// SIMD vectors by the compilers' vector extension: one source for every instruction set.
//
// A kernel source file chooses the set by a target pragma and RKA_AVX512 or RKA_AVX2 (the
// compiler's own macros do not follow the pragma in time) before it includes this header. Error
// bounds below are measured against libm in double precision by csrc/tests.
#pragma once

#if defined(RKA_AVX512) || defined(RKA_AVX2)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "../common.h"

namespace rka {
inline namespace RKA_ISA {

#if defined(RKA_AVX512)
constexpr int VECTOR_BYTES = 64;
#elif defined(RKA_AVX2)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

typedef float FloatV __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t IntV __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t WordV __attribute__((vector_size(VECTOR_BYTES)));
typedef double DoubleV __attribute__((vector_size(VECTOR_BYTES)));
typedef int64_t LongV __attribute__((vector_size(VECTOR_BYTES)));

template <class T>
struct Simd;
template <>
struct Simd<float> {
  typedef FloatV V;
  typedef FloatV Unaligned __attribute__((aligned(4)));
};
template <>
struct Simd<double> {
  typedef DoubleV V;
  typedef DoubleV Unaligned __attribute__((aligned(8)));
};
template <class T>
using Vec = typename Simd<T>::V;
template <class T>
constexpr int LANES = VECTOR_BYTES / sizeof(T);

template <class T>
inline Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::Unaligned*>(p);
}
template <class T>
inline void store(T* p, Vec<T> x) {
  *reinterpret_cast<typename Simd<T>::Unaligned*>(p) = x;
}

// The first `count` < LANES elements, zeros after them.
template <class T>
inline Vec<T> load_first(const T* p, int count) {
  Vec<T> x = {};
  for (int i = 0; i < count; ++i) x[i] = p[i];
  return x;
}
#if defined(RKA_AVX512)
template <>
inline FloatV load_first<float>(const float* p, int count) {
  return (FloatV)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
}
#elif defined(RKA_AVX2)
inline __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
template <>
inline FloatV load_first<float>(const float* p, int count) {
  return (FloatV)_mm256_maskload_ps(p, first_lanes(count));
}
#endif

// Lanes Pattern::of(0), Pattern::of(1), ... of a and b side by side. A pattern is a type, for only
// of constants do compilers make single instructions.
template <class Pattern, class V, int... LANE>
inline V shuffle(V a, V b, std::integer_sequence<int, LANE...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, Pattern::of(LANE)...);
#else
  typedef decltype(a < b) Index;
  return __builtin_shuffle(a, b, Index{Pattern::of(LANE)...});
#endif
}
template <class Pattern, class T>
inline Vec<T> shuffle(Vec<T> a, Vec<T> b) {
  return shuffle<Pattern>(a, b, std::make_integer_sequence<int, LANES<T>>{});
}

// 0, 1, 2, ...
template <class T>
inline Vec<T> lane_numbers() {
  Vec<T> x;
  for (int i = 0; i < LANES<T>; ++i) x[i] = T(i);
  return x;
}

template <>
inline FloatV constant<FloatV>(double c) {
  return float(c) - FloatV{};
}
template <>
inline DoubleV constant<DoubleV>(double c) {
  return c - DoubleV{};
}
// x - 0 is x, which compilers know; x + 0 they would compute: it turns -0 to 0.
inline FloatV broadcast(float x) { return x - FloatV{}; }
inline DoubleV broadcast(double x) { return x - DoubleV{}; }

inline FloatV select(IntV mask, FloatV yes, FloatV no) { return mask ? yes : no; }
inline DoubleV select(LongV mask, DoubleV yes, DoubleV no) { return mask ? yes : no; }

// Sum and maximum over lanes; a NaN survives the sum, not always the maximum.
template <class T>
inline T sum(Vec<T> x) {
  T total = x[0];
  for (int i = 1; i < LANES<T>; ++i) total += x[i];
  return total;
}
template <class T>
inline T maximum(Vec<T> x) {
  T most = x[0];
  for (int i = 1; i < LANES<T>; ++i) most = x[i] > most ? x[i] : most;
  return most;
}
#if defined(RKA_AVX512)
template <>
inline float sum<float>(FloatV x) {
  return _mm512_reduce_add_ps((__m512)x);
}
template <>
inline float maximum<float>(FloatV x) {
  return _mm512_reduce_max_ps((__m512)x);
}
#elif defined(RKA_AVX2)
template <class F>
inline float fold(FloatV x, F f) {
  const __m128 half = f(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  const __m128 pair = f(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(f(pair, _mm_shuffle_ps(pair, pair, 1)));
}
template <>
inline float sum<float>(FloatV x) {
  return fold(x, [](__m128 a, __m128 b) { return _mm_add_ps(a, b); });
}
template <>
inline float maximum<float>(FloatV x) {
  return fold(x, [](__m128 a, __m128 b) { return _mm_max_ps(a, b); });
}
#endif

// ---- float32 functions -------------------------------------------------------------------------

// e^x for x <= 88, relative error below 2e-7; 0 below -87.3. Polynomial after Cephes' expf.
inline FloatV exp_(FloatV x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const FloatV shifted = x * 1.44269504088896341f + magic;
  const FloatV n = shifted - magic;
  const FloatV r = x - n * 0.693359375f + n * 2.12194440e-4f;
  FloatV p = constant<FloatV>(1.9875691500e-4);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const IntV power = ((IntV)shifted - 0x4B400000 + 127) << 23;
  return select(x < -87.3f, FloatV{}, p * (FloatV)power);
}

// ln x for normal x > 0, relative error below 2e-7. Polynomial after Cephes' logf.
inline FloatV log_(FloatV x) {
  const IntV bits = (IntV)x;
  const IntV exponent = (bits - 0x3F3504F3) >> 23;  // mantissa into [sqrt(1/2), sqrt(2))
  const FloatV f = (FloatV)(bits - (exponent << 23)) - 1.0f;
  const FloatV e = __builtin_convertvector(exponent, FloatV);
  FloatV p = constant<FloatV>(7.0376836292e-2);
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const FloatV square = f * f;
  const FloatV y = p * f * square - e * 2.12194440e-4f - 0.5f * square;
  return f + y + e * 0.693359375f;
}

// log(1 + x) for 0 <= x <= 1 as 2 atanh(x / (2 + x)), relative error below 3e-7.
inline FloatV log1p_unit(FloatV x) {
  const FloatV s = x / (x + 2.0f), q = s * s;
  FloatV p = constant<FloatV>(1.0 / 13);
  p = p * q + float(1.0 / 11);
  p = p * q + float(1.0 / 9);
  p = p * q + float(1.0 / 7);
  p = p * q + float(1.0 / 5);
  p = p * q + float(1.0 / 3);
  return 2.0f * (s + s * q * p);
}

// sin and cos for 0 <= x <= 2 pi, absolute error below 2e-7. Polynomials after Cephes.
inline void sincos_(FloatV x, FloatV& sine, FloatV& cosine) {
  const float magic = 12582912.0f;
  const FloatV shifted = x * 0.636619772367581343f + magic;
  const FloatV n = shifted - magic;
  const IntV quadrant = (IntV)shifted;
  const FloatV r = x - n * 1.5703125f - n * 4.837512969970703125e-4f - n * 7.54978995489188216e-8f;
  const FloatV z = r * r;
  FloatV s = constant<FloatV>(-1.9515295891e-4);
  s = s * z + 8.3321608736e-3f;
  s = s * z - 1.6666654611e-1f;
  s = s * z * r + r;
  FloatV c = constant<FloatV>(2.443315711809948e-5);
  c = c * z - 1.388731625493765e-3f;
  c = c * z + 4.166664568298827e-2f;
  c = c * z * z - 0.5f * z + 1.0f;
  const IntV odd = (quadrant & 1) != 0;
  const IntV sign = (IntV{} + 1) << 31;
  sine = (FloatV)((IntV)select(odd, c, s) ^ ((quadrant << 30) & sign));
  cosine = (FloatV)((IntV)select(odd, s, c) ^ (((quadrant + 1) << 30) & sign));
}

// Relative error below 5e-7. Polynomial near 0 after Cephes' tanhf.
inline FloatV tanh_(FloatV x) {
  const FloatV magnitude = select(x < FloatV{}, -x, x);
  const FloatV e = exp_(-2.0f * magnitude);
  const FloatV large = (1.0f - e) / (1.0f + e);
  const FloatV z = x * x;
  FloatV p = constant<FloatV>(-5.70498872745e-3);
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const FloatV small = p * z * x + x;
  return select(magnitude < 0.625f, small, select(x < FloatV{}, -large, large));
}

inline FloatV sqrt_(FloatV x) {
#if defined(RKA_AVX512)
  return (FloatV)_mm512_sqrt_ps((__m512)x);
#elif defined(RKA_AVX2)
  return (FloatV)_mm256_sqrt_ps((__m256)x);
#else
  FloatV y = {};
  for (int i = 0; i < LANES<float>; ++i) y[i] = std::sqrt(x[i]);
  return y;
#endif
}

// ---- float64: for checking gradients, so libm lane by lane -------------------------------------

inline DoubleV map(double (*f)(double), DoubleV x) {
  DoubleV y = {};
  for (int i = 0; i < LANES<double>; ++i) y[i] = f(x[i]);
  return y;
}
inline DoubleV exp_(DoubleV x) { return map(::exp, x); }
inline DoubleV tanh_(DoubleV x) { return map(::tanh, x); }
inline DoubleV log1p_unit(DoubleV x) { return map(::log1p, x); }

}  // namespace RKA_ISA
}  // namespace rka

#include "../elementwise.h"  // needs the overloads above
