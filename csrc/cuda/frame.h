// A block's view of its sequence: shared memory, the tile in hand, reductions over its rows.
#pragma once

#include "philox.h"
#include "problem.h"

namespace rka::cuda {

// Rows t0 .. t0 + rows of one head, columns 0 .. cols4; nothing beyond is attended. The first row
// is at `position` among the keys.
struct Tile {
  int head, t0, rows, cols4, position;
};

enum RowValue { OWN, LARGEST, Q, PROJECTION, TOTAL, SHARE_0, SHARE_1, SHARE_2 };
enum KeyValue { ITEM_NORM, USER_NORM, SUPPORT, EXISTS };

template <class Block>
struct Frame {
  const Block& block;
  const Problem& p;
  int b;  // sequence
  float *factor, *tile[4], *stage, *partial, *row_values, *key_values, *diagonal, *failed;
  float *d_covariance, *saved[SAVED_TILES];  // global memory

  RKA_DEVICE Frame(const Block& block, const Problem& p, int b, int64_t index, float* shared)
      : block(block), p(p), b(b) {
    const Layout& l = p.layout;
    float* scratch = p.scratch + index * p.scratch_per_block;
    if constexpr (Block::factor_in_shared) {
      factor = shared;
      shared += l.factor_size();
    } else {
      factor = scratch;
      scratch += l.factor_size();
    }
    for (int i = 0; i < 4; ++i) tile[i] = shared + (i < l.tiles ? i : 0) * l.tile_size();
    stage = shared + l.tiles * l.tile_size();
    partial = stage + l.stage_size();
    row_values = partial + PARTIALS * THREADS;
    key_values = row_values + ROW_VALUES * l.tile_rows;
    diagonal = key_values + KEY_VALUES * l.keys4;
    failed = diagonal + 16;
    d_covariance = scratch;
    scratch += (int64_t(p.keys) * p.keys + 3) / 4 * 4;
    for (float*& s : saved) {
      s = scratch;
      scratch += l.tile_size();
    }
  }

  // What is computed where it is needed leaves the registers to every call.
  RKA_DEVICE float* d_gated() const { return saved[SAVED_TILES - 1] + p.layout.tile_size(); }

  // A table of every thread's own.
  RKA_DEVICE float* time_sums() const {
    return d_gated() + (int64_t(p.keys) * p.feature_width + 3) / 4 * 4;
  }

  RKA_DEVICE int tile_count() const {
    return (p.rows + p.layout.tile_rows - 1) >> p.layout.tile_shift;
  }
  RKA_DEVICE Tile tile_at(int head, int index) const {
    const int t0 = index << p.layout.tile_shift, R = p.layout.tile_rows;
    const int rows = p.rows - t0 < R ? p.rows - t0 : R, position = t0 + p.row_offset;
    const int cols = p.causal ? (position + rows + 3) / 4 * 4 : p.layout.keys4;
    return {head, t0, rows, cols, position};
  }
  // All keys as rows, for what concerns the covariance.
  RKA_DEVICE Tile key_tile(int index) const {
    const int t0 = index << p.layout.tile_shift, R = p.layout.tile_rows;
    return {0, t0, p.keys - t0 < R ? p.keys - t0 : R, p.layout.keys4, t0};
  }
  RKA_DEVICE int key_tile_count() const {
    return (p.keys + p.layout.tile_rows - 1) >> p.layout.tile_shift;
  }

  RKA_DEVICE float& row_value(int which, int r) const {
    return row_values[(which << p.layout.tile_shift) + r];
  }
  RKA_DEVICE float& key_value(int which, int j) const {
    return key_values[which * p.layout.keys4 + j];
  }
  RKA_DEVICE bool exists(int j) const { return key_value(EXISTS, j) != 0.0f; }
  RKA_DEVICE bool allowed(const Tile& t, int j, int r) const {
    if (r >= t.rows || !exists(j) || (p.causal && j > t.position + r)) return false;
    return !p.mask.data || p.mask.at(b, t.head, t.t0 + r, j);
  }
  RKA_DEVICE int time_bucket_of(const Tile& t, int j, int r) const {
    return time_bucket(p.time_edges, p.row_times[int64_t(b) * p.rows + t.t0 + r],
                       p.key_times[int64_t(b) * p.keys + j]);
  }
  RKA_DEVICE int64_t noise_head(const Tile& t) const { return int64_t(b) * p.heads + t.head; }
  RKA_DEVICE int at(int j, int r) const { return j * p.layout.pitch + r; }

  // f(j, r) over the tile, rows fastest.
  template <class F>
  RKA_DEVICE void elements(int cols, F f) const {
    const int shift = p.layout.tile_shift;
    block.for_each(cols << shift, [&](int i) { f(i >> shift, i & ((1 << shift) - 1)); });
  }

  // f(j, r) over the tile, columns fastest: for matrices in global memory.
  template <class F>
  RKA_DEVICE void elements_by_row(int cols, F f) const {
    block.for_each(cols << p.layout.tile_shift, [&](int i) { f(i % cols, i / cols); });
  }

  RKA_DEVICE void copy_tile(int cols, const float* from, float* to) const {
    elements(cols, [&](int j, int r) { to[at(j, r)] = from[at(j, r)]; });
  }

  // For every row r: f(unit, r, sums) for all units, then done(r, totals). The order of the
  // additions depends on the layout only.
  template <int K, class F, class G>
  RKA_DEVICE void row_sums(int units, F f, G done) const {
    const int R = p.layout.tile_rows, shift = p.layout.tile_shift, parts = THREADS >> shift;
    block.for_each(THREADS, [&](int i) {
      float sums[K] = {};
      for (int unit = i >> shift; unit < units; unit += parts) f(unit, i & (R - 1), sums);
      for (int k = 0; k < K; ++k) partial[k * THREADS + i] = sums[k];
    });
    block.for_each(R, [&](int r) {
      float totals[K] = {};
      for (int part = 0; part < parts; ++part) {
        for (int k = 0; k < K; ++k) totals[k] += partial[k * THREADS + (part << shift) + r];
      }
      done(r, totals);
    });
  }

  // Which thread has column j of row r of a tile, in `elements` and in `row_sums` with a unit for
  // each column.
  RKA_DEVICE int thread_of(int j, int r) const {
    const int shift = p.layout.tile_shift;
    return (j & ((THREADS >> shift) - 1)) << shift | r;
  }

  // row_value(LARGEST, r) = the largest f(j, r), at least `lowest`; NaN is passed over.
  template <class F>
  RKA_DEVICE void row_largest(int cols, float lowest, F f) const {
    const int R = p.layout.tile_rows, shift = p.layout.tile_shift, parts = THREADS >> shift;
    block.for_each(THREADS, [&](int i) {
      float largest = lowest;
      for (int j = i >> shift; j < cols; j += parts) {
        const float x = f(j, i & (R - 1));
        largest = x > largest ? x : largest;
      }
      partial[i] = largest;
    });
    block.for_each(R, [&](int r) {
      float largest = lowest;
      for (int part = 0; part < parts; ++part) {
        const float x = partial[(part << shift) + r];
        largest = x > largest ? x : largest;
      }
      row_value(LARGEST, r) = largest;
    });
  }

  RKA_DEVICE Matrix rows_of(const Heads& x, int head, int first) const {
    const int64_t offset = b * x.batch + head * x.head + first * x.row;
    const int size = p.scalar == Scalar::float32 ? 4 : 2;
    return {static_cast<const char*>(x.data) + offset * size, x.row, p.scalar};
  }
};

}  // namespace rka::cuda
