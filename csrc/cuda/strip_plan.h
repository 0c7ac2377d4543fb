// Which problems the kernels for short sequences serve.
#pragma once

#include "problem.h"

namespace rka::cuda {

constexpr int FEWEST_TILES = 7, MOST_TILES = 8;  // of 8 rows and columns: 56 and 64

// The tiles that cover every side of the problem, or 0: longer sequences, wider heads, half
// precision, some rows of a sequence, relative times and ready-made relations are the other
// kernels' work.
inline int strip_tiles(const Problem& p) {
  if (p.scalar != Scalar::float32 || p.row_offset || p.time_table || p.correlation) return 0;
  int longest = p.rows > p.keys ? p.rows : p.keys;
  for (const Heads* x : {&p.query, &p.value, &p.scale_query, &p.shape_query}) {
    if (x->width > longest) longest = x->width;
  }
  if (p.keys == 0 || longest > 8 * MOST_TILES) return 0;
  return longest > 8 * FEWEST_TILES ? MOST_TILES : FEWEST_TILES;
}

// The same for the backward pass.
inline int strip_backward_tiles(const Problem& p) {
  const bool served = p.mode != Mode::mean && p.activation != Activation::tanh && p.rows > 0;
  return served && strip_tiles(p) == FEWEST_TILES ? FEWEST_TILES : 0;
}

// Floats that a block sets aside in the backward pass: eight strips of its 128 threads.
inline int64_t strip_scratch(int tiles) { return 8 * 4 * 128 * int64_t(tiles); }

}  // namespace rka::cuda
