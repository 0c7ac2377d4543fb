// The noise of ../philox.h four columns at a time, with a Box-Muller that stays in registers.
#pragma once

#include "../philox.h"
#include "scalar.h"

namespace rka::cuda {

// cos and sin for 0 <= x < 7. The library's version reduces any argument, through local memory.
RKA_DEVICE void sine_cosine(float x, float& sine, float& cosine) {
  const float turns = rintf(x * 0.636619772f);  // quarter turns
  float r = fmaf(-turns, 1.57079637f, x);
  r = fmaf(-turns, -4.37113883e-8f, r);
  const float r2 = r * r;
  // Cephes' minimax polynomials on [-pi/4, pi/4].
  float s = fmaf(-1.9515295891e-4f, r2, 8.3321608736e-3f);
  s = fmaf(s, r2, -1.6666654611e-1f);
  s = fmaf(s * r2, r, r);
  float c = fmaf(2.443315711809948e-5f, r2, -1.388731625493765e-3f);
  c = fmaf(c, r2, 4.166664568298827e-2f);
  c = fmaf(c * r2, r2, fmaf(-0.5f, r2, 1.0f));
  const int quadrant = int(turns) & 3;
  const float swap_s = quadrant & 1 ? c : s, swap_c = quadrant & 1 ? s : c;
  sine = quadrant & 2 ? -swap_s : swap_s;
  cosine = (quadrant + 1) & 2 ? -swap_c : swap_c;
}

RKA_DEVICE void normal_pair(float u1, float u2, float& first, float& second) {
  // u1 < 1, so that the logarithm is not 0.
  const float square = -2.0f * logf(u1 > SMALLEST_UNIFORM ? u1 : SMALLEST_UNIFORM);
  const float radius = square * inverse_sqrt(square);
  float sine, cosine;
  sine_cosine(6.283185307179586f * u2, sine, cosine);
  first = radius * cosine;
  second = radius * sine;
}

// E in columns 4 group .. 4 group + 3 of one row.
RKA_DEVICE Four normals(uint64_t seed, int group, int row, int64_t head) {
  const Words words = philox4x32(seed, group, row, uint32_t(head), NOISE);
  Four e;
  normal_pair(uniform(words.w[0]), uniform(words.w[1]), e[0], e[1]);
  normal_pair(uniform(words.w[2]), uniform(words.w[3]), e[2], e[3]);
  return e;
}

// T of one row.
RKA_DEVICE float skew_noise_of_row(uint64_t seed, int row, int64_t head) {
  const Words words = philox4x32(seed, 0, row, uint32_t(head), SKEW);
  float first, second;
  normal_pair(uniform(words.w[0]), uniform(words.w[1]), first, second);
  return first;
}

// What the four weights are multiplied with: 0 or 1 / (1 - probability).
RKA_DEVICE Four dropout_factors(uint64_t seed, int group, int row, int64_t head, float p) {
  const Words words = philox4x32(seed, group, row, uint32_t(head), DROPOUT);
  Four keep;
  for (int i = 0; i < 4; ++i) keep[i] = uniform(words.w[i]) >= p ? 1.0f / (1.0f - p) : 0.0f;
  return keep;
}

}  // namespace rka::cuda
