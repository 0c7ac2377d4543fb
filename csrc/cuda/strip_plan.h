// Which problems the kernels for short sequences serve.
#pragma once

#include <algorithm>

#include "strip_sequence.h"

namespace rka::cuda {

constexpr int FEWEST_TILES = 7, MOST_TILES = 8;  // of 8 rows and columns: 56 and 64

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
  const int64_t floats = tiles == FEWEST_TILES ? Sequence<Shape<FEWEST_TILES>>::BACKWARD_FLOATS
                                               : Sequence<Shape<MOST_TILES>>::BACKWARD_FLOATS;
  const int64_t reserved = 1024;  // of every block
  const int64_t fit = (shared_limit + reserved) / (floats * int64_t(sizeof(float)) + reserved);
  return int(std::clamp<int64_t>(fit, 1, strip_backward_blocks(tiles)));
}

// Floats that a block sets aside in the backward pass: nine strips of its 128 threads.
inline int64_t strip_scratch(int tiles) { return 9 * 4 * 128 * int64_t(tiles); }

}  // namespace rka::cuda
