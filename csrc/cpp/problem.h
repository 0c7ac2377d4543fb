// The call as the CPU kernels see it: raw pointers, element strides, no torch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "../common.h"

namespace rka {

enum class Type : int { f32, f64, f16, bf16, u8, i64 };

// A strided array of four dimensions; absent when data is null. Broadcast dimensions have stride 0.
// One with fewer dimensions keeps its first as the first (sequence) and its last ones as the last:
// features (B, 1, m, df), correlation and factor (B, 1, m, m), gate and mixture (B, 1, 1, .),
// padding and times (B, 1, 1, m), scale_bias, concentration and seed (1, 1, 1, .); time_table is
// (1, 1, H or 1, TIME_BUCKETS).
struct View {
  char* data = nullptr;
  Type type = Type::f32;
  int64_t stride[4] = {0, 0, 0, 0};

  explicit operator bool() const { return data != nullptr; }
};

// Those of four dimensions, by the names that csrc/cuda and Triton have for them: they keep strides
// of their own for each, here one struct serves both.
using Heads = View;  // (B, H, n or m, width)
using Pairs = View;  // (B, H, n, m), broadcast

// Sizes, inputs and options of one call, under the names of csrc/cuda/problem.h. The meaning of
// each is in rka_fast/ops/arguments.py.
struct Problem {
  int64_t batch, heads, rows, keys;
  int64_t ahead;  // the thread that works on sequence b is likely to work on b + ahead next
  int64_t width, scale_width, shape_width, value_width, feature_width;
  Heads query, key, value, scale_query, scale_key, shape_query, shape_key;
  Pairs bias, mask;
  View scale_bias, features, concentration, mixture, gate, time_table, cooccurrence, padding;
  View correlation, factor;  // ready-made, in place of what they are made of
  Pairs prior;               // likewise
  View row_times, key_times;
  bool mask_per_head;
  View seed;  // (1, 1, 1, draws)
  int64_t draws;
  bool causal;
  Mode mode;
  Activation activation;
  double dropout, jitter;
  std::optional<double> scale;  // of the location; 1 / sqrt(width) if absent
  int64_t row_offset;           // row t is position t + row_offset of the keys
  Heads output;                 // of the first draw
  int64_t output_stride;        // elements from draw to draw
};

// Where gradients go; absent ones are not wanted, and what the mode leaves without effect must be
// absent. Those that several sequences share have one partial sum for each sequence, zero to begin
// with and in the precision of the computation; the caller adds them in order.
struct Gradients {
  Heads output;  // dL/d output
  Heads query, key, value, scale_query, scale_key, shape_query, shape_key;
  View features, gate;
  View correlation, factor;  // zero to begin with
  Pairs bias;                // partial (B, H or 1, n or 1, m or 1)
  View scale_bias;           // partial (B, 1, 1, H)
  View concentration;        // partial (B, 1, 1, 2)
  View mixture;              // partial (B, 1, 1, 3)
  View time_table;           // partial (B, 1, H or 1, TIME_BUCKETS)
};

// K, L and the prior of a call: results (zero to begin with), or their gradients. Any may be
// absent.
struct Relations {
  View correlation, factor, prior;
};

// One instruction set's build of the backend. `scratch` holds `bytes(problem, backward)`, aligned
// to 64 bytes, and belongs to the calling thread. Each function serves one sequence and writes
// nothing that another sequence owns.
struct InstructionSet {
  const char* name;
  size_t (*bytes)(const Problem&, const Gradients*, bool f64);
  void (*forward)(const Problem&, int64_t sequence, bool f64, void* scratch);
  void (*backward)(const Problem&, const Gradients&, int64_t sequence, bool f64, void* scratch);
  // K, L and the prior alone, of a problem in mode sample, and the gradients of what they hang on.
  void (*relations)(const Problem&, const Relations&, int64_t sequence, bool f64, void* scratch);
  void (*relations_backward)(const Problem&, const Relations& grad, const Gradients&,
                             int64_t sequence, bool f64, void* scratch);
  // Noise as the kernels make it, for tests: `columns` words of a stream, and normals, of one row.
  void (*words)(uint64_t seed, uint32_t row, uint32_t head, uint32_t stream, int columns,
                uint32_t*);
  void (*normals)(uint64_t seed, uint32_t row, uint32_t head, int columns, float*);
};

extern const InstructionSet instructions_plain, instructions_avx2, instructions_avx512;

// The best build that this processor runs.
const InstructionSet& instruction_set();

}  // namespace rka
