// Which problems the kernels for short sequences serve.
#pragma once

#include "problem.h"

namespace rka::cuda {

constexpr int FEWEST_TILES = 7, MOST_TILES = 8;  // of 8 rows and columns: 56 and 64

// The tiles that cover every side of the problem, or 0: longer sequences, wider heads and half
// precision are the other kernels' work.
inline int strip_tiles(const Problem& p) {
  if (p.scalar != Scalar::float32) return 0;
  int longest = p.rows > p.keys ? p.rows : p.keys;
  for (const Heads* x : {&p.query, &p.value, &p.scale_query, &p.shape_query}) {
    if (x->width > longest) longest = x->width;
  }
  if (p.keys == 0 || longest > 8 * MOST_TILES) return 0;
  return longest > 8 * FEWEST_TILES ? MOST_TILES : FEWEST_TILES;
}

}  // namespace rka::cuda
