// The backward pass for short sequences: three kernels, each with a block of four warps to a
// sequence: its relations, its heads, and the covariance.
//
// The heads run the forward pass again. Strips that they need later are set aside in global memory,
// each thread's in a place of its own: there are as many places as blocks at a time, so they stay in
// the cache. What the kernels hand on is there for every sequence of a launch. Sums over the rows go through squares in shared memory; every gradient has one owner.
#pragma once

#include "strip_attention.h"
#include "strip_covariance_backward.h"
#include "strip_skew_normal_backward.h"

namespace rka::cuda {

RKA_DEVICE float sigmoid_fast(float z) { return reciprocal(1.0f + exp2_fast(-LOG2_E * z)); }

// f'(z) from f(z), which has the sign of z.
RKA_DEVICE float slope_at(Activation f, float slope, float value) {
  return f == Activation::tanh ? fmaf(-value, value, 1.0f) : value > 0.0f ? 1.0f : slope;
}

// The warp's rows of a chunk's left operand into the extra square.
template <class S>
RKA_DEVICE void fetch_rows_of(const Sequence<S>& s, const Chunk& c, int head) {
  if (c.operand >= NO_OPERAND) return end_of_copies();
  s.fetch_own(s.extra(), s.p.operands[c.operand].left, head, c.column);
}

// Of the queries' chunk in the extra square and the one of the keys: adds their products to the
// scores.
template <class S>
RKA_DEVICE void add_scores_again(const Sequence<S>& s, const Rows& rows, const Chunk& c,
                                 Strip<S::TILES>& scores) {
  wait_for_copies<1>();
  sync_block();
  const int depth = (s.columns_from(c.column, s.p.operands[c.operand].left.width) + 7) / 8;
  if (s.p.scalar == Scalar::float32) {
    multiply_square_rows<S, false>(s.lane, scores, s.extra(), depth, s.buffer(c.number % 2),
                                   rows.pairs);
  } else {
    multiply_square_rows<S, true>(s.lane, scores, s.extra(), depth, s.buffer(c.number % 2),
                                  rows.pairs);
  }
  sync_block();
}

// The forward pass up to the weights, in x, and the gradient of the weights as they meet the values
// in y.
template <class S>
RKA_DEVICE void weights_again(const Sequence<S>& s, const Saved<S>& saved, const Saved<S>& handed,
                              int head, HeadState<S>& h, Strip<S::TILES>& x, Strip<S::TILES>& y) {
  const Problem& p = s.p;
  const int start = first_operand(p);
  const float slope = slope_of(p.activation);
  y.clear();
  sync_block();  // the factor is there, the last head is done with both buffers
  fetch_rows_of(s, {start}, head);
  fetch_chunk(s, {start}, head);
  fetch_chunk(s, after<S>(p, {start}), head);
  if (start == SHAPE_OPERAND) {
    x = handed.get(HANDED_PRIOR + (strip_priors(p) > 1 ? head : 0));
  } else if (p.needs_covariance()) {
    draw_noise(s, h.rows, head, x);
    saved.put(SAVED_SUMS, x);
    multiply_lower_transposed<S>(s.lane, x, s.square, h.rows.pairs);
  } else {
    x.clear();
  }
  Chunk chunk = {start}, ahead = after<S>(p, after<S>(p, chunk));
#pragma unroll 1
  while (chunk.operand < NO_OPERAND) {
    const int operand = chunk.operand;
    const float factor = p.operands[operand].scale;
    add_scores_again(s, h.rows, chunk, y);
    chunk = after<S>(p, chunk);
    fetch_rows_of(s, chunk, head);
    fetch_chunk(s, ahead, head);
    ahead = after<S>(p, ahead);
    if (chunk.operand == operand || operand == VALUE_OPERAND)
      continue;  // there is more to add, or the end
    if (operand == SCALE_OPERAND) {
      const float bias = p.scale_bias ? p.scale_bias[head] : 0.0f;
      saved.put(SAVED_DRAWS, x);
#pragma unroll
      for (int j = 0; j < S::TILES; ++j) {
        for (int c = 0; c < 4; ++c) {
          y[j][c] = fmaf(y[j][c], factor, bias);
          x[j][c] *= softplus_fast(y[j][c]);
        }
      }
      saved.put(SAVED_SCALES, y);
      y.clear();
      continue;
    }
    if (operand == SHAPE_OPERAND) {
      activate_strip<S>(p.activation, factor, y);
      Strip<S::TILES> slopes;
#pragma unroll
      for (int j = 0; j < S::TILES; ++j) {
        for (int c = 0; c < 4; ++c) {
          slopes[j][c] = x[j][c] * slope_at(p.activation, slope, y[j][c]);
          x[j][c] *= y[j][c];
        }
      }
      saved.put(SAVED_SLOPES, slopes);
      saved.put(SAVED_SHAPES, x);
      if (p.mode == Mode::mean) {
        h.draw = mean_of_skew_normal(s, h.rows, x, y);
        saved.put(SAVED_PRODUCTS, y);
      } else {
        h.draw = draw_skew_normal(s, h.rows, head, x, y,
                                  [&](const Strip<S::TILES>& c, const Strip<S::TILES>& b) {
                                    saved.put(SAVED_SUMS, c);
                                    saved.put(SAVED_PRODUCTS, b);
                                  });
      }
      y.clear();
      continue;
    }
    activate_strip<S>(p.activation, factor, y);
    if (p.activation == Activation::tanh) saved.put(SAVED_LOCATIONS, y);
#pragma unroll
    for (int j = 0; j < S::TILES; ++j) {
      for (int c = 0; c < 4; ++c) h.positive |= (y[j][c] > 0.0f ? 1u : 0u) << (4 * j + c);
    }
    softmax(s, h.rows, head, y, x);
    y.clear();
    if (p.dropout > 0.0f) h.kept = draw_dropout(s, h.rows, head);
  }
}

// From the weights in x and their gradient in y: the gradient of the logits, set aside, and the
// weights after dropout in x.
template <class S>
RKA_DEVICE void softmax_backward(const Sequence<S>& s, const Saved<S>& saved, int head,
                                 const HeadState<S>& h, Strip<S::TILES>& x, Strip<S::TILES>& y) {
  const Problem& p = s.p;
  const float factor = 1.0f / (1.0f - p.dropout);
  if (p.dropout > 0.0f) drop<S>(h.kept, factor, y);
  float total[2] = {};
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) total[c / 2] = fmaf(x[j][c], y[j][c], total[c / 2]);
  }
  for (float& t : total) t = sum_of_row(t);
#pragma unroll
  for (int j = 0; j < S::TILES; ++j) {
    for (int c = 0; c < 4; ++c) y[j][c] = x[j][c] * (y[j][c] - total[c / 2]);
  }
  saved.put(SAVED_D_LOGITS, y);
  if (p.d_bias) {
    s.store(y, p.d_bias + s.noise_head(head) * p.rows * p.keys, p.rows, p.keys, p.keys);
  }
  if (p.dropout > 0.0f) drop<S>(h.kept, factor, x);
}

// From d scores times their scale, or the weights, in x: gradients of the rows that made them.
template <class S>
RKA_DEVICE void rows_backward(const Sequence<S>& s, const Rows& rows, int head, int operand,
                              const Strip<S::TILES>& x) {
  const Problem& p = s.p;
  const Operand& o = p.operands[operand];
  const int width = o.left.width;
  sync_block();  // the extra square is done with
  s.put(x, s.extra());
#pragma unroll 1
  for (int column = 0; column < width; column += S::SIZE) {
    if (column > 0) sync_block();  // the buffers are done with
    if (o.d_left) s.fetch_heads(s.buffer(0), o.right, head, column);
    if (o.d_right) s.fetch_queries(s.buffer(1), o.left, head, column);
    wait_for_copies<0>();
    sync_block();
    const int columns = s.columns_from(column, width), tiles = (columns + 7) / 8;
    Strip<S::TILES> y;
    if (o.d_left) {
      y.clear();
      multiply_square_columns<S>(s.lane, y, s.extra(), rows.pairs, s.buffer(0), tiles);
      s.store(y, o.d_left + s.noise_head(head) * p.rows * width + column, p.rows, width, columns);
    }
    if (o.d_right) {
      y.clear();
      multiply_transposed<S>(s.lane, y, s.extra(), s.buffer(1), p.causal ? 2 * s.lane.warp : 0,
                             (p.rows + 7) / 8, tiles);
      s.store(y, o.d_right + s.noise_head(head) * p.keys * width + column, p.keys, width, columns);
    }
  }
}

template <class S>
RKA_DEVICE void backward_head(const Sequence<S>& s, const Saved<S>& saved, const Saved<S>& handed,
                              int head, bool first) {
  const Problem& p = s.p;
  HeadState<S> h;
  h.rows = s.rows_of(head);
  Strip<S::TILES> x;
  {
    Strip<S::TILES> y;
    weights_again(s, saved, handed, head, h, x, y);
    softmax_backward(s, saved, head, h, x, y);
  }
  const float slope = slope_of(p.activation);
#pragma unroll 1
  for (int operand = VALUE_OPERAND; operand >= SHAPE_OPERAND; --operand) {
    if (operand == SCALE_OPERAND && !p.has_spread()) break;
    if (operand == LOCATION_OPERAND) {
      x = saved.get(SAVED_D_LOGITS);
      if (p.activation == Activation::tanh) {
        const Strip<S::TILES> y = saved.get(SAVED_LOCATIONS);
#pragma unroll
        for (int j = 0; j < S::TILES; ++j) {
          for (int c = 0; c < 4; ++c) x[j][c] *= slope_at(p.activation, slope, y[j][c]);
        }
      } else {
#pragma unroll
        for (int j = 0; j < S::TILES; ++j) {
          for (int c = 0; c < 4; ++c) x[j][c] *= h.positive >> (4 * j + c) & 1 ? 1.0f : slope;
        }
      }
    } else if (operand == SCALE_OPERAND) {
      x = saved.get(SAVED_D_LOGITS);
      const Strip<S::TILES> y = saved.get(SAVED_SCALES);
      const Strip<S::TILES> draws = saved.get(SAVED_DRAWS);
      float share = 0.0f;
#pragma unroll
      for (int j = 0; j < S::TILES; ++j) {
        for (int c = 0; c < 4; ++c) {
          x[j][c] *= draws[j][c] * sigmoid_fast(y[j][c]);
          share += x[j][c];
        }
      }
      add_up(s, 0, share);
    } else if (operand == SHAPE_OPERAND) {
      if (p.d_scale_bias && thread_index() == 0) {
        p.d_scale_bias[int64_t(s.b) * p.heads + head] = added_up(s, 0);
      }
      if (!p.needs_covariance()) break;
      draw_backward(s, saved, handed, h, first, x);
      if (!p.has_shape()) break;
      const Strip<S::TILES> y = saved.get(SAVED_SLOPES);
#pragma unroll
      for (int j = 0; j < S::TILES; ++j) {
        for (int c = 0; c < 4; ++c) x[j][c] *= y[j][c];
      }
    }
#pragma unroll
    for (int j = 0; j < S::TILES; ++j) {
      for (int c = 0; c < 4; ++c) x[j][c] *= p.operands[operand].scale;
    }
    rows_backward(s, h.rows, head, operand, x);
  }
}

// K or its factor, and the prior, of one sequence.
template <class S>
RKA_DEVICE void strip_relations(const Problem& p, int b, float* shared) {
  const Sequence<S> s(p, b, shared);
  const Saved<S> handed = handed_on<S>(p, b);
  s.clear(s.square);  // all of it is handed on
  correlation(s);
  sync_block();
  if (p.mode == Mode::sample && s.lane.warp == 0) {
    cholesky<S>(s.lane, s.square, p.keys, p.jitter, [](int, float) {});
  }
#pragma unroll 1
  for (int i = 0; i < strip_priors(p); ++i) {
    Strip<S::TILES> x;
    x.clear();
    shape_prior(s, s.rows_of(i), x);
    handed.put(HANDED_PRIOR + i, x);
  }
  sync_block();
  handed.put(HANDED_FACTOR, s.get(s.square));
}

// The heads of one sequence; the gradient of the factor, for the mean of K, is handed on.
template <class S>
RKA_DEVICE void strip_backward(const Problem& p, int b, int64_t block, float* shared) {
  const Sequence<S> s(p, b, shared);
  const Saved<S> saved(p.scratch + block * p.scratch_per_block), handed = handed_on<S>(p, b);
  if (p.needs_covariance()) s.put(handed.get(HANDED_FACTOR), s.square);
#pragma unroll 1
  for (int head = 0; head < p.heads; ++head) backward_head(s, saved, handed, head, head == 0);
  sync_block();  // shared memory is the next sequence's
}

// From that gradient to those of what K is made of.
template <class S>
RKA_DEVICE void strip_covariance_backward(const Problem& p, int b, float* shared) {
  const Sequence<S> s(p, b, shared);
  const Saved<S> handed = handed_on<S>(p, b);
  Strip<S::TILES> x = handed.get(HANDED_D_FACTOR);
  if (p.mode == Mode::mean) {
    add_transposed(s, x);
  } else {
    s.put(handed.get(HANDED_FACTOR), s.square);
    factor_backward(s, x);
  }
  correlation_backward(s);
}

}  // namespace rka::cuda
