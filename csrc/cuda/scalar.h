// float32, float16 and bfloat16 in memory; float32 in registers.
#pragma once

#include "../half.h"
#include "block.h"

namespace rka::cuda {

enum class Scalar : int { float32, float16, bfloat16 };

RKA_DEVICE float widen(float x) { return x; }
RKA_DEVICE float widen(BFloat16 x) { return x; }
RKA_DEVICE float widen(Float16 x) { return x; }

// Of half precision, from its bits.
RKA_DEVICE float widen(uint16_t bits, Scalar scalar) {
  return scalar == Scalar::float16 ? widen(Float16{bits}) : widen(BFloat16{bits});
}

RKA_DEVICE void narrow(float x, float* p) { *p = x; }
RKA_DEVICE void narrow(float x, BFloat16* p) { *p = BFloat16::of(x); }
RKA_DEVICE void narrow(float x, Float16* p) { *p = Float16::of(x); }

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
    f(Float16{});
  } else if (scalar == Scalar::bfloat16) {
    f(BFloat16{});
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
    return widen(static_cast<const uint16_t*>(data)[index], scalar);
  }
};

}  // namespace rka::cuda
