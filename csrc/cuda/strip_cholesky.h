// K = L L' by one warp: panels of 16 columns, a row to a lane.
//
// Columns before a panel are subtracted by the tensor core. Within a panel the order is that of
// L D L', so that the reciprocal of a pivot is not waited for by the shuffles that carry the next
// one. No barrier of the block: the other warps do something else.
#pragma once

#include "strip.h"

namespace rka::cuda {

// Rows c0 .. less what the finished columns contribute to columns c0 .. c0 + 15.
template <class S>
RKA_DEVICE void subtract_finished(const Lane& l, float* m, int c0, int rows) {
  const int P = S::PITCH;
  const bool whole = c0 + STRIP <= S::SIZE;  // or half a panel
  const float* right = m + (c0 + l.g) * P + 2 * l.t;
  const auto subtract = [](float* at, float x, float y) {
    const Pair old = load_pair(at);
    store_pair(at, old.x - x, old.y - y);
  };
#pragma unroll 1
  for (int r0 = c0; r0 < rows; r0 += STRIP) {
    float u[4] = {}, v[4] = {};
    const bool below = r0 + STRIP <= S::SIZE;  // rows g + 8 are inside
    float *top = m + (r0 + l.g) * P + 2 * l.t, *bottom = top + (below ? 8 * P : 0);
#pragma unroll 1
    for (int k = 0; k < c0; k += 8) {
      const Pair x = load_pair(top + k), y = load_pair(bottom + k);
      const Left a = left_operand(x.x, y.x, x.y, y.y);
      multiply_add_all(u, a, load_pair(right + k));
      multiply_add_all(v, a, load_pair(right + (whole ? 8 * P : 0) + k));
    }
    subtract(top + c0, u[0], u[1]);
    if (whole) subtract(top + c0 + 8, v[0], v[1]);
    if (below) {
      subtract(bottom + c0, u[2], u[3]);
      if (whole) subtract(bottom + c0 + 8, v[2], v[3]);
    }
  }
  sync_warp();
}

// Factors columns c0 .. c0 + 15; a lane has rows c0 + lane and c0 + lane + 32. A pivot that
// rounding took to zero or below becomes `smallest` and its column ends there: what stands below
// is rounding as well. ready(column, 1 / pivot of L, or 0 where the column ends), by one lane.
template <class S, class F>
RKA_DEVICE void factor_panel(const Lane& l, float* m, int c0, int rows, float smallest, F ready) {
  const int P = S::PITCH, r0 = c0 + l.lane, r1 = r0 + LANES;
  const bool one = r0 < rows, two = r1 < rows;
  float x[STRIP], y[STRIP];
#pragma unroll
  for (int j = 0; j < STRIP; j += 4) {
    const Four u = load4(m + (one ? r0 : 0) * P + c0 + j),
               v = load4(m + (two ? r1 : 0) * P + c0 + j);
    for (int i = 0; i < 4; ++i) x[j + i] = u[i], y[j + i] = v[i];
  }
  if (c0 + STRIP > S::SIZE) {  // half a panel is beyond the square: the identity
#pragma unroll
    for (int j = 0; j < STRIP; ++j) {
      if (!one || c0 + j >= S::SIZE) x[j] = l.lane == j ? 1.0f : 0.0f;
    }
  }
  float pivot = shuffle(x[0], 0);
#pragma unroll
  for (int j = 0; j < STRIP; ++j) {
    const bool ends = pivot <= 0.0f;
    pivot = ends ? smallest : pivot;  // NaN stays
    const float inverse = ends ? 0.0f : reciprocal(pivot), root = inverse_sqrt(pivot);
    float column[STRIP];
#pragma unroll
    for (int i = j + 1; i < STRIP; ++i) column[i] = shuffle(x[j], i);
    const float u = x[j] * inverse, v = y[j] * inverse;
    float next = 1.0f;
    if (j + 1 < STRIP) {
      x[j + 1] = fmaf(-u, column[j + 1], x[j + 1]);
      next = shuffle(x[j + 1], j + 1);
    }
#pragma unroll
    for (int i = j + 2; i < STRIP; ++i) x[i] = fmaf(-u, column[i], x[i]);
#pragma unroll
    for (int i = j + 1; i < STRIP; ++i) y[i] = fmaf(-v, column[i], y[i]);
    x[j] = (l.lane == j ? pivot : ends ? 0.0f : x[j]) * root;
    y[j] *= ends ? 0.0f : root;
    if (l.lane == j) ready(c0 + j, ends ? 0.0f : root);
    pivot = next;
  }
#pragma unroll
  for (int j = 0; j < STRIP; j += 4) {  // L by rows, with whatever lies above the diagonal ...
    if (one && l.lane >= j && c0 + j < S::SIZE) {
      store4(m + r0 * P + c0 + j, {{x[j], x[j + 1], x[j + 2], x[j + 3]}});
    }
    if (two) store4(m + r1 * P + c0 + j, {{y[j], y[j + 1], y[j + 2], y[j + 3]}});
  }
  sync_warp();
#pragma unroll
  for (int j = 0; j < STRIP; ++j) {  // ... and L' over it
    if (one && l.lane >= j && c0 + j < S::SIZE) m[(c0 + j) * P + r0] = x[j];
    if (two) m[(c0 + j) * P + r1] = y[j];
  }
  sync_warp();
}

// The square's lower triangle holds K; L comes out below, L' above the diagonal.
template <class S, class F>
RKA_DEVICE void cholesky(const Lane& l, float* m, int keys, float jitter, F ready) {
  const int strips = (keys + STRIP - 1) / STRIP * STRIP, rows = strips < S::SIZE ? strips : S::SIZE;
#pragma unroll 1
  for (int c0 = 0; c0 < rows; c0 += STRIP) {
    if (c0 > 0) subtract_finished<S>(l, m, c0, rows);
    factor_panel<S>(l, m, c0, rows, jitter / (1.0f + jitter), ready);
  }
}

}  // namespace rka::cuda
