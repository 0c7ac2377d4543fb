// Included last by every kernel source: the table of one instruction set.
#pragma once

#include "attention_backward.h"

namespace rka {
inline namespace RKA_ISA {

template <class T>
size_t scratch_bytes(const Problem& problem, bool backward) {
  Sequence<T> s(problem, 0);
  Arena arena{nullptr};
  s.allocate(arena, backward);
  return arena.used;
}
inline size_t bytes_of(const Problem& problem, const Gradients* g, bool f64) {
  return f64 ? scratch_bytes<double>(problem, g) : scratch_bytes<float>(problem, g);
}
inline void run_forward(const Problem& problem, int64_t sequence, bool f64, void* scratch) {
  f64 ? forward<double>(problem, sequence, scratch) : forward<float>(problem, sequence, scratch);
}
inline void run_backward(const Problem& problem, const Gradients& g, int64_t sequence, bool f64,
                         void* scratch) {
  f64 ? backward<double>(problem, g, sequence, scratch)
      : backward<float>(problem, g, sequence, scratch);
}
inline void run_relations(const Problem& problem, const Relations& out, int64_t sequence, bool f64,
                          void* scratch) {
  f64 ? relations<double>(problem, out, sequence, scratch)
      : relations<float>(problem, out, sequence, scratch);
}
inline void run_relations_backward(const Problem& problem, const Relations& grad,
                                   const Gradients& g, int64_t sequence, bool f64, void* scratch) {
  f64 ? relations_backward<double>(problem, grad, g, sequence, scratch)
      : relations_backward<float>(problem, grad, g, sequence, scratch);
}
inline void words_row(uint64_t seed, uint32_t row, uint32_t head, uint32_t stream, int columns,
                      uint32_t* out) {
  uint32_t step[4 * GROUPS];
  for (int c = 0; c < columns; ++c) {
    if (c % (4 * GROUPS) == 0) philox_groups(seed, uint32_t(c / 4), row, head, stream, step);
    out[c] = step[c % (4 * GROUPS)];
  }
}
inline void normals_row(uint64_t seed, uint32_t row, uint32_t head, int columns, float* out) {
  for (int c = 0; c < columns; c += 4) {
    float four[4];
    normal_tile(seed, uint32_t(c / 4), row, head, 1, [](int) { return 4; }, four, 4);
    for (int l = 0; l < 4 && c + l < columns; ++l) out[c + l] = four[l];
  }
}

}  // namespace RKA_ISA
}  // namespace rka
