// The adjoint of the draw of long sequences, a row of squares of one head at a time, and what the
// backward pass has of it at hand.
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
        const float value = given > 1e-37f ? a[c] * reciprocal(given) : 0.0f;
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
    const Rows rows = h.s.rows_of(h.head, i);  // a shape that is not seen is no function
    if (draws) {
      h.each_tile_unrolled(g.d_products, i, [&](int k) {
        Four d;
        for (int c = 0; c < 4; ++c) d[c] = rows.allowed(k, c) ? sum[k][c] : 0.0f;
        return d;
      });
    } else {
      const auto products = h.tile_of(h.aside.products, i);
      h.each_tile_unrolled(h.aside.deviates, i, [&](int k) {
        Four p = products(k);
        for (int c = 0; c < 4; ++c)
          p[c] = rows.allowed(k, c) ? fmaf(of_a[c / 2], p[c], sum[k][c]) : 0.0f;
        return p;
      });
    }
  }
}

// From d logits: the head's part of the factor's gradient, and that of the shapes, set aside. The
// share of the scale's bias comes out.
RKA_DEVICE float draw_backward(const LongBackward& g) {
  const Problem& p = g.h.s.p;
  float of_a[2] = {};
  const float share = set_d_deviates(g.h);
  if (!g.h.draws()) {
    set_d_means(g, of_a);
  } else if (p.has_shape()) {
    set_d_products(g);
  }
  if (p.wants_covariance()) add_to_factor(g);
  if (p.has_shape()) set_d_shapes(g, of_a);
  return share;
}

}  // namespace rka::cuda
