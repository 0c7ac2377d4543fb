// One block's view of its sequence in the kernels for short sequences: shared memory, who exists,
// who is seen, and rows on their way between global memory, shared memory and strips. What long
// sequences need beside it is in long_sequence.h.
#pragma once

#include "problem.h"
#include "strip.h"

namespace rka::cuda {

// Which keys the warp's rows may see. Bit 8 j + c of `seen` is column 8 j + 2 t + c, of row g and
// of row g + 8; `pairs` of tiles hold all of them.
struct Rows {
  uint64_t seen[2];
  int count[2];  // of keys seen by the row
  int pairs;

  RKA_DEVICE bool allowed(int tile, int c) const {
    return seen[c >> 1] >> (8 * tile + (c & 1)) & 1;
  }
  // In the lane that has the diagonal element.
  RKA_DEVICE bool sees_itself(const Lane& l, int half) const {
    return seen[half] >> (l.row(half) - 2 * l.t) & 1;
  }

  // From the bits of 64 columns, `first` and the next ones, for every row: takes away what the
  // mask of a head hides, counts, and moves the bits to where the thread has columns.
  RKA_DEVICE void settle(const Problem& p, const Lane& l, int b, int head, int first) {
    if (p.mask.data) {
#pragma unroll 1
      for (int i = 0; i < STRIP; ++i) {
        const int row = l.first_row + i, j = first + l.lane, k = j + LANES;
        const bool inside = row < p.rows;
        const uint32_t low = ballot(inside && j < p.keys && p.mask.at(b, head, row, j));
        const uint32_t high = ballot(inside && k < p.keys && p.mask.at(b, head, row, k));
        const uint64_t bits = uint64_t(high) << 32 | low;
        if (l.g == i) seen[0] &= bits;
        if (l.g + 8 == i) seen[1] &= bits;
      }
    }
    for (int half = 0; half < 2; ++half) {
      count[half] = bits_of(seen[half]);
      seen[half] >>= 2 * l.t;
    }
  }
};

// Whether rows `stride` apart can be read and written two numbers at a time.
template <class T>
RKA_DEVICE bool in_pairs(const T* x, int64_t stride, int width) {
  return (reinterpret_cast<uintptr_t>(x) / sizeof(T) & 1) == 0 && ((stride | width) & 1) == 0;
}
// This thread's part of `width` columns of a matrix into a square, with zeros beyond: rows first,
// first + STEP, ... of those whose bit is set, zeros for the others.
template <class S, int STEP = WARPS>
RKA_DEVICE void fetch_rows(float* to, const float* from, int64_t stride, int width, int rows,
                           uint64_t exists, int first = thread_index() / LANES) {
  const int c = 2 * kept(thread_index() % LANES);
  if (c < S::SIZE) {
    to += first * S::PITCH + c;
    from += first * stride + (c < width ? c : 0);
    uint64_t left = c < width ? exists >> first : 0;
    if (in_pairs(from, stride, width)) {
      constexpr int AT_ONCE = STEP == 1 ? 8 : S::TILES;  // all rows are a multiple
#pragma unroll 1
      for (int r = 0; r < rows; r += AT_ONCE * STEP) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
          copy_pair(to + i * STEP * S::PITCH, from, uint32_t(left) & 1u << i * STEP);
          from += STEP * stride;
        }
        to += AT_ONCE * STEP * S::PITCH, left >>= AT_ONCE * STEP;
      }
    } else {
      const bool second = c + 1 < width;
#pragma unroll 1
      for (int r = 0; r < rows; r += STEP) {
        copy_one(to, from, left & 1);
        copy_one(to + 1, from + second, second && left & 1);
        to += STEP * S::PITCH, from += STEP * stride, left >>= STEP;
      }
    }
  }
  end_of_copies();
}
RKA_DEVICE Pair widen_pair(uint32_t word, Scalar scalar) {
  return {widen(uint16_t(word), scalar), widen(uint16_t(word >> 16), scalar)};
}
// The same of a matrix in half precision; not in the background, as it is widened on its way.
template <class S, int STEP = WARPS>
RKA_DEVICE void fetch_half_rows(float* to, const uint16_t* from, Scalar scalar, int64_t stride,
                                int width, int rows, uint64_t exists,
                                int first = thread_index() / LANES) {
  constexpr int AT_ONCE = 8;  // rows whose arrival is waited for together
  const int c = 2 * kept(thread_index() % LANES);
  if (c < S::SIZE) {
    to += first * S::PITCH + c;
    from += first * stride + c;
    uint64_t left = exists >> first;
    const bool pairs = in_pairs(from, stride, width);
#pragma unroll 1
    for (int r = 0; r < rows; r += AT_ONCE * STEP) {
      uint32_t x[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) {
        const bool there = left >> STEP * i & 1;
        x[i] = load_constant_halves(from + i * STEP * stride, there ? width - c : 0, pairs);
      }
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) {
        if (r + i * STEP >= rows) continue;
        const Pair u = widen_pair(x[i], scalar);
        store_pair(to + i * STEP * S::PITCH, u.x, u.y);
      }
      to += AT_ONCE * STEP * S::PITCH, from += AT_ONCE * STEP * stride, left >>= AT_ONCE * STEP;
    }
  }
  end_of_copies();
}

template <class S>
struct Sequence {
  const Problem& p;
  const int b;
  const Lane lane;
  float* square;  // K, then L with L' above the diagonal
  float *item_norm, *user_norm, *support, *gate_squared;
  float* rounded;   // of each warp: not zero if some count is not exact in TF32
  uint64_t exists;  // bit j: key j exists

  RKA_DEVICE Sequence(const Problem& p, int b, float* shared) : p(p), b(b) {
    square = shared;
    item_norm = square + 3 * S::SQUARE, user_norm = item_norm + S::SIZE;
    support = user_norm + S::SIZE, gate_squared = support + S::SIZE;
    rounded = gate_squared + S::SIZE;
    if (p.padding) {
      const uint8_t* padding = p.padding + int64_t(b) * p.keys;
      const int j = lane.lane, k = j + LANES;
      const uint32_t low = ballot(j < p.keys && !padding[j < p.keys ? j : 0]);
      const uint32_t high = ballot(k < p.keys && !padding[k < p.keys ? k : 0]);
      exists = uint64_t(high) << 32 | low;
    } else {
      exists = all_keys();
    }
  }

  // Of a longer sequence some rows: what is read and written by them, and nothing of its keys.
  RKA_DEVICE Sequence(const Problem& p, int b, const Lane& lane) : p(p), b(b), lane(lane) {}

  // Two squares for right operands, fetched ahead. (Arithmetic, not an array of pointers: the
  // compiler has to see that this is shared memory.)
  RKA_DEVICE float* buffer(int i) const { return square + (1 + i) * S::SQUARE; }
  RKA_DEVICE uint64_t all_rows() const { return ~uint64_t(0) >> (64 - p.rows); }
  RKA_DEVICE uint64_t all_keys() const { return ~uint64_t(0) >> (64 - p.keys); }
  RKA_DEVICE float* sums() const { return rounded + WARPS; }  // backward: eight of each warp, and
  RKA_DEVICE float* extra() const { return sums() + 8 * WARPS; }  // a square, or a row of each
  RKA_DEVICE bool has(int key) const { return exists >> key & 1; }
  // Rows beyond the square repeat its last one; they see nothing and are stored nowhere.
  RKA_DEVICE int row_in_square(int half) const {
    const int row = lane.row(half);
    return row < S::SIZE ? row : S::SIZE - 1;
  }
  RKA_DEVICE const float* counts() const { return p.cooccurrence + int64_t(b) * p.keys * p.keys; }
  RKA_DEVICE int64_t noise_head(int head) const { return int64_t(b) * p.heads + head; }

  RKA_DEVICE void clear(float* x) const {
#pragma unroll 1
    for (int i = 4 * thread_index(); i < S::SQUARE; i += 4 * WARPS * LANES) {
      store4(x + i, {{0.0f, 0.0f, 0.0f, 0.0f}});
    }
  }
  // The warp's rows into a square and back, and the warp's columns of a square as rows.
  RKA_DEVICE void put(const Strip<S::TILES>& x, float* to) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (lane.row(half) >= S::SIZE) continue;
      float* at = to + kept(lane.row(half) * S::PITCH + 2 * lane.t);
#pragma unroll
      for (int j = 0; j < S::TILES; ++j) {
        store_pair(at + 8 * j, x[j][2 * half], x[j][2 * half + 1]);
      }
    }
  }
  RKA_DEVICE Strip<S::TILES> get(const float* from) const {
    Strip<S::TILES> x;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* at = from + kept(row_in_square(half) * S::PITCH + 2 * lane.t);
#pragma unroll
      for (int j = 0; j < S::TILES; ++j) {
        const Pair u = load_pair(at + 8 * j);
        x[j][2 * half] = u.x, x[j][2 * half + 1] = u.y;
      }
    }
    return x;
  }
  RKA_DEVICE Strip<S::TILES> transposed(const float* from) const {
    Strip<S::TILES> x;
    const float* at[2];
    for (int half = 0; half < 2; ++half) {
      at[half] = from + kept(2 * lane.t * S::PITCH + row_in_square(half));
    }
#pragma unroll
    for (int j = 0; j < S::TILES; ++j) {
      for (int c = 0; c < 4; ++c) x[j][c] = at[c / 2][(8 * j + c % 2) * S::PITCH];
    }
    return x;
  }

  // Starts the copy of the rows of keys that exist, zeros for the others.
  RKA_DEVICE void fetch(float* to, const float* from, int64_t stride, int width,
                        uint64_t some) const {
    fetch_rows<S>(to, from, stride, width, S::SIZE, some, lane.warp);
  }
  RKA_DEVICE void fetch(float* to, const float* from, int64_t stride, int width) const {
    fetch(to, from, stride, width, exists);
  }
  // The counts of every key: one that does not exist may still ask, and then its own count.
  RKA_DEVICE void fetch_counts() const { fetch(buffer(1), counts(), p.keys, p.keys, all_keys()); }
  // A square's columns from `column` on of a (B, H, keys, width) tensor.
  RKA_DEVICE void fetch_heads(float* to, const Heads& x, int head, int column) const {
    fetch_some<WARPS>(to, x, head, column, lane.warp, S::SIZE, exists);
  }
  // All rows of a (B, H, n, width) tensor, where rows are summed over.
  RKA_DEVICE void fetch_queries(float* to, const Heads& x, int head, int column) const {
    fetch_some<WARPS>(to, x, head, column, lane.warp, S::SIZE, all_rows());
  }
  // The warp's own.
  RKA_DEVICE void fetch_own(float* to, const Heads& x, int head, int column) const {
    const int left = S::SIZE - lane.first_row;
    fetch_some<1>(to, x, head, column, lane.first_row, left < STRIP ? left : STRIP, all_rows());
  }
  template <int STEP>
  RKA_DEVICE void fetch_some(float* to, const Heads& x, int head, int column, int first_row,
                             int rows, uint64_t some) const {
    const int64_t first = b * x.batch + head * x.head + column;
    const int width = columns_from(column, x.width);
    if (p.scalar == Scalar::float32) {
      const float* from = static_cast<const float*>(x.data) + first;
      fetch_rows<S, STEP>(to, from, x.row, width, rows, some, first_row);
    } else {
      const uint16_t* from = static_cast<const uint16_t*>(x.data) + first;
      fetch_half_rows<S, STEP>(to, from, p.scalar, x.row, width, rows, some, first_row);
    }
  }
  RKA_DEVICE int columns_from(int column, int width) const {
    return width - column < S::SIZE ? width - column : S::SIZE;
  }
  // This thread's part of the counts' diagonal becomes zero. To be called when its copies are
  // complete, before the barrier.
  RKA_DEVICE void clear_diagonal() const {
    const int r = 2 * lane.lane + ((2 * lane.lane) % WARPS != lane.warp);
    if (r % WARPS == lane.warp && r < S::SIZE) buffer(1)[r * (S::PITCH + 1)] = 0.0f;
  }

  // The warp's rows of a (B, H, n, width) tensor from `column` on, zeros beyond.
  RKA_DEVICE Strip<S::TILES> load(const Heads& x, int head, int column) const {
    if (p.scalar != Scalar::float32) return load_halves(x, head, column);
    const float* from = static_cast<const float*>(x.data) + b * x.batch + head * x.head + column;
    const bool pairs = in_pairs(from, x.row, x.width);
    const int width = x.width - column - 2 * lane.t;
    Strip<S::TILES> strip;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane.row(half), left = row < p.rows ? width : 0;
      const float* at = from + (row < p.rows ? row : 0) * x.row + 2 * lane.t;
      if (pairs) {
#pragma unroll
        for (int j = 0; j < S::TILES; ++j) {
          const Pair u = load_constant_pair(at + 8 * j, 8 * j < left);
          strip[j][2 * half] = u.x, strip[j][2 * half + 1] = u.y;
        }
      } else {
#pragma unroll
        for (int j = 0; j < S::TILES; ++j) {
          for (int c = 0; c < 2; ++c) {
            strip[j][2 * half + c] = 8 * j + c < left ? at[8 * j + c] : 0.0f;
          }
        }
      }
    }
    return strip;
  }

  RKA_DEVICE Strip<S::TILES> load_halves(const Heads& x, int head, int column) const {
    const int64_t first = b * x.batch + head * x.head + column;
    const uint16_t* from = static_cast<const uint16_t*>(x.data) + first;
    const bool pairs = in_pairs(from, x.row, x.width);
    const int width = x.width - column - 2 * lane.t;
    Strip<S::TILES> strip;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane.row(half), left = row < p.rows ? width : 0;
      const uint16_t* at = from + (row < p.rows ? row : 0) * x.row + 2 * lane.t;
#pragma unroll
      for (int j = 0; j < S::TILES; ++j) {
        const uint32_t word = load_constant_halves(at + 8 * j, left - 8 * j, pairs);
        const Pair u = widen_pair(word, p.scalar);
        strip[j][2 * half] = u.x, strip[j][2 * half + 1] = u.y;
      }
    }
    return strip;
  }

  // The warp's rows of the output from `column` on, in its type.
  RKA_DEVICE void store_output(const Strip<S::TILES>& x, int head, int column) const {
    const int width = p.value.width, columns = columns_from(column, width);
    const int64_t first = noise_head(head) * p.rows * width + column;
    if (p.scalar == Scalar::float32) {
      store(x, static_cast<float*>(p.output) + first, p.rows, width, columns);
    } else if (p.scalar == Scalar::float16) {
      store_halves(x, static_cast<Float16*>(p.output) + first, columns);
    } else {
      store_halves(x, static_cast<BFloat16*>(p.output) + first, columns);
    }
  }
  template <class T>
  RKA_DEVICE void store_halves(const Strip<S::TILES>& x, T* to, int width) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane.row(half), left = row < p.rows ? width - 2 * lane.t : 0;
      T* at = to + row * p.value.width + 2 * lane.t;
#pragma unroll
      for (int j = 0; j < S::TILES; ++j) {
        for (int c = 0; c < 2; ++c) {
          if (8 * j + c < left) narrow(x[j][2 * half + c], at + 8 * j + c);
        }
      }
    }
  }

  // The warp's rows into `width` columns of a matrix.
  RKA_DEVICE void store(const Strip<S::TILES>& x, float* to, int rows, int stride,
                        int width) const {
    const bool pairs = in_pairs(to, stride, width);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane.row(half), left = row < rows ? width - 2 * lane.t : 0;
      float* at = to + row * stride + 2 * lane.t;
      if (pairs) {
#pragma unroll
        for (int j = 0; j < S::TILES; ++j) {
          if (8 * j < left) store_pair(at + 8 * j, x[j][2 * half], x[j][2 * half + 1]);
        }
      } else {
#pragma unroll
        for (int j = 0; j < S::TILES; ++j) {
          if (8 * j < left) at[8 * j] = x[j][2 * half];
          if (8 * j + 1 < left) at[8 * j + 1] = x[j][2 * half + 1];
        }
      }
    }
  }

  RKA_DEVICE Rows rows_of(int head) const {
    Rows r;
    for (int half = 0; half < 2; ++half) {
      const int row = lane.row(half);
      const uint64_t before = p.causal ? (uint64_t(2) << row) - 1 : ~uint64_t(0);
      r.seen[half] = row < p.rows ? exists & before : 0;
    }
    r.settle(p, lane, b, head, 0);
    const int all = (p.keys + STRIP - 1) / STRIP, seen = p.causal ? lane.warp + 1 : all;
    r.pairs = lane.first_row >= p.rows ? 0 : seen < all ? seen : all;
    return r;
  }
};

// The sum of x over the block, for thread 0, after the next barrier.
template <class S>
RKA_DEVICE void add_up(const Sequence<S>& s, int which, float x) {
  for (int mask = 1; mask < LANES; mask *= 2) x += shuffle_xor(x, mask);
  if (s.lane.lane == 0) s.sums()[8 * s.lane.warp + which] = x;
}
template <class S>
RKA_DEVICE float added_up(const Sequence<S>& s, int which) {
  float sum = 0.0f;
  for (int w = 0; w < WARPS; ++w) sum += s.sums()[8 * w + which];
  return sum;
}

}  // namespace rka::cuda
