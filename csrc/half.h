// float16 and bfloat16 as their bits, in and out of float.
#pragma once

#include <cstring>

#include "common.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace rka {
inline namespace RKA_ISA {

RKA_HD float bits_to_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
RKA_HD uint32_t float_to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

struct BFloat16 {
  uint16_t bits;
  RKA_HD operator float() const { return bits_to_float(uint32_t(bits) << 16); }
  static RKA_HD BFloat16 of(float x) {  // to nearest even
#if defined(__CUDA_ARCH__)
    return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
    const uint32_t b = float_to_bits(x);
    if (x != x) return {uint16_t((b >> 16) | 0x40)};
    return {uint16_t((b + 0x7FFF + ((b >> 16) & 1)) >> 16)};
#endif
  }
};

struct Float16 {
  uint16_t bits;
  RKA_HD operator float() const {
#if defined(__CUDA_ARCH__)
    return __half2float(__ushort_as_half(bits));
#else
    // The exponent is moved by a product, which also normalises subnormal numbers.
    const uint32_t rest = uint32_t(bits & 0x7FFF) << 13, sign = uint32_t(bits & 0x8000) << 16;
    if (rest >= 0x0F800000u) return bits_to_float(sign | rest | 0x70000000u);  // inf, NaN
    return bits_to_float(sign | float_to_bits(bits_to_float(rest) * 0x1p112f));
#endif
  }
  static RKA_HD Float16 of(float x) {
#if defined(__CUDA_ARCH__)
    return {__half_as_ushort(__float2half_rn(x))};
#else
    const uint32_t b = float_to_bits(x), sign = (b >> 16) & 0x8000, rest = b & 0x7FFFFFFF;
    if (rest > 0x7F800000u) return {uint16_t(sign | 0x7E00)};
    if (rest >= 0x477FF000u) return {uint16_t(sign | 0x7C00)};  // rounds to infinity
    if (rest < 0x38800000u) {  // subnormal: adding 1/2 aligns the last bit and rounds
      return {uint16_t(sign | (float_to_bits(bits_to_float(rest) + 0.5f) - 0x3F000000u))};
    }
    return {uint16_t(sign | ((rest + 0xFFF + ((rest >> 13) & 1) - 0x38000000u) >> 13))};
#endif
  }
};

}  // namespace RKA_ISA
}  // namespace rka
