// Counter-based noise: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011) and Box-Muller.
//
// key = 64-bit seed, counter = (column / 4, row, sequence * heads + head, stream); the four words
// serve columns 4 * (column / 4) + 0..3. Words agree bit for bit with the reference, normals to
// rounding.
#pragma once

#include "common.h"

namespace rka {
inline namespace RKA_ISA {

enum Stream : uint32_t { NOISE = 0, SKEW = 1, DROPOUT = 2 };

constexpr uint32_t PHILOX_M0 = 0xD2511F53u, PHILOX_M1 = 0xCD9E8D57u;
constexpr uint32_t PHILOX_W0 = 0x9E3779B9u, PHILOX_W1 = 0xBB67AE85u;
constexpr int PHILOX_ROUNDS = 10;

constexpr float UNIFORM_SCALE = 4.6566127342e-10f;  // just under 2^-31: no uniform reaches 1
constexpr float SMALLEST_UNIFORM = 1e-7f;

struct Words {
  uint32_t w[4];
};

RKA_HD Words philox4x32(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < PHILOX_ROUNDS; ++round) {
    const uint64_t p0 = uint64_t(c0) * PHILOX_M0, p1 = uint64_t(c2) * PHILOX_M1;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c3 = uint32_t(p0);
    k0 += PHILOX_W0;
    k1 += PHILOX_W1;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1), as triton.language.uint_to_uniform_float.
RKA_HD float uniform(uint32_t word) {
  const int32_t folded = int32_t(word) ^ (int32_t(word) >> 31);  // ~word where it is negative
  return float(folded) * UNIFORM_SCALE;
}

// Two standard normals, as triton.language.pair_uniform_to_normal. The arguments are float32
// uniforms in every precision; T is the precision of the result.
template <class T>
RKA_HD void normal_pair(float u1, float u2, T& first, T& second) {
  const T smallest = T(u1) > T(SMALLEST_UNIFORM) ? T(u1) : T(SMALLEST_UNIFORM);
  const T radius = std::sqrt(T(-2) * std::log(smallest));
  const T angle = T(6.283185307179586) * T(u2);
  first = radius * std::cos(angle);
  second = radius * std::sin(angle);
}

// T of one row (stream 1).
template <class T>
RKA_HD T skew_noise(uint64_t seed, uint32_t row, uint32_t head) {
  const Words words = philox4x32(seed, 0, row, head, SKEW);
  T first, second;
  normal_pair<T>(uniform(words.w[0]), uniform(words.w[1]), first, second);
  return first;
}

}  // namespace RKA_ISA
}  // namespace rka
