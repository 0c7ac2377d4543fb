// softmax(Z) V of long sequences: a row of squares of one head at a time.
//
// The formulas are those of strip_attention.h. What a warp has of its rows, of all keys, is set
// aside thread by thread in global memory: shapes A, B = A L, C = E + c B, S = C L', Z, weights.
// Forward each replaces what the step before left. Right operands come to shared memory square
// by square, two ahead of their use, in the order that `after` tells.
#pragma once

#include "long_head.h"

namespace rka::cuda {

// The shapes of square j from their scores.
RKA_DEVICE void set_shapes(const LongHead& h, int j, const Strip<Square::TILES>& scores) {
  const Long& s = h.s;
  if (!s.p.cooccurrence) {
    const Rows rows = s.rows_of(h.head, j);
    Strip<Square::TILES> a;
#pragma unroll
    for (int k = 0; k < Square::TILES; ++k) {
      for (int c = 0; c < 4; ++c) a[k][c] = rows.allowed(k, c) ? scores[k][c] : 0.0f;
    }
    return h.put(a, h.aside.shapes, j);
  }
  const int64_t row = s.w.prior_row(s.local, s.w.priors > 1 ? h.head : 0, s.tile);
  const float* weights = s.w.prior_weight + row * SIDE + s.lane.first_row % SIDE + s.lane.g;
  const float weight[2] = {weights[0], weights[8]};
  const float* prior = s.own(s.w.prior_square(row, j), 0);
  h.each_tile_unrolled(h.aside.shapes, j, [&](int k) {
    const Four given = load4(prior + k * TILE_FLOATS);
    Four a;
    for (int c = 0; c < 4; ++c) a[c] = given[c] * weight[c / 2] * scores[k][c];
    return a;
  });
}

RKA_DEVICE Four draw_normals(const LongHead& h, int tile) {
  const uint64_t seed = uint64_t(*h.s.p.seed);
  const int64_t noise_head = h.s.noise_head(h.head);
  float e[4];
  draw_tile(
      h.s.lane, tile, [&](int group, int row) { return normals(seed, group, row, noise_head); }, e);
  return {{e[0], e[1], e[2], e[3]}};
}

// B = A L of square i, and E; with the last of them C = E + c B.
RKA_DEVICE void set_products(LongHead& h, int i, const Strip<Square::TILES>& b) {
  h.put(b, h.aside.products, i);
  const float* product = h.s.own(h.aside.products, 8 * i);
  h.each_tile(h.aside.noise, i, [&](int k) {
    const Four e = draw_normals(h, 8 * i + k), x = load4(product + k * TILE_FLOATS);
    for (int c = 0; c < 4; ++c) {
      h.q[c / 2] = fmaf(x[c], x[c], h.q[c / 2]);
      h.projection[c / 2] = fmaf(x[c], e[c], h.projection[c / 2]);
    }
    return e;
  });
  if (i + 1 < h.seen) return;
  float skew[2];
  draw_skew(h.s, h.head, skew);
  for (int half = 0; half < 2; ++half) {
    const float inverse = inverse_sqrt(1.0f + sum_of_row(h.q[half]));
    h.draw.row[half] =
        SkewRow<float>::sample_of(inverse, sum_of_row(h.projection[half]) + skew[half]);
  }
#pragma unroll 1
  for (int j = 0; j < h.seen; ++j) {
    const float *noise = h.s.own(h.aside.noise, 8 * j),
                *products = h.s.own(h.aside.products, 8 * j);
    h.each_tile(h.aside.sums, j, [&](int k) {
      const Four e = load4(noise + k * TILE_FLOATS);
      Four x = load4(products + k * TILE_FLOATS);
      for (int c = 0; c < 4; ++c) x[c] = fmaf(h.draw.row[c / 2].p_weight, x[c], e[c]);
      return x;
    });
  }
}

// The mean: P = A K of square i; with the last of them S = c P.
RKA_DEVICE void set_means(LongHead& h, int i, const Strip<Square::TILES>& product) {
  const float* shapes = h.s.own(h.aside.shapes, 8 * i);
  h.each_tile_unrolled(h.aside.products, i, [&](int k) {
    const Four a = load4(shapes + k * TILE_FLOATS);
    for (int c = 0; c < 4; ++c) h.q[c / 2] = fmaf(a[c], product[k][c], h.q[c / 2]);
    return Four{{product[k][0], product[k][1], product[k][2], product[k][3]}};
  });
  if (i + 1 < h.seen) return;
  for (int half = 0; half < 2; ++half) {
    h.draw.row[half] = SkewRow<float>::mean_of(inverse_sqrt(1.0f + sum_of_row(h.q[half])));
  }
#pragma unroll 1
  for (int j = 0; j < h.seen; ++j) {
    const float* products = h.s.own(h.aside.products, 8 * j);
    h.each_tile(h.aside.deviates, j, [&](int k) {
      Four x = load4(products + k * TILE_FLOATS);
      for (int c = 0; c < 4; ++c) x[c] *= h.draw.row[c / 2].p_weight;
      return x;
    });
  }
}

// E of all squares, where there are no shapes.
RKA_DEVICE void set_noise(const LongHead& h) {
#pragma unroll 1
  for (int j = 0; j < h.seen; ++j) {
    h.each_tile(h.aside.sums, j, [&](int k) { return draw_normals(h, 8 * j + k); });
  }
}

// omega S of square j from the scale's scores, which come out with their bias.
RKA_DEVICE void set_scaled(const LongHead& h, int j, Strip<Square::TILES>& scores) {
  const Problem& p = h.s.p;
  const float factor = inverse_sqrt(float(p.scale_query.width)),
              bias = p.scale_bias ? p.scale_bias[h.head] : 0.0f;
  const bool deviates = p.needs_covariance();
  const float* draws = h.s.own(h.aside.deviates, 8 * j);
  h.each_tile_unrolled(h.aside.scaled, j, [&](int k) {
    Four x = {};
    if (deviates) x = load4(draws + k * TILE_FLOATS);
    for (int c = 0; c < 4; ++c) {
      scores[k][c] = fmaf(scores[k][c], factor, bias);
      x[c] *= softplus_fast(scores[k][c]);
    }
    return x;
  });
}

// Z of square j from the location's scores, which come out activated.
RKA_DEVICE void set_logits(LongHead& h, int j, Strip<Square::TILES>& scores) {
  const Long& s = h.s;
  const Problem& p = s.p;
  const Rows rows = s.rows_of(h.head, j);
  const int column = SIDE * j + 2 * s.lane.t, row = s.lane.row(0);
  const bool spread = p.has_spread();
  const float* scaled = h.s.own(h.aside.scaled, 8 * j);
  activate_strip<Square>(p.activation, p.location_scale, scores);
  h.each_tile_unrolled(h.aside.logits, j, [&](int k) {
    Four x = {};
    if (spread) x = load4(scaled + k * TILE_FLOATS);
    for (int c = 0; c < 4; ++c) {
      const bool allowed = rows.allowed(k, c);
      if (p.bias.data && allowed)
        x[c] += p.bias.at(s.b, h.head, row + c / 2 * 8, column + 8 * k + c % 2);
      x[c] = allowed ? scores[k][c] + x[c] : -INFINITY;
      h.largest[c / 2] = fmaxf(h.largest[c / 2], x[c]);
    }
    return x;
  });
}

// Of a tile, numbered over the squares: 0 or 1 / (1 - probability).
RKA_DEVICE Four dropout_tile(const LongHead& h, int tile) {
  const uint64_t seed = uint64_t(*h.s.p.seed);
  const int64_t noise_head = h.s.noise_head(h.head);
  float kept[4];
  draw_tile(
      h.s.lane, tile,
      [&](int group, int row) {
        return dropout_factors(seed, group, row, noise_head, h.s.p.dropout);
      },
      kept);
  return {{kept[0], kept[1], kept[2], kept[3]}};
}

// Z into weights, after dropout if it is asked for; 1 / their sum before it.
RKA_DEVICE void set_weights(LongHead& h, bool dropout) {
  float total[2] = {};
  for (float& x : h.largest) x = largest_of_row(x);
#pragma unroll 1
  for (int j = 0; j < h.seen; ++j) {
    const float* logits = h.s.own(h.aside.logits, 8 * j);
    h.each_tile(h.aside.logits, j, [&](int k) {
      Four x = load4(logits + k * TILE_FLOATS);
      for (int c = 0; c < 4; ++c) {
        x[c] = exp2_fast(LOG2_E * (x[c] - h.largest[c / 2]));
        total[c / 2] += x[c];
      }
      if (dropout) {
        const Four kept = dropout_tile(h, 8 * j + k);
        for (int c = 0; c < 4; ++c) x[c] *= kept[c];
      }
      return x;
    });
  }
  for (int half = 0; half < 2; ++half) {
    total[half] = sum_of_row(total[half]);
    h.inverse[half] = total[half] == 0.0f ? 0.0f : reciprocal(total[half]);
  }
}

// What a complete sum becomes, up to the weights.
RKA_DEVICE void finish_step(LongHead& h, const Step& now, Strip<Square::TILES>& sum) {
  const Problem& p = h.s.p;
  if (now.pass == Pass::shapes) {
    activate_strip<Square>(p.activation, inverse_sqrt(float(p.shape_query.width)), sum);
    set_shapes(h, now.j, sum);
  } else if (now.pass == Pass::lower) {
    set_products(h, now.i, sum);
  } else if (now.pass == Pass::symmetric) {
    set_means(h, now.i, sum);
  } else if (now.pass == Pass::upper) {
    h.put(sum, h.aside.deviates, now.i);
  } else if (now.pass == Pass::scales) {
    set_scaled(h, now.j, sum);
  } else if (now.pass == Pass::locations) {
    set_logits(h, now.j, sum);
    if (now.j + 1 == h.seen) set_weights(h, !h.aside.scales && p.dropout > 0.0f);
  }
}

// Row of squares `tile` of a head.
RKA_DEVICE void long_forward(const Problem& p, const Workspace& w, int local, int head, int tile,
                             float* scratch, float* shared) {
  const Long s(p, w, local, tile, shared);
  s.describe_keys();
  sync_block();
  LongHead h(s, head, {p, scratch, scratch + w.key_squares * SQUARE_FLOATS});
  if (p.needs_covariance() && !p.has_shape()) set_noise(h);
  take_steps(h, [&](const Step& now, Strip<Square::TILES>& sum) {
    finish_step(h, now, sum);
    if (now.pass == Pass::values) s.store_output(sum, head, now.column);
  });
}

// The rows of squares of one block: every `parts`-th of a head, of every `blocks`-th head.
RKA_DEVICE void long_forward_block(const Problem& p, const Workspace& w, int block, int blocks,
                                   int parts, float* shared) {
  float* scratch = p.scratch + block * p.scratch_per_block;
#pragma unroll 1
  for (int item = block; item < w.sequences * p.heads * parts; item += blocks) {
    const int part = item % parts, head = item / parts % p.heads, local = item / parts / p.heads;
#pragma unroll 1
    for (int tile = w.row_squares - 1 - part; tile >= 0; tile -= parts) {
      long_forward(p, w, local, head, tile, scratch, shared);
    }
  }
}

}  // namespace rka::cuda
