// softmax(Z) V of short sequences: one block of four warps a sequence, nothing in global memory but
// arguments and output.
//
// A warp owns 16 rows of everything, so rows are never exchanged; a barrier stands only where an
// operand comes to shared memory or its place is needed again.
#pragma once

#include "strip_cholesky.h"
#include "strip_skew_normal.h"

namespace rka::cuda {

constexpr float LN_2 = 0.6931471805599453f;

// Dropout's factors: bit 4 j + c is set where element c of tile j is kept.
template <class S>
RKA_DEVICE uint32_t draw_dropout(const Sequence<S>& s, const Rows& rows, int head) {
  const uint64_t seed = uint64_t(*s.p.seed);
  const int64_t noise_head = s.noise_head(head);
  uint32_t kept = 0;
#pragma unroll 1
  for (int j = 0; j < S::TILES; ++j) {
    if (j / 2 >= rows.pairs) break;
    float tile[4];
    draw_tile(
        s.lane, j,
        [&](int group, int row) {
          return dropout_factors(seed, group, row, noise_head, s.p.dropout);
        },
        tile);
    for (int c = 0; c < 4; ++c) kept |= (tile[c] != 0.0f ? 1u : 0u) << (4 * j + c);
  }
  return kept;
}

// max(z, 0) + log(1 + e^-|z|).
RKA_DEVICE float softplus_fast(float z) {
  return fmaf(LN_2, log2_fast(1.0f + exp2_fast(-LOG2_E * fabsf(z))), z < 0.0f ? 0.0f : z);
}

// From scale scores: x <- omega o x, omega = softplus.
template <class S>
RKA_DEVICE void apply_scale(const Rows& rows, const Strip<S::TILES>& scores, float factor,
                            float bias, Strip<S::TILES>& x) {
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    if (j / 2 >= rows.pairs) continue;
    for (int c = 0; c < 4; ++c) {
      x[j][c] *= softplus_fast(fmaf(scores[j][c], factor, bias));
    }
  }
}

template <class S>
RKA_DEVICE void add_bias(const Sequence<S>& s, const Rows& rows, int head, Strip<S::TILES>& x) {
  const int column = kept(s.lane.column(0)), row = kept(s.lane.row(0));
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) {
      if (!rows.allowed(j, c)) continue;
      x[j][c] += s.p.bias.at(s.b, head, row + c / 2 * 8, column + 8 * j + c % 2);
    }
  }
}

// From location scores in y (their activation applied) and omega o S in x: the weights into x, 0
// where the row sees nothing. (Divided before they meet the values: a sum of many may overflow.)
template <class S>
RKA_DEVICE void softmax(const Sequence<S>& s, const Rows& rows, int head, const Strip<S::TILES>& y,
                        Strip<S::TILES>& x) {
  if (s.p.bias.data) add_bias(s, rows, head, x);
  float largest[2] = {-3.40282347e38f, -3.40282347e38f}, total[2] = {};
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    if (j / 2 >= rows.pairs) continue;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      x[j][c] = rows.allowed(j, c) ? y[j][c] + x[j][c] : -INFINITY;
      largest[c / 2] = fmaxf(largest[c / 2], x[j][c]);
    }
  }
  for (float& l : largest) l = largest_of_row(l);
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    if (j / 2 >= rows.pairs) continue;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      x[j][c] = exp2_fast(LOG2_E * (x[j][c] - largest[c / 2]));
      total[c / 2] += x[j][c];
    }
  }
  for (float& sum : total) {
    sum = sum_of_row(sum);
    sum = sum == 0.0f ? 0.0f : reciprocal(sum);
  }
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) x[j][c] *= total[c / 2];
  }
}

template <class S>
RKA_DEVICE void drop(uint32_t kept, float factor, Strip<S::TILES>& x) {
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) x[j][c] *= kept >> (4 * j + c) & 1 ? factor : 0.0f;
  }
}

// Field by field: a reference chosen at run time would make every field a load of its own.
RKA_DEVICE Heads choose(bool condition, const Heads& x, const Heads& y) {
  return {condition ? x.data : y.data, condition ? x.batch : y.batch, condition ? x.head : y.head,
          condition ? x.row : y.row, condition ? x.width : y.width};
}

RKA_DEVICE int first_operand(const Problem& p) {
  return p.has_shape() ? SHAPE_OPERAND : p.has_spread() ? SCALE_OPERAND : LOCATION_OPERAND;
}

// They come as chunks of columns as wide as a square, two ahead of their use, in turn into the two
// buffers.
struct Chunk {
  int operand, column = 0, number = 0;
};
template <class S>
RKA_DEVICE Chunk after(const Problem& p, const Chunk& c) {
  const bool more = c.column + S::SIZE < p.operands[c.operand].right.width;
  return {c.operand + !more, more ? c.column + S::SIZE : 0, c.number + 1};
}
template <class S>
RKA_DEVICE void fetch_chunk(const Sequence<S>& s, const Chunk& c, int head) {
  if (c.operand >= NO_OPERAND) return end_of_copies();
  s.fetch_heads(s.buffer(c.number % 2), s.p.operands[c.operand].right, head, c.column);
}

// Of the queries' chunk and the one in shared memory: adds their products to the scores. (Those who
// begin new scores clear them when the old ones are done with, and not here: they would have to be
// kept until then, as they might go on.)
template <class S>
RKA_DEVICE void add_scores(const Sequence<S>& s, const Rows& rows, const Heads& query, int head,
                           const Chunk& c, Strip<S::TILES>& scores) {
  const Strip<S::TILES> q = s.load(query, head, c.column);
  wait_for_copies<1>();
  sync_block();
  const int depth = (s.columns_from(c.column, query.width) + 7) / 8;
  if (s.p.scalar == Scalar::float32) {
    multiply_rows<S>(s.lane, scores, q, depth, s.buffer(c.number % 2), rows.pairs);
  } else {
    multiply_rows<S, true>(s.lane, scores, q, depth, s.buffer(c.number % 2), rows.pairs);
  }
  sync_block();
}

// K, or its factor by one warp: the others go on. The counts are in the second buffer afterwards.
template <class S>
RKA_DEVICE void prepare(const Sequence<S>& s, int head) {
  correlation(s);
  sync_block();
  if (first_operand(s.p) == SHAPE_OPERAND) fetch_chunk(s, {SHAPE_OPERAND}, head);
  if (s.p.mode == Mode::sample && s.lane.warp == 0) {
    cholesky<S>(s.lane, s.square, s.p.keys, s.p.jitter, [](int, float) {});
  }
}

// The prior of a head into x, zeros without shapes. K or its factor is in the square afterwards,
// and the first two chunks of operands are on their way.
template <class S>
RKA_DEVICE void begin_head(const Sequence<S>& s, const Rows& rows, int head, bool first,
                           Strip<S::TILES>& x) {
  const int start = first_operand(s.p);
  if (!first) {
    sync_block();  // the last head is done with both buffers
    if (start == SHAPE_OPERAND) {
      if (s.p.cooccurrence) s.fetch_counts();
      fetch_chunk(s, {SHAPE_OPERAND}, head);
      if (s.p.cooccurrence) {
        wait_for_copies<1>();
        s.clear_diagonal();
        sync_block();
      }
    }
  }
  x.clear();
  if (start == SHAPE_OPERAND) shape_prior(s, rows, x);
  sync_block();  // the factor is there, the counts' place is free
  if (start != SHAPE_OPERAND) fetch_chunk(s, {start}, head);
  fetch_chunk(s, after<S>(s.p, {start}), head);
}

// The strip of a head: S, scaled, plus the location, weights, times the values.
template <class S>
RKA_DEVICE void forward_head(const Sequence<S>& s, int head, bool first) {
  const Problem& p = s.p;
  const Rows rows = s.rows_of(head);
  const int start = first_operand(p);
  const auto ignore = [](const Strip<S::TILES>&, const Strip<S::TILES>&) {};
  Strip<S::TILES> x, y;
  y.clear();
  begin_head(s, rows, head, first, x);
  if (p.needs_covariance() && start != SHAPE_OPERAND) {  // a draw without shapes
    draw_noise(s, rows, head, x);
    multiply_lower_transposed<S>(s.lane, x, s.square, rows.pairs);
  }
  Chunk chunk = {start}, ahead = after<S>(p, after<S>(p, chunk));
#pragma unroll 1
  while (chunk.operand < VALUE_OPERAND) {
    const int operand = chunk.operand;
    const float factor = p.operands[operand].scale;
    add_scores(s, rows, p.operands[operand].left, head, chunk, y);
    fetch_chunk(s, ahead, head);
    ahead = after<S>(p, ahead), chunk = after<S>(p, chunk);
    if (chunk.operand == operand) continue;  // there is more to add
    if (operand == SCALE_OPERAND) {
      apply_scale<S>(rows, y, factor, p.scale_bias ? p.scale_bias[head] : 0.0f, x);
      y.clear();
      continue;
    }
    activate_strip<S>(p.activation, factor, y);
    if (operand == SHAPE_OPERAND) {
      for (int j = 0; j < S::TILES; ++j) {
        for (int c = 0; c < 4; ++c) x[j][c] *= y[j][c];
      }
      if (p.mode == Mode::sample) {
        draw_skew_normal(s, rows, head, x, y, ignore);
      } else {
        mean_of_skew_normal(s, rows, x, y);
      }
      y.clear();
    }
  }
  softmax(s, rows, head, y, x);
  if (p.dropout > 0.0f) {
    drop<S>(draw_dropout(s, rows, head), 1.0f / (1.0f - p.dropout), x);
  }
#pragma unroll 1
  while (true) {
    y.clear();
    wait_for_copies<1>();
    sync_block();
    const int width = s.columns_from(chunk.column, p.value.width);
    multiply_columns<S>(s.lane, y, x, rows.pairs, s.buffer(chunk.number % 2), (width + 7) / 8);
    s.store_output(y, head, chunk.column);
    chunk = after<S>(p, chunk);
    if (chunk.operand != VALUE_OPERAND) break;
    sync_block();
    fetch_chunk(s, ahead, head);
    ahead = after<S>(p, ahead);
  }
}

// Heads part, part + parts, ...: blocks that share a sequence repeat its covariance.
template <class S>
RKA_DEVICE void strip_forward(const Problem& p, int b, int part, int parts, float* shared) {
  const Sequence<S> s(p, b, shared);
  if (p.needs_covariance()) prepare(s, part);
#pragma unroll 1
  for (int head = part; head < p.heads; head += parts) forward_head(s, head, head == part);
}

}  // namespace rka::cuda
