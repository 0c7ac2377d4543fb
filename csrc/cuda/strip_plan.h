// Which problems the kernels for short sequences serve, the size of their squares, and what they
// set aside and hand on.
#pragma once

#include <algorithm>
#include <cmath>

#include "problem.h"

namespace rka::cuda {

constexpr int WARPS = 4;                         // of a block
constexpr int FEWEST_TILES = 7, MOST_TILES = 8;  // of 8 rows and columns: 56 and 64

// Rows and columns of the largest matrix, and what its squares in shared memory look like. The
// pitch is 8 or 24 modulo 32 words: a fragment of the right operand meets no bank twice.
template <int TILES_>
struct Shape {
  static constexpr int TILES = TILES_, SIZE = 8 * TILES;
  static constexpr int PITCH = SIZE % 16 ? SIZE : SIZE + 8;
  static constexpr int SQUARE = SIZE * PITCH;
  // Floats of shared memory as Sequence has it; the backward pass has a square more.
  static constexpr int FLOATS = 3 * SQUARE + 4 * SIZE + WARPS,
                       BACKWARD_FLOATS = FLOATS + SQUARE + 8 * WARPS,
                       COVARIANCE_FLOATS = FLOATS + 8 * WARPS + WARPS * SIZE;
};

// The tiles that cover rows and keys, or 0: longer sequences, some rows of a sequence, relative
// times and ready-made relations are the other kernels' work.
inline int strip_tiles(const Problem& p) {
  if (p.row_offset || p.time_table || p.correlation) return 0;
  const int longest = std::max(p.rows, p.keys);
  if (p.rows == 0 || p.keys == 0 || longest > 8 * MOST_TILES) return 0;
  return longest > 8 * FEWEST_TILES ? MOST_TILES : FEWEST_TILES;
}

// Blocks of the backward pass on a multiprocessor: at most 128 registers a thread, or 168 where
// shared memory holds no more than three. So many as are there at once take turns over the
// sequences: a last round of few would leave most of the device idle.
constexpr int strip_blocks(int tiles) { return tiles == FEWEST_TILES ? 5 : 4; }
constexpr int strip_backward_blocks(int tiles) { return tiles == FEWEST_TILES ? 4 : 3; }
inline int strip_backward_blocks(int tiles, int64_t shared_limit) {
  const int64_t floats = tiles == FEWEST_TILES ? Shape<FEWEST_TILES>::BACKWARD_FLOATS
                                               : Shape<MOST_TILES>::BACKWARD_FLOATS;
  const int64_t reserved = 1024;  // of every block
  const int64_t fit = (shared_limit + reserved) / (floats * int64_t(sizeof(float)) + reserved);
  return int(std::clamp<int64_t>(fit, 1, strip_backward_blocks(tiles)));
}

// The operands of a head in the order of their use.
enum { SHAPE_OPERAND, SCALE_OPERAND, LOCATION_OPERAND, VALUE_OPERAND, NO_OPERAND };
inline void list_operands(Problem& p) {
  const auto scale = [](const Heads& x) {
    return x.data ? 1.0f / std::sqrt(float(x.width)) : 1.0f;
  };
  p.operands[SHAPE_OPERAND] = {p.shape_query, p.shape_key, p.d_shape_query, p.d_shape_key,
                               scale(p.shape_key)};
  p.operands[SCALE_OPERAND] = {p.scale_query, p.scale_key, p.d_scale_query, p.d_scale_key,
                               scale(p.scale_key)};
  p.operands[LOCATION_OPERAND] = {p.query, p.key, p.d_query, p.d_key, p.location_scale};
  p.operands[VALUE_OPERAND] = {p.grad, p.value, nullptr, p.d_value, 1.0f};
}

// Floats of all threads' parts of a strip.
constexpr int64_t strip_floats(int tiles) { return 4 * 128 * int64_t(tiles); }
// Strips that a block sets aside in the backward pass.
constexpr int SAVED_STRIPS = 8;

// Strips of a sequence that the kernels of the backward pass hand on: K's factor (K itself for the
// mean), its gradient, and the prior: of all heads, or of each where their masks differ.
enum HandedStrip { HANDED_FACTOR, HANDED_D_FACTOR, HANDED_PRIOR };
RKA_HD int strip_priors(const Problem& p) {
  return !p.has_shape() ? 0 : p.mask.data && p.mask.head != 0 ? p.heads : 1;
}
inline int64_t strip_handed(const Problem& p) {
  return p.needs_covariance() ? HANDED_PRIOR + strip_priors(p) : 0;
}
// Sequences of a launch: four rounds of the blocks, if they hand on three strips each. With fewer
// the device is idle more often, more want memory.
inline int strip_sequences(const Problem& p, int blocks) {
  const int64_t rounds = std::clamp<int64_t>(12 / std::max<int64_t>(strip_handed(p), 1), 1, 4);
  return int(std::min<int64_t>(p.batch, rounds * blocks));
}

}  // namespace rka::cuda
