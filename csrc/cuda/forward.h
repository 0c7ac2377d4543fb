// The forward pass of one block: part `part` of `parts` of the tiles of one sequence.
#pragma once

#include "logits.h"

namespace rka::cuda {

constexpr int FORWARD_TILES = 3;

// Blocks of one sequence repeat its factorisation and share its tiles, head by head. How many
// blocks there are changes nothing in the results.
template <class Block>
RKA_DEVICE void forward_block(const Block& block, const Problem& p, int b, int64_t scratch,
                              int part, int parts, float* shared) {
  const Frame<Block> f(block, p, b, scratch, shared);
  prepare(f);
  const int tiles = f.tile_count();
  for (int index = part; index < p.heads * tiles; index += parts) {
    const Tile t = f.tile_at(index / tiles, index % tiles);
    float* weights = f.tile[1];
    weights_tile<false>(f, t, weights);
    apply_dropout(f, t, weights);
    const int64_t first = (f.noise_head(t) * p.rows + t.t0) * p.value.width;
    with_type(p.scalar, [&](auto type) {
      using T = decltype(type);
      T* out = static_cast<T*>(p.output) + first;
      const T* value = static_cast<const T*>(f.rows_of(p.value, t.head, 0).data);
      weighted_rows_of(
          f, t, weights, value, p.value.row, p.value.width,
          [&](int r, int c, float x) { narrow(x, out + int64_t(r) * p.value.width + c); });
    });
  }
}

}  // namespace rka::cuda
