// The execution context of one block: phases separated by barriers.
//
// Device code is written against `Block::for_each(count, f)`: call f(i) for i in [0, count), the
// threads of the block share the work, and nobody goes on before all are done. On the device that
// is a strided loop and a barrier; the tests run the same source on the host with a plain loop in
// any order. Hence the rule of this folder: within one phase no thread reads what another writes.
#pragma once

#include <cstring>

#include "../common.h"

#if defined(__CUDACC__)
#define RKA_DEVICE __device__ __forceinline__
#else
#define RKA_DEVICE inline
#endif

namespace rka::cuda {

constexpr int THREADS = 256;

#if defined(__CUDACC__)
template <bool IN_SHARED>
struct DeviceBlock {
  static constexpr bool factor_in_shared = IN_SHARED;
  template <class F>
  RKA_DEVICE void for_each(int count, F f) const {
    for (int i = threadIdx.x; i < count; i += THREADS) f(i);
    __syncthreads();
  }
};
#endif

// Four consecutive floats at a 16-byte boundary: one transaction. The host insists on the boundary
// as the device does.
struct alignas(16) Four {
  float v[4];
  RKA_DEVICE float operator[](int i) const { return v[i]; }
  RKA_DEVICE float& operator[](int i) { return v[i]; }
};

RKA_DEVICE Four load4(const float* p) {
#if defined(__CUDA_ARCH__)
  const float4 x = *reinterpret_cast<const float4*>(p);
  return {{x.x, x.y, x.z, x.w}};
#else
  if (reinterpret_cast<uintptr_t>(p) % 16) __builtin_trap();
  Four x;
  std::memcpy(&x, p, sizeof x);
  return x;
#endif
}

RKA_DEVICE void store4(float* p, const Four& x) {
#if defined(__CUDA_ARCH__)
  *reinterpret_cast<float4*>(p) = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
#else
  if (reinterpret_cast<uintptr_t>(p) % 16) __builtin_trap();
  std::memcpy(p, &x, sizeof x);
#endif
}

}  // namespace rka::cuda
