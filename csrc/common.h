// What every part of the native code shares. No torch here, and nothing allocates.
#pragma once

#include <cmath>
#include <cstdint>

// The mathematics in these headers serves host code, CUDA device code and, through templates over
// the value type, SIMD vectors.
#if defined(__CUDACC__)
#define RKA_HD __host__ __device__ __forceinline__
#else
#define RKA_HD inline
#endif

// One CPU source is compiled for several instruction sets. Each build lives in a namespace of its
// own, so that the linker never picks the AVX-512 copy of an inline function for a plain caller.
#ifndef RKA_ISA
#define RKA_ISA generic
#endif

namespace rka {

enum class Mode : int { location, mean, sample };
enum class Activation : int { identity, leaky_relu, relu, tanh };

inline namespace RKA_ISA {

// The number c in every lane.
template <class V>
RKA_HD V constant(double c);
template <>
RKA_HD float constant<float>(double c) {
  return float(c);
}
template <>
RKA_HD double constant<double>(double c) {
  return c;
}

}  // namespace RKA_ISA

}  // namespace rka
