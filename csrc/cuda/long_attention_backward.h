// The backward pass of long sequences through attention: a head of a sequence to a block, a row of
// squares at a time.
//
// The forward pass is run again and more of it set aside. Sums over the rows of a square go through
// shared memory; over rows of squares they are added up in global memory by the block that has the
// head, in their order. What a head adds to the gradient of the factor, for the mean to that of K
// and its transpose, stands alone until the heads are added up.
#pragma once

#include "long_attention.h"
#include "strip_attention_backward.h"

namespace rka::cuda {

struct LongBackward {
  LongHead& h;
  const Adjoint& adjoint;
  const Lane l;           // of the square
  const float* d_shapes;  // set aside, as are d B, for the mean d P, ...
  float* d_products;      // ... in the scales' place

  RKA_DEVICE LongBackward(LongHead& h, const Adjoint& adjoint)
      : h(h),
        adjoint(adjoint),
        d_shapes(h.draws() ? h.aside.scales : h.aside.deviates),
        d_products(h.aside.scales) {}

  RKA_DEVICE float* weights() const { return h.s.buffer(0); }  // squares in shared memory
  RKA_DEVICE float* rows() const { return h.s.buffer(1); }
  RKA_DEVICE float* keys() const { return h.s.shared + LONG_FLOATS; }

  // Tiles of the square that hold rows, and from which on a strip of the columns is seen.
  RKA_DEVICE int last() const {
    const int left = h.s.p.rows - SIDE * h.s.tile;
    return left < SIDE ? (left + 7) / 8 : Square::TILES;
  }
  RKA_DEVICE int from(int j) const { return h.s.p.causal && j == h.s.tile ? 2 * l.warp : 0; }
  // Whether no row of squares before has added to square j of the keys.
  RKA_DEVICE bool fresh(int j) const { return h.s.tile == (h.s.p.causal ? j : 0); }

  // The warp's rows of square j from f(tile), zeros where they see nothing.
  template <class F>
  RKA_DEVICE void put_square(float* to, int j, F f) const {
    const int tiles = 2 * h.s.pairs_of(j);
    to += l.row(0) * ByColumns::PITCH + 2 * l.t;
#pragma unroll 1
    for (int k = 0; k < Square::TILES; ++k) {
      Four x = {};
      if (k < tiles) x = f(k);
      store_pair(to + 8 * k, x[0], x[1]);
      store_pair(to + 8 * ByColumns::PITCH + 8 * k, x[2], x[3]);
    }
  }
  RKA_DEVICE auto tile_of(const float* aside, int j) const { return h.tile_of(aside, j); }

  // A tile of the gradient of a pass's scores, for the values of the weights.
  RKA_DEVICE Four d_scores(Pass pass, int j, int k, float slope, const float (&weight)[2]) const {
    const Problem& p = h.s.p;
    Four x = tile_of(pass == Pass::values   ? h.aside.logits
                     : pass == Pass::shapes ? d_shapes
                                            : h.aside.d_logits,
                     j)(k);
    if (pass == Pass::values) {
      for (int c = 0; c < 4; ++c) x[c] *= h.inverse[c / 2];
      if (p.dropout > 0.0f) {
        const Four kept = dropout_tile(h, 8 * j + k);
        for (int c = 0; c < 4; ++c) x[c] *= kept[c];
      }
    } else if (pass == Pass::locations) {
      const Four y = tile_of(h.aside.locations, j)(k);
      for (int c = 0; c < 4; ++c) x[c] *= slope_at(p.activation, slope, y[c]);
    } else if (pass == Pass::scales) {
      const Four z = tile_of(h.aside.scales, j)(k);
      Four draws = {};
      if (p.needs_covariance()) draws = tile_of(h.aside.deviates, j)(k);
      for (int c = 0; c < 4; ++c) x[c] *= draws[c] * sigmoid_fast(z[c]);
    } else {
      const Four a = tile_of(h.aside.shapes, j)(k);
      Four prior = {{1.0f, 1.0f, 1.0f, 1.0f}};
      if (p.cooccurrence) prior = load4(h.s.own(prior_of(j), k));
      for (int c = 0; c < 4; ++c) {
        const float given = prior[c] * weight[c / 2];
        const float value = given > 0.0f ? a[c] * reciprocal(given) : 0.0f;
        x[c] *= given * slope_at(p.activation, slope, value);
      }
    }
    return x;
  }
  RKA_DEVICE int64_t prior_row() const {
    return h.s.w.prior_row(h.s.local, h.s.w.priors > 1 ? h.head : 0, h.s.tile);
  }
  RKA_DEVICE const float* prior_of(int j) const { return h.s.w.prior_square(prior_row(), j); }
};

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

// d S in the place of S; its share of the scale's bias comes out.
RKA_DEVICE float set_d_deviates(const LongHead& h) {
  float share = 0.0f;
#pragma unroll 1
  for (int j = 0; j < h.seen; ++j) {
    const auto draws = h.tile_of(h.aside.deviates, j), scales = h.tile_of(h.aside.scales, j),
               d_logits = h.tile_of(h.aside.d_logits, j);
    h.each_tile(h.aside.deviates, j, [&](int k) {
      const Four s = draws(k), z = scales(k);
      Four d = d_logits(k);
      for (int c = 0; c < 4; ++c) {
        share = fmaf(d[c] * s[c], sigmoid_fast(z[c]), share);
        d[c] *= softplus_fast(z[c]);
      }
      return d;
    });
  }
  return share;
}

// The square of the factor (or K) that stands at (i, j), once, for a product with it.
RKA_DEVICE void multiply_factor(const LongBackward& g, Strip<Square::TILES>& sum, const float* left,
                                int j, int i, bool columns, bool diagonal) {
  const LongHead& h = g.h;
  const Long& s = h.s;
  const float* from = s.w.relation(s.local, j > i ? j : i, j > i ? i : j);
  sync_block();
  if (columns) {
    s.fetch_square<ByColumns>(g.keys(), from);
  } else {
    s.fetch_square<Square>(g.keys(), from);
  }
  wait_for_copies<0>();
  sync_block();
  const int depth = 2 * s.pairs_of(j), pairs = s.pairs_of(i);
  if (columns) {
    multiply_tiles<true>(g.l, sum, h.tile_of(left, j), depth, g.keys(), pairs, diagonal);
  } else {
    multiply_tiles<false>(g.l, sum, h.tile_of(left, j), depth, g.keys(), pairs, diagonal);
  }
}

// From d S: d C = d S L, then d B in its place.
RKA_DEVICE void set_d_products(const LongBackward& g) {
  const LongHead& h = g.h;
  float along[2] = {}, of_c[2], of_b[2], of_d[2];
#pragma unroll 1
  for (int i = 0; i < h.seen; ++i) {
    Strip<Square::TILES> sum;
    sum.clear();
#pragma unroll 1
    for (int j = i; j < h.seen; ++j) {
      multiply_factor(g, sum, h.aside.deviates, j, i, true, i == j);
    }
    const auto products = h.tile_of(h.aside.products, i);
    h.each_tile_unrolled(g.d_products, i, [&](int k) {
      const Four b = products(k);
      for (int c = 0; c < 4; ++c) along[c / 2] = fmaf(sum[k][c], b[c], along[c / 2]);
      return Four{{sum[k][0], sum[k][1], sum[k][2], sum[k][3]}};
    });
  }
  for (int half = 0; half < 2; ++half) {
    const SkewRow<float>& row = h.draw.row[half];
    const SkewRowGrad<float> d = SkewRowGrad<float>::of(row, sum_of_row(along[half]));
    of_c[half] = d.shape_to_x;  // of E = C - c B
    of_b[half] = 2.0f * d.shape_to_p - d.shape_to_x * row.p_weight, of_d[half] = row.p_weight;
  }
#pragma unroll 1
  for (int i = 0; i < h.seen; ++i) {
    const auto products = h.tile_of(h.aside.products, i), sums = h.tile_of(h.aside.sums, i),
               d_sums = h.tile_of(g.d_products, i);
    h.each_tile(g.d_products, i, [&](int k) {
      const Four b = products(k), x = sums(k);
      Four d = d_sums(k);
      for (int c = 0; c < 4; ++c) {
        d[c] = fmaf(of_d[c / 2], d[c], fmaf(of_c[c / 2], x[c], of_b[c / 2] * b[c]));
      }
      return d;
    });
  }
}

// For the mean, from d S: d P = c d S + dq A; comes out: dq.
RKA_DEVICE void set_d_means(const LongBackward& g, float (&of_a)[2]) {
  const LongHead& h = g.h;
  float along[2] = {};
#pragma unroll 1
  for (int i = 0; i < h.seen; ++i) {
    const auto products = h.tile_of(h.aside.products, i), d_draws = h.tile_of(h.aside.deviates, i);
    h.each_tile(h.aside.deviates, i, [&](int k) {
      const Four p = products(k), d = d_draws(k);
      for (int c = 0; c < 4; ++c) along[c / 2] = fmaf(d[c], p[c], along[c / 2]);
      return d;
    });
  }
  for (int half = 0; half < 2; ++half) {
    of_a[half] = SkewRowGrad<float>::of(h.draw.row[half], sum_of_row(along[half])).shape_to_p;
  }
#pragma unroll 1
  for (int i = 0; i < h.seen; ++i) {
    const auto shapes = h.tile_of(h.aside.shapes, i), d_draws = h.tile_of(h.aside.deviates, i);
    h.each_tile(g.d_products, i, [&](int k) {
      const Four a = shapes(k);
      Four d = d_draws(k);
      for (int c = 0; c < 4; ++c) d[c] = fmaf(h.draw.row[c / 2].p_weight, d[c], of_a[c / 2] * a[c]);
      return d;
    });
  }
}

// Adds d L = d S' C + A' d B to the head's part, for the mean A' d P + d P' A.
RKA_DEVICE void add_to_factor(const LongBackward& g) {
  const LongHead& h = g.h;
  const Long& s = h.s;
  const bool draws = h.draws();
  const float *x[2] = {draws ? h.aside.deviates : h.aside.shapes,
                       draws ? h.aside.shapes : g.d_products},
              *y[2] = {draws ? h.aside.sums : g.d_products, draws ? g.d_products : h.aside.shapes};
#pragma unroll 1
  for (int i = 0; i < h.seen; ++i) {
#pragma unroll 1
    for (int j = 0; j <= i; ++j) {
      Strip<Square::TILES> sum;
      sum.clear();
#pragma unroll 1
      for (int part = 0; part <= s.p.has_shape(); ++part) {
        sync_block();
        g.put_square(g.weights(), i, h.tile_of(part ? x[1] : x[0], i));
        g.put_square(g.rows(), j, h.tile_of(part ? y[1] : y[0], j));
        sync_block();
        multiply_transposed<ByColumns>(g.l, sum, g.weights(), g.rows(), draws ? g.from(i) : 0,
                                       g.last(), Square::TILES);
      }
      float* at = g.adjoint.d_factor_of(s.w, s.local, h.head, i, j) + g.l.row(0) * SIDE + 2 * g.l.t;
      const bool fresh = g.fresh(i);
#pragma unroll
      for (int k = 0; k < Square::TILES; ++k) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float* to = at + 8 * half * SIDE + 8 * k;
          Pair old = {0.0f, 0.0f};
          if (!fresh) old = load_pair(to);
          store_pair(to, old.x + sum[k][2 * half], old.y + sum[k][2 * half + 1]);
        }
      }
    }
  }
}

// From d B, or d P: d A.
RKA_DEVICE void set_d_shapes(const LongBackward& g, const float (&of_a)[2]) {
  const LongHead& h = g.h;
  const bool draws = h.draws();
#pragma unroll 1
  for (int i = h.seen - 1; i >= 0; --i) {
    Strip<Square::TILES> sum;
    sum.clear();
#pragma unroll 1
    for (int j = 0; j < (draws ? i + 1 : h.seen); ++j) {
      multiply_factor(g, sum, g.d_products, j, i, !draws && j >= i, draws && i == j);
    }
    if (draws) {
      h.put(sum, g.d_products, i);
    } else {
      const auto products = h.tile_of(h.aside.products, i);
      h.each_tile_unrolled(h.aside.deviates, i, [&](int k) {
        Four p = products(k);
        for (int c = 0; c < 4; ++c) p[c] = fmaf(of_a[c / 2], p[c], sum[k][c]);
        return p;
      });
    }
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
  float total[2] = {}, share = 0.0f, of_a[2] = {};
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
  share = set_d_deviates(h);
  if (!h.draws()) {
    set_d_means(g, of_a);
  } else if (p.has_shape()) {
    set_d_products(g);
  }
  if (p.wants_covariance()) add_to_factor(g);
  if (!p.has_shape()) return share;
  set_d_shapes(g, of_a);
  long_rows_backward(g, Pass::shapes, p.d_shape_query, p.d_shape_key);
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
