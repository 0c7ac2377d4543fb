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

// From scale scores: x <- omega o x, omega = softplus = max(z, 0) + log(1 + e^-|z|).
template <class S>
RKA_DEVICE void apply_scale(const Rows& rows, const Strip<S::TILES>& scores, float factor,
                            float bias, Strip<S::TILES>& x) {
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    if (j / 2 >= rows.pairs) continue;
    for (int c = 0; c < 4; ++c) {
      const float z = fmaf(scores[j][c], factor, bias);
      const float e = exp2_fast(-LOG2_E * fabsf(z));
      x[j][c] *= fmaf(LN_2, log2_fast(1.0f + e), z < 0.0f ? 0.0f : z);
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

// From location scores in y (their activation applied) and omega o S in x: exp(z - max z) into x,
// and the inverse of its sum over the row, 0 where the row sees nothing.
template <class S>
RKA_DEVICE void softmax(const Sequence<S>& s, const Rows& rows, int head, const Strip<S::TILES>& y,
                        Strip<S::TILES>& x, float (&inverse)[2]) {
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
  for (int half = 0; half < 2; ++half) {
    const float sum = sum_of_row(total[half]);
    inverse[half] = sum == 0.0f ? 0.0f : reciprocal(sum);
  }
}

template <class S>
RKA_DEVICE void drop(uint32_t kept, float factor, Strip<S::TILES>& x) {
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) x[j][c] *= kept >> (4 * j + c) & 1 ? factor : 0.0f;
  }
}

// The right operands of a head in the order of their use; their parity names the buffer.
enum Operand { SHAPE_KEY, SCALE_KEY, LOCATION_KEY, VALUE, NO_OPERAND };

// Field by field: a reference chosen at run time would make every field a load of its own.
RKA_DEVICE Heads choose(bool condition, const Heads& x, const Heads& y) {
  return {condition ? x.data : y.data, condition ? x.batch : y.batch, condition ? x.head : y.head,
          condition ? x.row : y.row, condition ? x.width : y.width};
}

template <class S>
RKA_DEVICE void fetch_operand(const Sequence<S>& s, int operand, int head) {
  if (operand >= NO_OPERAND) return end_of_copies();
  const Problem& p = s.p;
  const Heads x =
      choose(operand < LOCATION_KEY, choose(operand == SHAPE_KEY, p.shape_key, p.scale_key),
             choose(operand == VALUE, p.value, p.key));
  s.fetch_heads(s.buffer(operand % 2), x, head);
}

RKA_DEVICE int first_operand(const Problem& p) {
  return p.has_shape() ? SHAPE_KEY : p.has_spread() ? SCALE_KEY : LOCATION_KEY;
}

// K, or its factor by one warp: the others go on. The counts are in the second buffer afterwards.
template <class S>
RKA_DEVICE void prepare(const Sequence<S>& s, int head) {
  correlation(s);
  sync_block();
  fetch_operand(s, first_operand(s.p) == SHAPE_KEY ? SHAPE_KEY : NO_OPERAND, head);
  if (s.p.mode == Mode::sample && s.lane.warp == 0) {
    cholesky<S>(s.lane, s.square, s.p.keys, s.p.jitter);
  }
}

// The prior of a head into x, zeros without shapes. K or its factor is in the square afterwards,
// and the first two operands are on their way.
template <class S>
RKA_DEVICE void begin_head(const Sequence<S>& s, const Rows& rows, int head, bool first,
                           Strip<S::TILES>& x) {
  const int start = first_operand(s.p);
  if (!first) {
    sync_block();  // the last head is done with both buffers
    if (start == SHAPE_KEY) {
      if (s.p.cooccurrence) s.fetch_counts();
      fetch_operand(s, SHAPE_KEY, head);
      if (s.p.cooccurrence) {
        wait_for_copies<1>();
        s.clear_diagonal();
        sync_block();
      }
    }
  }
  x.clear();
  if (start == SHAPE_KEY) shape_prior(s, rows, x);
  sync_block();  // the factor is there, the counts' place is free
  if (start != SHAPE_KEY) fetch_operand(s, start, head);
  fetch_operand(s, start + 1, head);
}

// The strip of a head: S, scaled, plus the location, weights, times the values.
template <class S>
RKA_DEVICE void forward_head(const Sequence<S>& s, int head, bool first) {
  const Problem& p = s.p;
  const Rows rows = s.rows_of(head);
  const int start = first_operand(p);
  const auto ignore = [](const Strip<S::TILES>&, const Strip<S::TILES>&) {};
  Strip<S::TILES> x, y;
  begin_head(s, rows, head, first, x);
  if (p.needs_covariance() && start != SHAPE_KEY) {  // a draw without shapes
    draw_noise(s, rows, head, x);
    multiply_lower_transposed<S>(s.lane, x, s.square, rows.pairs);
  }
#pragma unroll 1
  for (int operand = start; operand < VALUE; ++operand) {
    const Heads query = choose(operand == SHAPE_KEY, p.shape_query,
                               choose(operand == SCALE_KEY, p.scale_query, p.query));
    const float factor =
        operand == LOCATION_KEY ? p.location_scale : inverse_sqrt(float(query.width));
    {
      const Strip<S::TILES> q = s.load(query, head);
      y.clear();
      wait_for_copies<1>();
      sync_block();
      multiply_rows<S>(s.lane, y, q, (query.width + 7) / 8, s.buffer(operand % 2), rows.pairs);
    }
    sync_block();
    fetch_operand(s, operand + 2, head);
    if (operand == SCALE_KEY) {
      apply_scale<S>(rows, y, factor, p.scale_bias ? p.scale_bias[head] : 0.0f, x);
      continue;
    }
    activate_strip<S>(p.activation, factor, y);
    if (operand == SHAPE_KEY) {
      for (int j = 0; j < S::TILES; ++j) {
        for (int c = 0; c < 4; ++c) x[j][c] *= y[j][c];
      }
      if (p.mode == Mode::sample) {
        draw_skew_normal(s, rows, head, x, y, ignore);
      } else {
        mean_of_skew_normal(s, rows, x, y);
      }
    }
  }
  float weight[2];
  softmax(s, rows, head, y, x, weight);
  if (p.dropout > 0.0f) {
    drop<S>(draw_dropout(s, rows, head), 1.0f / (1.0f - p.dropout), x);
  }
  y.clear();
  wait_for_copies<0>();
  sync_block();
  const int width = p.value.width;
  multiply_columns<S>(s.lane, y, x, rows.pairs, s.buffer(VALUE % 2), (width + 7) / 8);
  float* out = static_cast<float*>(p.output) + s.noise_head(head) * p.rows * width;
  s.store(y, out, p.rows, width, width, weight);
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
