// softmax(Z) V of long sequences: a row of squares of one head at a time.
//
// The formulas are those of strip_attention.h. What a warp has of its rows, of all keys, is set
// aside thread by thread in global memory, where every step replaces what the step before left:
// shapes A, B = A L, C = E + c B, S = C L', Z, weights. Right operands come to shared memory square
// by square, two ahead of their use, in the order that `after` tells.
#pragma once

#include "long_sequence.h"
#include "strip_attention.h"

namespace rka::cuda {

enum class Pass { shapes, lower, symmetric, upper, scales, locations, values, none };

// Square (i, j) of the factor, or j of a head's keys with their columns from `column` on.
struct Step {
  Pass pass;
  int i = 0, j = 0, column = 0, number = 0;
};

struct LongHead {
  const Long& s;
  const int head, seen;  // squares that the rows see
  float *x, *y;          // set aside
  Step step, ahead;

  RKA_DEVICE LongHead(const Long& s, int head, float* scratch)
      : s(s),
        head(head),
        seen(s.seen_squares()),
        x(scratch),
        y(scratch + s.w.key_squares * SQUARE_FLOATS) {
    step = first();
    ahead = step;
    for (int i = 0; i < 2; ++i) fetch(ahead), ahead = after(ahead);
  }

  RKA_DEVICE bool draws() const { return s.p.mode == Mode::sample; }
  RKA_DEVICE Step first() const {
    if (s.p.has_shape()) return {Pass::shapes};
    if (s.p.needs_covariance()) return {Pass::upper, seen - 1};
    return {s.p.has_spread() ? Pass::scales : Pass::locations};
  }

  RKA_DEVICE Step after(const Step& now) const {
    Step next = now;
    ++next.number;
    const bool factor =
        now.pass == Pass::lower || now.pass == Pass::symmetric || now.pass == Pass::upper;
    const bool more = !factor && now.column + SIDE < operand(now.pass).width;
    const bool last = now.j + 1 == seen;
    next.column = more ? now.column + SIDE : 0;
    switch (now.pass) {
      case Pass::shapes:
        if (more) return next;
        if (++next.j < seen) return next;
        next.pass = draws() ? Pass::lower : Pass::symmetric, next.j = 0;
        return next;
      case Pass::lower:
        if (++next.j < seen) return next;
        next.j = ++next.i;
        if (next.i < seen) return next;
        next.pass = Pass::upper, next.i = seen - 1, next.j = 0;
        return next;
      case Pass::symmetric:
        if (++next.j < seen) return next;
        next.j = 0;
        if (++next.i < seen) return next;
        next.pass = Pass::scales, next.i = 0;
        return next;
      case Pass::upper:
        if (++next.j <= now.i) return next;
        next.j = 0;
        if (--next.i >= 0) return next;
        next.pass = Pass::scales, next.i = 0;
        return next;
      case Pass::scales:
        if (!more) next.pass = Pass::locations;
        return next;
      case Pass::locations:
        if (more) return next;
        next.pass = last ? Pass::values : s.p.has_spread() ? Pass::scales : Pass::locations;
        next.j = last ? 0 : now.j + 1;
        return next;
      case Pass::values:
        next.column = now.column;
        if (++next.j < seen) return next;
        next.j = 0, next.column += SIDE;
        if (next.column >= s.p.value.width) next.pass = Pass::none;
        return next;
      default: return next;
    }
  }

  RKA_DEVICE Heads operand(Pass pass) const {
    const Problem& p = s.p;
    return choose(pass == Pass::shapes || pass == Pass::scales,
                  choose(pass == Pass::shapes, p.shape_key, p.scale_key),
                  choose(pass == Pass::values, p.value, p.key));
  }

  // Starts the copies of a step. The first factor is read by columns, as the values are.
  RKA_DEVICE void fetch(const Step& next) const {
    float* to = s.buffer(next.number % 2);
    const bool below = next.j >= next.i;
    switch (next.pass) {
      case Pass::none: return end_of_copies();
      case Pass::upper:
        return s.fetch_square<Square>(to, s.w.relation(s.local, next.i, next.j));
      case Pass::lower:
      case Pass::symmetric:
        if (below) return s.fetch_square<ByColumns>(to, s.w.relation(s.local, next.j, next.i));
        return s.fetch_square<Square>(to, s.w.relation(s.local, next.i, next.j));
      case Pass::values:
        return s.fetch_heads<ByColumns>(to, operand(next.pass), head, next.j, next.column);
      default: return s.fetch_heads<Square>(to, operand(next.pass), head, next.j, next.column);
    }
  }

  // Waits for the step's square; and what follows when it is done with.
  RKA_DEVICE const float* arrive() const {
    wait_for_copies<1>();
    sync_block();
    return s.buffer(step.number % 2);
  }
  RKA_DEVICE void leave() {
    sync_block();
    fetch(ahead);
    ahead = after(ahead), step = after(step);
  }

  // f(tile, what is set aside there) of the warp's strip of square j; what it returns is kept.
  template <class F>
  RKA_DEVICE void each_tile(float* aside, int j, F f) const {
    const int tiles = 2 * s.pairs_of(j);
    aside = Long::own(aside, 8 * j);
#pragma unroll 1
    for (int k = 0; k < tiles; ++k, aside += WARPS * LANES * 4) store4(aside, f(k, load4(aside)));
  }
  // The same where the tile stands in a strip as well.
  template <class F>
  RKA_DEVICE void each_tile_unrolled(float* aside, int j, F f) const {
    const int tiles = 2 * s.pairs_of(j);
    aside = Long::own(aside, 8 * j);
#pragma unroll
    for (int k = 0; k < Square::TILES; ++k) {
      if (k >= tiles) continue;
      float* at = aside + k * WARPS * LANES * 4;
      store4(at, f(k, load4(at)));
    }
  }
  RKA_DEVICE void put(const Strip<Square::TILES>& from, float* aside, int j) const {
    const int tiles = 2 * s.pairs_of(j);
    aside = Long::own(aside, 8 * j);
#pragma unroll
    for (int k = 0; k < Square::TILES; ++k) {
      if (k >= tiles) continue;
      store4(aside + k * WARPS * LANES * 4, {{from[k][0], from[k][1], from[k][2], from[k][3]}});
    }
  }
  // What is set aside of square j as a left operand, tile by tile; each row times its weight.
  RKA_DEVICE auto left_of(const float* aside, int j) const {
    aside = Long::own(const_cast<float*>(aside), 8 * j);
    return [aside](int k) {
      const Four a = load4(aside + k * WARPS * LANES * 4);
      return left_operand(a[0], a[2], a[1], a[3]);
    };
  }
};

// Products of the rows with square j of a head's keys, chunk by chunk.
RKA_DEVICE void long_scores(LongHead& h, const Heads& query, Strip<Square::TILES>& scores) {
  const Long& s = h.s;
  const int pairs = s.pairs_of(h.step.j);
  scores.clear();
#pragma unroll 1
  for (int column = 0; column < query.width; column += SIDE) {
    const Strip<Square::TILES> q = s.load(query, h.head, column);
    const int depth = (s.columns_from(column, query.width) + 7) / 8;
    const float* right = h.arrive();
    if (s.p.scalar == Scalar::float32) {
      multiply_rows<Square>(s.lane, scores, q, depth, right, pairs);
    } else {
      multiply_rows<Square, true>(s.lane, scores, q, depth, right, pairs);
    }
    h.leave();
  }
}

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
    return h.put(a, h.x, j);
  }
  const int64_t row = s.w.prior_row(s.local, s.w.priors > 1 ? h.head : 0, s.tile);
  const float* weights = s.w.prior_weight + row * SIDE + s.lane.first_row % SIDE + s.lane.g;
  const float weight[2] = {weights[0], weights[8]};
  const float* prior = Long::own(s.w.prior_square(row, j), 0);
  h.each_tile_unrolled(h.x, j, [&](int k, Four) {
    const Four given = load4(prior + k * WARPS * LANES * 4);
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

// A into C = E + c B with B = A L.
RKA_DEVICE void project_shapes(LongHead& h) {
  const Long& s = h.s;
  float q[2] = {}, projection[2] = {}, skew[2], weight[2];
#pragma unroll 1
  for (int i = 0; i < h.seen; ++i) {
    Strip<Square::TILES> b;
    b.clear();
#pragma unroll 1
    for (int j = i; j < h.seen; ++j) {
      const float* right = h.arrive();
      multiply_by_columns(s.lane, b, h.left_of(h.x, j), 2 * s.pairs_of(j), right, s.pairs_of(i),
                          i == j);
      h.leave();
    }
    h.put(b, h.x, i);
    const float* product = Long::own(h.x, 8 * i);
    h.each_tile(h.y, i, [&](int k, Four) {
      const Four e = draw_normals(h, 8 * i + k), x = load4(product + k * WARPS * LANES * 4);
      for (int c = 0; c < 4; ++c) {
        q[c / 2] = fmaf(x[c], x[c], q[c / 2]);
        projection[c / 2] = fmaf(x[c], e[c], projection[c / 2]);
      }
      return e;
    });
  }
  draw_skew(s, h.head, skew);
  for (int half = 0; half < 2; ++half) {
    const float inverse = inverse_sqrt(1.0f + sum_of_row(q[half]));
    weight[half] =
        SkewRow<float>::sample_of(inverse, sum_of_row(projection[half]) + skew[half]).p_weight;
  }
#pragma unroll 1
  for (int i = 0; i < h.seen; ++i) {
    const float* noise = Long::own(h.y, 8 * i);
    h.each_tile(h.x, i, [&](int k, Four b) {
      const Four e = load4(noise + k * WARPS * LANES * 4);
      for (int c = 0; c < 4; ++c) b[c] = fmaf(weight[c / 2], b[c], e[c]);
      return b;
    });
  }
}

// C into S = C L', from the last square on.
RKA_DEVICE void draw_deviates(LongHead& h) {
  const Long& s = h.s;
#pragma unroll 1
  for (int i = h.seen - 1; i >= 0; --i) {
    Strip<Square::TILES> x;
    x.clear();
#pragma unroll 1
    for (int j = 0; j <= i; ++j) {
      const float* right = h.arrive();
      multiply_by_rows(s.lane, x, h.left_of(h.x, j), 2 * s.pairs_of(j), right, s.pairs_of(i),
                       i == j);
      h.leave();
    }
    h.put(x, h.x, i);
  }
}

// The mean: A into S = c P with P = A K.
RKA_DEVICE void mean_deviates(LongHead& h) {
  const Long& s = h.s;
  float q[2] = {}, weight[2];
#pragma unroll 1
  for (int i = 0; i < h.seen; ++i) {
    Strip<Square::TILES> x;
    x.clear();
#pragma unroll 1
    for (int j = 0; j < h.seen; ++j) {
      const float* right = h.arrive();
      const int depth = 2 * s.pairs_of(j), pairs = s.pairs_of(i);
      if (j >= i) {
        multiply_by_columns(s.lane, x, h.left_of(h.x, j), depth, right, pairs, false);
      } else {
        multiply_by_rows(s.lane, x, h.left_of(h.x, j), depth, right, pairs, false);
      }
      h.leave();
    }
    h.put(x, h.y, i);
    h.each_tile_unrolled(h.x, i, [&](int k, Four a) {
      for (int c = 0; c < 4; ++c) q[c / 2] = fmaf(a[c], x[k][c], q[c / 2]);
      return a;
    });
  }
  for (int half = 0; half < 2; ++half) {
    weight[half] = SkewRow<float>::mean_of(inverse_sqrt(1.0f + sum_of_row(q[half]))).p_weight;
  }
#pragma unroll 1
  for (int i = 0; i < h.seen; ++i) {
    const float* product = Long::own(h.y, 8 * i);
    h.each_tile(h.x, i, [&](int k, Four) {
      Four x = load4(product + k * WARPS * LANES * 4);
      for (int c = 0; c < 4; ++c) x[c] *= weight[c / 2];
      return x;
    });
  }
}

// S into Z, square by square, and the largest of every row.
RKA_DEVICE void set_logits(LongHead& h, float (&largest)[2]) {
  const Long& s = h.s;
  const Problem& p = s.p;
  const float scale_factor = inverse_sqrt(float(p.has_spread() ? p.scale_query.width : 1)),
              scale_bias = p.scale_bias ? p.scale_bias[h.head] : 0.0f;
  const bool spread = p.has_spread(), deviates = p.needs_covariance();
#pragma unroll 1
  for (int j = 0; j < h.seen; ++j) {
    Strip<Square::TILES> scores;
    if (spread) {
      long_scores(h, p.scale_query, scores);
      h.each_tile_unrolled(h.x, j, [&](int k, Four x) {
        for (int c = 0; c < 4; ++c) {
          x[c] = (deviates ? x[c] : 0.0f) *
                 softplus_fast(fmaf(scores[k][c], scale_factor, scale_bias));
        }
        return x;
      });
    }
    long_scores(h, p.query, scores);
    activate_strip<Square>(p.activation, p.location_scale, scores);
    const Rows rows = s.rows_of(h.head, j);
    const int column = SIDE * j + 2 * s.lane.t, row = s.lane.row(0);
    h.each_tile_unrolled(h.x, j, [&](int k, Four x) {
      for (int c = 0; c < 4; ++c) {
        const bool allowed = rows.allowed(k, c);
        float z = spread ? x[c] : 0.0f;
        if (p.bias.data && allowed)
          z += p.bias.at(s.b, h.head, row + c / 2 * 8, column + 8 * k + c % 2);
        x[c] = allowed ? scores[k][c] + z : -INFINITY;
        largest[c / 2] = fmaxf(largest[c / 2], x[c]);
      }
      return x;
    });
  }
}

// Z into weights, dropout included; 1 / their sum before it.
RKA_DEVICE void set_weights(const LongHead& h, const float (&largest)[2], float (&inverse)[2]) {
  const Problem& p = h.s.p;
  const int64_t noise_head = h.s.noise_head(h.head);
  const uint64_t seed = p.dropout > 0.0f ? uint64_t(*p.seed) : 0;
  float total[2] = {};
#pragma unroll 1
  for (int j = 0; j < h.seen; ++j) {
    h.each_tile(h.x, j, [&](int k, Four x) {
      for (int c = 0; c < 4; ++c) {
        x[c] = exp2_fast(LOG2_E * (x[c] - largest[c / 2]));
        total[c / 2] += x[c];
      }
      if (p.dropout > 0.0f) {
        float kept[4];
        draw_tile(
            h.s.lane, 8 * j + k,
            [&](int group, int row) {
              return dropout_factors(seed, group, row, noise_head, p.dropout);
            },
            kept);
        for (int c = 0; c < 4; ++c) x[c] *= kept[c];
      }
      return x;
    });
  }
  for (int half = 0; half < 2; ++half) {
    total[half] = sum_of_row(total[half]);
    inverse[half] = total[half] == 0.0f ? 0.0f : reciprocal(total[half]);
  }
}

RKA_DEVICE void long_values(LongHead& h, const float (&inverse)[2]) {
  const Long& s = h.s;
#pragma unroll 1
  for (int column = 0; column < s.p.value.width; column += SIDE) {
    const int pairs = (s.columns_from(column, s.p.value.width) + STRIP - 1) / STRIP;
    Strip<Square::TILES> out;
    out.clear();
#pragma unroll 1
    for (int j = 0; j < h.seen; ++j) {
      const float *right = h.arrive(), *aside = Long::own(h.x, 8 * j);
      const auto weights = [&](int k) {  // divided before they meet the values: no overflow
        const Four a = load4(aside + k * WARPS * LANES * 4);
        return left_operand(a[0] * inverse[0], a[2] * inverse[1], a[1] * inverse[0],
                            a[3] * inverse[1]);
      };
      multiply_by_columns(s.lane, out, weights, 2 * s.pairs_of(j), right, pairs, false);
      h.leave();
    }
    s.store_output(out, h.head, column);
  }
}

// Row of squares `tile` of a head.
RKA_DEVICE void long_forward(const Problem& p, const Workspace& w, int local, int head, int tile,
                             float* scratch, float* shared) {
  const Long s(p, w, local, tile, shared);
  s.describe_keys();
  sync_block();
  LongHead h(s, head, scratch);
  if (p.has_shape()) {
    const float factor = inverse_sqrt(float(p.shape_query.width));
#pragma unroll 1
    for (int j = 0; j < h.seen; ++j) {
      Strip<Square::TILES> scores;
      long_scores(h, p.shape_query, scores);
      activate_strip<Square>(p.activation, factor, scores);
      set_shapes(h, j, scores);
    }
    h.draws() ? project_shapes(h) : mean_deviates(h);
  } else if (p.needs_covariance()) {
#pragma unroll 1
    for (int j = 0; j < h.seen; ++j) {
      h.each_tile(h.x, j, [&](int k, Four) { return draw_normals(h, 8 * j + k); });
    }
  }
  if (p.needs_covariance() && h.draws()) draw_deviates(h);
  float largest[2] = {-3.40282347e38f, -3.40282347e38f}, inverse[2];
  set_logits(h, largest);
  for (float& x : largest) x = largest_of_row(x);
  set_weights(h, largest, inverse);
  long_values(h, inverse);
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
