// One block's view of a row of squares of a long sequence: who exists, who is seen, and squares on
// their way to shared memory.
#pragma once

#include "long_plan.h"
#include "strip_sequence.h"

namespace rka::cuda {

constexpr int TILE_FLOATS = 4 * WARPS * LANES;  // of one tile, all threads'

// The rows are those of the sequence (lane.row), the columns those of one square at a time.
struct Long : Sequence<Square> {
  const Workspace& w;
  const int local, tile;  // number in the workspace, and of the row of squares
  const int place;        // of this thread among what all set aside
  float* shared;

  RKA_DEVICE Long(const Problem& p, const Workspace& w, int local, int tile, float* shared)
      : Sequence<Square>(p, w.first + local, Lane(SIDE * tile)),
        w(w),
        local(local),
        tile(tile),
        place(kept(4 * thread_index())),
        shared(shared) {}

  RKA_DEVICE float* buffer(int i) const { return shared + i * Square::SQUARE; }

  // Bit j: key j of the square exists. There after the next barrier.
  RKA_DEVICE uint32_t* existing() const {
    return reinterpret_cast<uint32_t*>(shared + 2 * Square::SQUARE);
  }
  RKA_DEVICE void describe_keys() const {
#pragma unroll 1
    for (int j = lane.warp; j < w.key_squares; j += WARPS) {
      uint32_t words[2];
      for (int i = 0; i < 2; ++i) {
        const int key = SIDE * j + LANES * i + lane.lane;
        const bool inside = key < p.keys;
        const uint8_t* padding = p.padding + int64_t(b) * p.keys + (inside ? key : 0);
        words[i] = ballot(inside && !(p.padding && *padding));
      }
      if (lane.lane < 2) existing()[2 * j + lane.lane] = lane.lane ? words[1] : words[0];
    }
  }
  RKA_DEVICE uint64_t exist(int j) const {
    return uint64_t(existing()[2 * j + 1]) << 32 | existing()[2 * j];
  }

  // Of the square's columns, and to the end of their last strip.
  RKA_DEVICE int keys_of(int j) const {
    return p.keys - SIDE * j < SIDE ? p.keys - SIDE * j : SIDE;
  }
  RKA_DEVICE int whole_keys_of(int j) const { return (keys_of(j) + STRIP - 1) / STRIP * STRIP; }

  // Squares that the block's rows see, and pairs of tiles of one that the warp's rows do.
  RKA_DEVICE int seen_squares() const {
    return p.causal && tile < w.key_squares ? tile + 1 : w.key_squares;
  }
  RKA_DEVICE int pairs_of(int j) const {
    const int all = whole_keys_of(j) / STRIP, seen = (lane.first_row - SIDE * j) / STRIP + 1;
    return lane.first_row >= p.rows ? 0 : p.causal && seen < all ? seen : all;
  }

  RKA_DEVICE Rows rows_of(int head, int j) const {
    Rows r;
    const uint64_t keys = exist(j);
    for (int half = 0; half < 2; ++half) {
      const int row = lane.row(half), last = row - SIDE * j;
      const uint64_t before = !p.causal || last >= SIDE - 1 ? ~uint64_t(0)
                              : last < 0                    ? 0
                                                            : (uint64_t(2) << last) - 1;
      r.seen[half] = row < p.rows ? keys & before : 0;
    }
    r.settle(p, lane, b, head, SIDE * j);
    r.pairs = pairs_of(j);
    return r;
  }

  // Starts the copy of a square that lies in one piece.
  template <class S>
  RKA_DEVICE void fetch_square(float* to, const float* from) const {
    const int row = place / SIDE, column = place % SIDE;
    to += row * S::PITCH + column, from += row * SIDE + column;
#pragma unroll
    for (int r = 0; r < SIDE; r += WARPS * LANES / 16) {
      copy_four(to + r * S::PITCH, from + r * SIDE);
    }
    end_of_copies();
  }

  // Starts the copy of the square's keys, its columns from `column` on, of a (B, H, m, width)
  // tensor.
  template <class S>
  RKA_DEVICE void fetch_heads(float* to, const Heads& x, int head, int j, int column) const {
    const int64_t first = b * x.batch + head * x.head + SIDE * j * x.row + column;
    const int width = columns_from(column, x.width), rows = whole_keys_of(j);
    if (p.scalar == Scalar::float32) {
      fetch_rows<S>(to, static_cast<const float*>(x.data) + first, x.row, width, rows, exist(j));
    } else {
      const uint16_t* from = static_cast<const uint16_t*>(x.data) + first;
      fetch_half_rows<S>(to, from, p.scalar, x.row, width, rows, exist(j));
    }
  }

  // Of the block's rows of a (B, H, n, width) tensor, where they are summed over.
  RKA_DEVICE void fetch_rows_of(float* to, const Heads& x, int head, int column, int rows) const {
    const int64_t first = b * x.batch + head * x.head + int64_t(SIDE) * tile * x.row + column;
    const int width = columns_from(column, x.width);
    const uint64_t some = ~uint64_t(0) >> (SIDE - rows);
    if (p.scalar == Scalar::float32) {
      fetch_rows<ByColumns>(to, static_cast<const float*>(x.data) + first, x.row, width, SIDE,
                            some);
    } else {
      const uint16_t* from = static_cast<const uint16_t*>(x.data) + first;
      fetch_half_rows<ByColumns>(to, from, p.scalar, x.row, width, SIDE, some);
    }
  }

  // What this thread sets aside: tile k of its warp's strip, of squares one after the other.
  template <class T>
  RKA_DEVICE T* own(T* squares, int k) const {
    return squares + k * TILE_FLOATS + place;
  }
};

// out += in rows' or in columns, with the right operand by rows or by columns: the left one comes
// tile by tile from left(k). `diagonal`: the right operand is L's square on the diagonal. WHOLE:
// all pairs of tiles are wanted, which needs no questions.
template <bool COLUMNS, bool WHOLE, class F>
RKA_DEVICE void multiply_tiles(const Lane& l, Strip<Square::TILES>& out, F left, int depth,
                               const float* right, int pairs, bool diagonal) {
  constexpr int P = COLUMNS ? ByColumns::PITCH : Square::PITCH, STEP = COLUMNS ? 8 * P : 8;
  right += kept(COLUMNS ? 2 * l.t * P + l.g : l.g * P + 2 * l.t);
  if (depth == 0) return;
  Four next = left(0);
#pragma unroll 1
  for (int k = 0; k < depth; ++k, right += STEP) {
    const Left a = left_operand(next[0], next[2], next[1], next[3]);
    next = left(k + 1 < depth ? k + 1 : k);  // on its way meanwhile
    const int first = !WHOLE && !COLUMNS && diagonal ? k / 2 : 0,
              end = !WHOLE && COLUMNS && diagonal && k / 2 < pairs ? k / 2 + 1 : pairs;
#pragma unroll
    for (int i = 0; i < Square::TILES / 2; ++i) {
      if (!WHOLE && (i < first || i >= end)) continue;
      const float* at = right + 16 * i * (COLUMNS ? 1 : P);
      if constexpr (COLUMNS) {
        multiply_add(out[2 * i], out[2 * i + 1], a, {at[0], at[P]}, {at[8], at[P + 8]});
      } else {
        multiply_add(out[2 * i], out[2 * i + 1], a, load_pair(at), load_pair(at + 8 * P));
      }
    }
  }
}
template <bool COLUMNS, class F>
RKA_DEVICE void multiply_tiles(const Lane& l, Strip<Square::TILES>& out, F left, int depth,
                               const float* right, int pairs, bool diagonal) {
  if (2 * pairs == Square::TILES && !diagonal) {
    multiply_tiles<COLUMNS, true>(l, out, left, depth, right, pairs, diagonal);
  } else {
    multiply_tiles<COLUMNS, false>(l, out, left, depth, right, pairs, diagonal);
  }
}

}  // namespace rka::cuda
