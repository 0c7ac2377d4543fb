// The backward pass of long sequences through attention: a head of a sequence to a block, a row of
// squares at a time.
//
// The forward pass is run again and more of it set aside. Sums over the rows of a square go through
// shared memory; over rows of squares they are added up in global memory by the block that has the
// head, in their order. What a head adds to the gradient of the factor, for the mean to that of K
// and its transpose, stands alone until the heads are added up.
#pragma once

#include "long_skew_normal_backward.h"

namespace rka::cuda {

// gradient (=, +=) factor x: the warp's rows of square j of a (B, H, m, width) tensor.
RKA_DEVICE void add_to_keys(const LongBackward& g, const Strip<Square::TILES>& x, int j, int column,
                            int width, float factor, float* gradient) {
  const Long& s = g.h.s;
  const bool fresh = g.fresh(j);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int key = SIDE * j + g.l.row(half), first = column + 2 * g.l.t;
    float* at = gradient + (s.noise_head(g.h.head) * s.p.keys + key) * width + first;
    const int left = key < s.p.keys ? width - first : 0;
#pragma unroll
    for (int k = 0; k < Square::TILES; ++k) {
      for (int c = 0; c < 2; ++c) {
        if (8 * k + c >= left) continue;
        const float y = factor * x[k][2 * half + c];
        at[8 * k + c] = fresh ? y : at[8 * k + c] + y;
      }
    }
  }
}

// Gradients of the rows that made the scores (for the values: the weights) of a pass.
RKA_DEVICE void long_rows_backward(const LongBackward& g, Pass pass, float* d_query, float* d_key) {
  const LongHead& h = g.h;
  const Long& s = h.s;
  const Problem& p = s.p;
  if (!d_query && !d_key) return;
  const Heads query = h.query_of(pass), key = h.key_of(pass);
  const int width = query.width;
  const float factor = pass == Pass::values      ? 1.0f
                       : pass == Pass::locations ? p.location_scale
                                                 : inverse_sqrt(float(width)),
              slope = slope_of(p.activation);
  float weight[2] = {1.0f, 1.0f};
  if (pass == Pass::shapes && p.cooccurrence) {
    for (int half = 0; half < 2; ++half)
      weight[half] = s.w.prior_weight[g.prior_row() * SIDE + g.l.row(half)];
  }
  const int left = p.rows - SIDE * s.tile, rows = left < SIDE ? left : SIDE;
#pragma unroll 1
  for (int column = 0; column < width; column += SIDE) {
    const int columns = s.columns_from(column, width), tiles = (columns + 7) / 8;
    Strip<Square::TILES> sum, y;
    sum.clear();
#pragma unroll 1
    for (int j = 0; j < h.seen; ++j) {
      sync_block();
      if (j == 0) s.fetch_rows_of(g.rows(), query, h.head, column, rows);
      if (d_query) s.fetch_heads<ByColumns>(g.keys(), key, h.head, j, column);
      g.put_square(g.weights(), j, [&](int k) { return g.d_scores(pass, j, k, slope, weight); });
      wait_for_copies<0>();
      sync_block();
      if (d_query) {
        const float* top = g.weights() + g.l.row(0) * ByColumns::PITCH + 2 * g.l.t;
        const auto of_rows = [&](int k) {
          const Pair u = load_pair(top + 8 * k), v = load_pair(top + 8 * ByColumns::PITCH + 8 * k);
          return Four{{u.x, u.y, v.x, v.y}};
        };
        multiply_tiles<true>(g.l, sum, of_rows, 2 * s.pairs_of(j), g.keys(),
                             (columns + STRIP - 1) / STRIP, false);
      }
      if (d_key) {
        y.clear();
        multiply_transposed<ByColumns>(g.l, y, g.weights(), g.rows(), g.from(j), g.last(), tiles);
        add_to_keys(g, y, j, column, width, factor, d_key);
      }
    }
    if (d_query) {
      for (auto& tile : sum.v) {
        for (float& x : tile) x *= factor;
      }
      s.store(sum, d_query + s.noise_head(h.head) * p.rows * width + column, p.rows, width,
              columns);
    }
  }
}

// From d weights, set aside, d logits in their place; `total` is the sum of both's products.
RKA_DEVICE void set_d_logits(const LongHead& h, const float (&total)[2]) {
  const Long& s = h.s;
  const Problem& p = s.p;
  float* d_bias = p.d_bias ? p.d_bias + s.noise_head(h.head) * p.rows * p.keys : nullptr;
#pragma unroll 1
  for (int j = 0; j < h.seen; ++j) {
    const auto weights = h.tile_of(h.aside.logits, j), d_weights = h.tile_of(h.aside.d_logits, j);
    h.each_tile(h.aside.d_logits, j, [&](int k) {
      const Four x = weights(k);
      Four d = d_weights(k);
      for (int c = 0; c < 4; ++c) {
        d[c] = x[c] * h.inverse[c / 2] * (d[c] - total[c / 2]);
        const int row = s.lane.row(c / 2), column = SIDE * j + 8 * k + 2 * s.lane.t + c % 2;
        if (d_bias && row < p.rows && column < p.keys) {
          d_bias[int64_t(row) * p.keys + column] = d[c];
        }
      }
      return d;
    });
  }
}

// Row of squares `tile` of a head; its share of the scale's bias comes out.
RKA_DEVICE float long_backward(const Problem& p, const Workspace& w, const Adjoint& adjoint,
                               int local, int head, int tile, float* scratch, float* shared) {
  const Long s(p, w, local, tile, shared);
  s.describe_keys();
  sync_block();
  LongHead h(s, head, Aside(scratch, int64_t(w.key_squares) * SQUARE_FLOATS));
  if (p.needs_covariance() && !p.has_shape()) set_noise(h);
  float total[2] = {};
  take_steps(h, [&](const Step& now, Strip<Square::TILES>& sum) {
    finish_step(h, now, sum);
    if (now.pass == Pass::scales) {
      h.put(sum, h.aside.scales, now.j);
    } else if (now.pass == Pass::locations) {
      h.put(sum, h.aside.locations, now.j);
    } else if (now.pass == Pass::gradients) {
      h.put(sum, h.aside.d_logits, now.j);
      const auto weights = h.tile_of(h.aside.logits, now.j),
                 d_weights = h.tile_of(h.aside.d_logits, now.j);
      h.each_tile(h.aside.d_logits, now.j, [&](int k) {
        const Four x = weights(k);
        Four d = d_weights(k);
        if (p.dropout > 0.0f) {
          const Four kept = dropout_tile(h, 8 * now.j + k);
          for (int c = 0; c < 4; ++c) d[c] *= kept[c];
        }
        for (int c = 0; c < 4; ++c)
          total[c / 2] = fmaf(x[c] * h.inverse[c / 2], d[c], total[c / 2]);
        return d;
      });
    }
  });
  for (float& x : total) x = sum_of_row(x);
  set_d_logits(h, total);
  const LongBackward g(h, adjoint);
  long_rows_backward(g, Pass::values, nullptr, p.d_value);
  long_rows_backward(g, Pass::locations, p.d_query, p.d_key);
  if (!p.has_spread()) return 0.0f;
  long_rows_backward(g, Pass::scales, p.d_scale_query, p.d_scale_key);
  if (!p.needs_covariance()) return 0.0f;
  const float share = draw_backward(g);
  if (p.has_shape()) long_rows_backward(g, Pass::shapes, p.d_shape_query, p.d_shape_key);
  return share;
}

// The heads of one block, every `blocks`-th.
RKA_DEVICE void long_backward_block(const Problem& p, const Workspace& w, const Adjoint& adjoint,
                                    int block, int blocks, float* shared) {
  float* scratch = p.scratch + block * p.scratch_per_block;
  const Lane l;
#pragma unroll 1
  for (int item = block; item < w.sequences * p.heads; item += blocks) {
    const int head = item % p.heads, local = item / p.heads;
    float share = 0.0f;
#pragma unroll 1
    for (int tile = 0; tile < w.row_squares; ++tile) {
      share += long_backward(p, w, adjoint, local, head, tile, scratch, shared);
      sync_block();
    }
    for (int mask = 1; mask < LANES; mask *= 2) share += shuffle_xor(share, mask);
    if (l.lane == 0) shared[l.warp] = share;
    sync_block();
    if (thread_index() == 0 && p.d_scale_bias) {
      p.d_scale_bias[int64_t(w.first + local) * p.heads + head] =
          shared[0] + shared[1] + shared[2] + shared[3];
    }
    sync_block();
  }
}

}  // namespace rka::cuda
