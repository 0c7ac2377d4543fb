// float32, float16 and bfloat16 in memory; float32 in registers.
#pragma once

#include "block.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace rka::cuda {

enum class Scalar : int { float32, float16, bfloat16 };

struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};

RKA_DEVICE float bits_to_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
RKA_DEVICE uint32_t float_to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

RKA_DEVICE float widen(float x) { return x; }
RKA_DEVICE float widen(Brain x) { return bits_to_float(uint32_t(x.bits) << 16); }
RKA_DEVICE float widen(Half x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7FFF;
  if (magnitude >= 0x7C00) return bits_to_float(sign | 0x7F800000 | (magnitude & 0x3FF) << 13);
  // Shifted into place the exponent is 112 too small; the product also normalises subnormals.
  const float value = bits_to_float(magnitude << 13) * bits_to_float(0x77800000);
  return bits_to_float(sign | float_to_bits(value));
#endif
}

RKA_DEVICE void narrow(float x, float* p) { *p = x; }
RKA_DEVICE void narrow(float x, Brain* p) {
#if defined(__CUDA_ARCH__)
  p->bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
  const uint32_t bits = float_to_bits(x);
  p->bits = x != x ? 0x7FC0 : uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
#endif
}
RKA_DEVICE void narrow(float x, Half* p) {
#if defined(__CUDA_ARCH__)
  p->bits = __half_as_ushort(__float2half_rn(x));
#else
  const uint16_t sign = uint16_t(float_to_bits(x) >> 16 & 0x8000);
  const uint32_t bits = float_to_bits(x) & 0x7FFFFFFF;
  uint32_t half;
  if (bits > 0x7F800000) {
    half = 0x7E00;
  } else if (bits >= 0x477FF000) {  // rounds beyond 65504
    half = 0x7C00;
  } else if (bits < 0x38800000) {  // subnormal: adding 1/2 leaves the rounded bits at the bottom
    half = float_to_bits(bits_to_float(bits) + 0.5f) - 0x3F000000;
  } else {
    half = (bits - 0x38000000 + 0xFFF + (bits >> 13 & 1)) >> 13;
  }
  p->bits = uint16_t(sign | half);
#endif
}

// Hardware approximations, to two units in the last place; of log2 near 1 to 2^-22.
#if defined(__CUDACC__)
RKA_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
RKA_DEVICE float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
RKA_DEVICE float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
RKA_DEVICE float inverse_sqrt(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#else
inline float exp2_fast(float x) { return exp2f(x); }
inline float log2_fast(float x) { return log2f(x); }
inline float reciprocal(float x) { return 1.0f / x; }
inline float inverse_sqrt(float x) { return 1.0f / sqrtf(x); }
#endif

RKA_DEVICE float inverse_root(int width) { return 1.0f / sqrtf(float(width)); }

// f(T{}) with the type that `scalar` names. All threads of a launch take the same branch.
template <class F>
RKA_DEVICE void with_type(Scalar scalar, F f) {
  if (scalar == Scalar::float16) {
    f(Half{});
  } else if (scalar == Scalar::bfloat16) {
    f(Brain{});
  } else {
    f(float{});
  }
}

// A matrix whose rows are `row` elements apart.
struct Matrix {
  const void* data;
  int64_t row;
  Scalar scalar;

  RKA_DEVICE float operator()(int i, int k) const {
    const int64_t index = i * row + k;
    if (scalar == Scalar::float32) return static_cast<const float*>(data)[index];
    const uint16_t bits = static_cast<const uint16_t*>(data)[index];
    return scalar == Scalar::float16 ? widen(Half{bits}) : widen(Brain{bits});
  }
};

}  // namespace rka::cuda
