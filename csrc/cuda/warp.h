// What the threads of a warp do together: shuffles, tensor-core products, copies in the background.
//
// Code written against these functions runs as CUDA threads on the device; the tests run the same
// source on the host, every thread a coroutine that stops here until the others arrive
// (../tests/cuda/threads.cpp). Every lane of a warp must reach each of them.
#pragma once

#include "scalar.h"

namespace rka::cuda {

constexpr int LANES = 32;

struct Pair {
  float x, y;
};

#if defined(__CUDACC__)

RKA_DEVICE int thread_index() { return threadIdx.x; }
RKA_DEVICE void sync_block() { __syncthreads(); }
RKA_DEVICE void sync_warp() { __syncwarp(); }
RKA_DEVICE float shuffle(float x, int lane) { return __shfl_sync(~0u, x, lane); }
RKA_DEVICE uint32_t ballot(bool x) { return __ballot_sync(~0u, x); }
// The same number in all lanes, told to the compiler: branches on it need no mask.
RKA_DEVICE int uniform_in_warp(int x) { return __shfl_sync(~0u, x, 0); }
RKA_DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(~0u, x, mask); }
RKA_DEVICE int bits_of(uint64_t x) { return __popcll(x); }

// What this thread stored, from global memory: the compiler would rather keep it in registers.
RKA_DEVICE Four load4_again(const float* p) {
  Four x;
  asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.v[0]), "=f"(x.v[1]), "=f"(x.v[2]), "=f"(x.v[3])
               : "l"(p)
               : "memory");
  return x;
}

// c += a b on the tensor core: a 16 x 8, b 8 x 8 in TF32, whose low 13 bits are not read.
RKA_DEVICE void multiply_tile(float (&c)[4], const float (&a)[4], float b0, float b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(float_to_bits(a[0])), "r"(float_to_bits(a[1])), "r"(float_to_bits(a[2])),
        "r"(float_to_bits(a[3])), "r"(float_to_bits(b0)), "r"(float_to_bits(b1)));
}

// The numbers that TF32 keeps of x, rounded (in the bits that the hardware reads), and the rest.
// Volatile, as the compiler would rather do it again before every use.
RKA_DEVICE void split(float x, float& high, float& low) {
  uint32_t rounded;
  asm volatile(
      "{ .reg .b32 cut; .reg .f32 kept; add.u32 %0, %2, 0x1000;\n"
      "and.b32 cut, %0, 0xFFFFE000; mov.b32 kept, cut; sub.f32 %1, %3, kept; }"
      : "=&r"(rounded), "=f"(low)
      : "r"(float_to_bits(x)), "f"(x));
  high = bits_to_float(rounded);
}
// x, which the compiler shall keep in a register for the same reason.
RKA_DEVICE int kept(int x) {
  asm volatile("mov.u32 %0, %0;" : "+r"(x));
  return x;
}

// Floats from global to shared memory, or zeros if `exists` is 0; they are there after
// wait_for_copies.
template <int BYTES>
RKA_DEVICE void copy_bytes(float* to, const float* from, uint32_t exists) {
  asm volatile(
      "{ .reg .pred none; setp.eq.u32 none, %3, 0;\n"
      "cp.async.ca.shared.global [%0], [%1], %2, none; }" ::"r"(
          uint32_t(__cvta_generic_to_shared(to))),
      "l"(from), "n"(BYTES), "r"(exists));
}
RKA_DEVICE void copy_one(float* to, const float* from, uint32_t exists) {
  copy_bytes<4>(to, from, exists);
}
RKA_DEVICE void copy_pair(float* to, const float* from, uint32_t exists) {
  copy_bytes<8>(to, from, exists);
}
RKA_DEVICE void copy_four(float* to, const float* from) { copy_bytes<16>(to, from, 1); }
RKA_DEVICE void end_of_copies() { asm volatile("cp.async.commit_group;"); }
// All of this thread's groups of copies but the last `pending` are complete.
template <int PENDING>
RKA_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

#else

namespace host {
int thread();
void sync_block();
// Every lane brings `count` words and gets everybody's, a lane's at 8 * lane.
const uint32_t* exchange(const uint32_t* words, int count);
void copy_later(float* to, const float* from, int count, bool exists);
void end_of_copies();
void wait_for_copies(int pending);
}  // namespace host

inline int thread_index() { return host::thread(); }
inline void sync_block() { host::sync_block(); }
inline void sync_warp() { host::exchange(nullptr, 0); }
inline float shuffle(float x, int lane) {
  const uint32_t word = float_to_bits(x);
  return bits_to_float(host::exchange(&word, 1)[8 * (lane % LANES)]);
}
inline float shuffle_xor(float x, int mask) { return shuffle(x, thread_index() ^ mask); }
inline uint32_t ballot(bool x) {
  const uint32_t word = x, *all = host::exchange(&word, 1);
  uint32_t bits = 0;
  for (int lane = 0; lane < LANES; ++lane) bits |= all[8 * lane] << lane;
  return bits;
}
inline int uniform_in_warp(int x) { return x; }
inline int bits_of(uint64_t x) { return __builtin_popcountll(x); }
inline void multiply_tile(float (&c)[4], const float (&a)[4], float b0, float b1) {
  uint32_t words[6];
  for (int i = 0; i < 6; ++i) {
    words[i] = float_to_bits(i < 4 ? a[i] : i == 4 ? b0 : b1) & 0xFFFFE000u;
  }
  const uint32_t* all = host::exchange(words, 6);
  const int lane = thread_index() % LANES, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {  // element (g + 8 (i / 2), 2 t + i % 2)
    double sum = c[i];
    for (int k = 0; k < 4; ++k) {
      const uint32_t *x = all + 8 * (4 * g + k), *y = all + 8 * (4 * (2 * t + i % 2) + k);
      sum += double(bits_to_float(x[i / 2])) * bits_to_float(y[4]);
      sum += double(bits_to_float(x[2 + i / 2])) * bits_to_float(y[5]);
    }
    c[i] = float(sum);
  }
}
inline void split(float x, float& high, float& low) {
  const uint32_t rounded = float_to_bits(x) + 0x1000;
  high = bits_to_float(rounded);
  low = x - bits_to_float(rounded & 0xFFFFE000u);
}
inline int kept(int x) { return x; }
inline Four load4_again(const float* p) { return load4(p); }
inline void copy_one(float* to, const float* from, uint32_t exists) {
  host::copy_later(to, from, 1, exists != 0);
}
inline void copy_pair(float* to, const float* from, uint32_t exists) {
  host::copy_later(to, from, 2, exists != 0);
}
inline void copy_four(float* to, const float* from) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16) __builtin_trap();
  host::copy_later(to, from, 4, true);
}
inline void end_of_copies() { host::end_of_copies(); }
template <int PENDING>
void wait_for_copies() {
  host::wait_for_copies(PENDING);
}

#endif

RKA_DEVICE Pair load_pair(const float* p) {
#if defined(__CUDA_ARCH__)
  const float2 x = *reinterpret_cast<const float2*>(p);
  return {x.x, x.y};
#else
  if (reinterpret_cast<uintptr_t>(p) % 8) __builtin_trap();
  return {p[0], p[1]};
#endif
}
RKA_DEVICE void store_pair(float* p, float x, float y) {
#if defined(__CUDA_ARCH__)
  *reinterpret_cast<float2*>(p) = make_float2(x, y);
#else
  if (reinterpret_cast<uintptr_t>(p) % 8) __builtin_trap();
  p[0] = x, p[1] = y;
#endif
}
// Of global memory that no thread writes; zeros where it does not exist.
RKA_DEVICE Pair load_constant_pair(const float* p, bool exists) {
  if (!exists) return {0.0f, 0.0f};
#if defined(__CUDA_ARCH__)
  const float2 x = __ldg(reinterpret_cast<const float2*>(p));
  return {x.x, x.y};
#else
  return load_pair(p);
#endif
}
// Two of half precision as one word, the second above the first; `left` of them exist. `pairs`:
// they lie on a boundary of four bytes, and exist both or not at all.
RKA_DEVICE uint32_t load_constant_halves(const uint16_t* p, int left, bool pairs) {
  if (left <= 0) return 0;
#if defined(__CUDA_ARCH__)
  if (pairs) return __ldg(reinterpret_cast<const uint32_t*>(p));
  return __ldg(p) | (left > 1 ? uint32_t(__ldg(p + 1)) << 16 : 0);
#else
  if (pairs && reinterpret_cast<uintptr_t>(p) % 4) __builtin_trap();
  return p[0] | (left > 1 ? uint32_t(p[1]) << 16 : 0);
#endif
}

// Over the four lanes that hold one row of a strip.
RKA_DEVICE float sum_of_row(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}
RKA_DEVICE float largest_of_row(float x) {
  x = fmaxf(x, shuffle_xor(x, 1));
  return fmaxf(x, shuffle_xor(x, 2));
}

}  // namespace rka::cuda
