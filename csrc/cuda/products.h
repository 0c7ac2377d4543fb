// The dense products of a tile: row by row with vectors from global memory, weights times such
// vectors, and outer products summed over the rows of the tile.
#pragma once

#include "frame.h"

namespace rka::cuda {

// out[j][r] = factor * sum_k x(r, k) y(j, k), channels staged `depth` at a time.
template <class F, class X, class Y>
RKA_DEVICE void dot_products(const F& f, int width, int cols4, float factor, X x, Y y, float* out) {
  const Layout& l = f.p.layout;
  const int R = l.tile_rows, shift = l.tile_shift - 2, depth = l.depth;
  for (int k0 = 0; k0 < width; k0 += depth) {
    const int channels = width - k0 < depth ? width - k0 : depth;
    // Four rows of eight channels to a warp: whole sectors are read and no two banks collide.
    f.block.for_each((R + cols4) * depth, [&](int i) {
      const int k = i / 4 % depth, row = i / (4 * depth) * 4 + i % 4;
      if (k >= channels) return;
      f.stage[k * l.stage_pitch + row] = row < R ? x(row, k0 + k) : y(row - R, k0 + k);
    });
    const bool last = k0 + depth >= width;
    f.block.for_each(cols4 / 4 << shift, [&](int i) {
      const int g = i & ((1 << shift) - 1), j = i >> shift;
      Four sums[4] = {};
      if (k0 > 0) {
        for (int c = 0; c < 4; ++c) sums[c] = load4(out + f.at(4 * j + c, 4 * g));
      }
      for (int k = 0; k < channels; ++k) {
        const float* channel = f.stage + k * l.stage_pitch;
        const Four a = load4(channel + 4 * g), b = load4(channel + R + 4 * j);
        for (int c = 0; c < 4; ++c) {
          for (int r = 0; r < 4; ++r) sums[c][r] = fmaf(a[r], b[c], sums[c][r]);
        }
      }
      for (int c = 0; c < 4; ++c) {
        if (last) {
          for (int r = 0; r < 4; ++r) sums[c][r] *= factor;
        }
        store4(out + f.at(4 * j + c, 4 * g), sums[c]);
      }
    });
  }
}

// Scores of the tile's rows with the keys; what a missing key holds is not read.
template <class F>
RKA_DEVICE void scores(const F& f, const Tile& t, const Heads& query, const Heads& key,
                       float factor, float* out) {
  const Matrix q = f.rows_of(query, t.head, t.t0), k = f.rows_of(key, t.head, 0);
  dot_products(
      f, query.width, t.cols4, factor, [&](int r, int c) { return r < t.rows ? q(r, c) : 0.0f; },
      [&](int j, int c) { return f.exists(j) ? k(j, c) : 0.0f; }, out);
}

// emit(r, c, sum_j weights[j][r] y[j][c]) over the keys that exist; y (m, width) in memory.
template <class T, class F, class E>
RKA_DEVICE void weighted_rows_of(const F& f, const Tile& t, const float* weights, const T* y,
                                 int64_t pitch, int width, E emit) {
  constexpr int COLUMNS = 2;
  const int lanes = (width + COLUMNS - 1) / COLUMNS, keys = f.p.keys;
  const int cols = t.cols4 < keys ? t.cols4 : keys;
  f.block.for_each(f.p.layout.tile_rows / 4 * lanes, [&](int i) {
    const int lane = i % lanes, g = i / lanes;
    Four sums[COLUMNS] = {};
    for (int j = 0; j < cols; ++j) {
      const bool exists = f.exists(j);  // no branch: the loads of several keys are in flight
      const Four w = load4(weights + f.at(j, 4 * g));
      for (int c = 0; c < COLUMNS; ++c) {
        const int column = lane + c * lanes;
        const float v = exists && column < width ? widen(y[j * pitch + column]) : 0.0f;
        for (int r = 0; r < 4; ++r) sums[c][r] = fmaf(w[r], v, sums[c][r]);
      }
    }
    for (int c = 0; c < COLUMNS; ++c) {
      const int column = lane + c * lanes;
      for (int r = 0; r < 4 && column < width; ++r) {
        if (4 * g + r < t.rows) emit(4 * g + r, column, sums[c][r]);
      }
    }
  });
}

template <class F, class E>
RKA_DEVICE void weighted_rows(const F& f, const Tile& t, const float* weights, const Heads& y,
                              E emit) {
  const Matrix rows = f.rows_of(y, t.head, 0);
  with_type(f.p.scalar, [&](auto type) {
    weighted_rows_of(f, t, weights, static_cast<const decltype(type)*>(rows.data), y.row, y.width,
                     emit);
  });
}

// emit(i, j, sum_r a[i][r] b[j][r] + c[i][r] d[j][r]) for i < rows, j < cols; c may be null. With
// LOWER, squares of 32 above the diagonal are left out. Eight neighbouring threads hold
// neighbouring columns: their loads never collide and their stores are contiguous.
template <bool LOWER, class F, class E>
RKA_DEVICE void outer_products(const F& f, int rows, const float* a, const float* c, int cols,
                               const float* b, const float* d, int b_pitch, E emit) {
  const int R = f.p.layout.tile_rows, pitch = f.p.layout.pitch;
  const int squares_i = (rows + 31) / 32, squares_j = (cols + 31) / 32;
  f.block.for_each(squares_i * squares_j * 64, [&](int unit) {
    const int square_i = (unit >> 6) / squares_j, square_j = (unit >> 6) % squares_j;
    const int i0 = 32 * square_i + (unit >> 3 & 7), j0 = 32 * square_j + (unit & 7);
    if ((LOWER && square_i < square_j) || i0 >= rows || j0 >= cols) return;
    float sums[4][4] = {};
    const auto add = [&](const float* x, const float* y) {
      for (int r = 0; r < R; r += 4) {
        Four u[4], v[4];
        for (int n = 0; n < 4; ++n) {  // beyond the edge: any row, its sum is dropped
          u[n] = load4(x + (i0 + 8 * n < rows ? i0 + 8 * n : i0) * pitch + r);
          v[n] = load4(y + (j0 + 8 * n < cols ? j0 + 8 * n : j0) * b_pitch + r);
        }
        for (int n = 0; n < 4; ++n) {
          for (int m = 0; m < 4; ++m) {
            for (int k = 0; k < 4; ++k) sums[n][m] = fmaf(u[n][k], v[m][k], sums[n][m]);
          }
        }
      }
    };
    add(a, b);
    if (c) add(c, d);
    for (int n = 0; n < 4; ++n) {
      for (int m = 0; m < 4; ++m) {
        const int i = i0 + 8 * n, j = j0 + 8 * m;
        if (i < rows && j < cols && (!LOWER || i >= j)) emit(i, j, sums[n][m]);
      }
    }
  });
}

// gradient[j][c] += factor * sum_r weights[j][r] x[r][c] over the tile's rows x of a (B, H, n, d)
// tensor; zero where the key does not exist. `gradient` is (B, H, m, d).
template <class F>
RKA_DEVICE void accumulate_keys(const F& f, const Tile& t, const float* weights, const Heads& x,
                                float factor, float* gradient) {
  if (!gradient) return;
  const Layout& l = f.p.layout;
  const int R = l.tile_rows, width = x.width, keys = f.p.keys;
  const int fits = int(l.stage_size()) / l.pitch, chunk = fits < width ? fits : width;
  const Matrix rows = f.rows_of(x, t.head, t.t0);
  float* out = gradient + f.noise_head(t) * keys * width;
  for (int c0 = 0; c0 < width; c0 += chunk) {
    const int channels = width - c0 < chunk ? width - c0 : chunk;
    f.block.for_each(R * channels, [&](int i) {
      const int r = i / channels, c = i % channels;
      f.stage[c * l.pitch + r] = r < t.rows ? rows(r, c0 + c) : 0.0f;
    });
    const float* none = nullptr;
    outer_products<false>(f, t.cols4 < keys ? t.cols4 : keys, weights, none, channels, f.stage,
                          none, l.pitch, [&](int j, int c, float sum) {
                            if (f.exists(j)) out[int64_t(j) * width + c0 + c] += factor * sum;
                          });
  }
}

}  // namespace rka::cuda
