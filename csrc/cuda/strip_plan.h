// Which problems the kernels for short sequences serve.
#pragma once

#include <algorithm>

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
                       BACKWARD_FLOATS = FLOATS + SQUARE + 8 * WARPS;
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
constexpr int strip_backward_blocks(int tiles) { return tiles == FEWEST_TILES ? 4 : 3; }
inline int strip_backward_blocks(int tiles, int64_t shared_limit) {
  const int64_t floats = tiles == FEWEST_TILES ? Shape<FEWEST_TILES>::BACKWARD_FLOATS
                                               : Shape<MOST_TILES>::BACKWARD_FLOATS;
  const int64_t reserved = 1024;  // of every block
  const int64_t fit = (shared_limit + reserved) / (floats * int64_t(sizeof(float)) + reserved);
  return int(std::clamp<int64_t>(fit, 1, strip_backward_blocks(tiles)));
}

// Floats that a block sets aside in the backward pass: nine strips of its 128 threads.
constexpr int64_t strip_scratch(int tiles) { return 9 * 4 * 128 * int64_t(tiles); }

}  // namespace rka::cuda
