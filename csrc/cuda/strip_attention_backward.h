// The backward pass for short sequences: one block of four warps a sequence.
//
// The forward pass is run again. Strips that are needed later are set aside in global memory, each
// thread's in a place of its own: there are as many places as blocks at a time, so they stay in the
// cache. Sums over the rows go through squares in shared memory; every gradient has one owner.
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

// The forward pass up to the weights, in x, and the gradient of the weights as they meet the values
// in y.
template <class S>
RKA_DEVICE void weights_again(const Sequence<S>& s, const Saved<S>& saved, int head, bool first,
                              HeadState<S>& h, Strip<S::TILES>& x, Strip<S::TILES>& y) {
  const Problem& p = s.p;
  const int start = first_operand(p);
  const float slope = slope_of(p.activation);
  y.clear();
  begin_head(s, h.rows, head, first, x);
  if (p.needs_covariance() && start != SHAPE_KEY) {
    draw_noise(s, h.rows, head, x);
    saved.put(SAVED_SUMS, x);
    multiply_lower_transposed<S>(s.lane, x, s.square, h.rows.pairs);
  }
  Chunk chunk = {start}, ahead = after<S>(p, after<S>(p, chunk));
#pragma unroll 1
  while (chunk.operand < NO_OPERAND) {
    const int operand = chunk.operand;
    const Heads query =
        choose(operand < LOCATION_KEY, choose(operand == SHAPE_KEY, p.shape_query, p.scale_query),
               choose(operand == VALUE, p.grad, p.query));
    const float factor = scale_of(p, operand, query.width);
    add_scores(s, h.rows, query, head, chunk, y);
    fetch_chunk(s, ahead, head);
    ahead = after<S>(p, ahead), chunk = after<S>(p, chunk);
    if (chunk.operand == operand || operand == VALUE) continue;  // there is more to add, or the end
    if (operand == SCALE_KEY) {
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
    if (operand == SHAPE_KEY) {
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
    s.store(y, p.d_bias + s.noise_head(head) * p.rows * p.keys, p.rows, p.keys, p.keys,
            {1.0f, 1.0f});
  }
  if (p.dropout > 0.0f) drop<S>(h.kept, factor, x);
}

// From d scores (or weights) in x: gradients of the rows that made them. `key` may have no data:
// then there is no query of its own either.
template <class S>
RKA_DEVICE void rows_backward(const Sequence<S>& s, const HeadState<S>& h, int head,
                              const Strip<S::TILES>& x, const Heads& query, const Heads& key,
                              float factor, float* d_query, float* d_key) {
  const Problem& p = s.p;
  const int width = query.width;
  sync_block();  // the extra square is done with
  s.put(x, s.extra());
#pragma unroll 1
  for (int column = 0; column < width; column += S::SIZE) {
    if (column > 0) sync_block();  // the buffers are done with
    if (key.data) s.fetch_heads(s.buffer(0), key, head, column);
    s.fetch_queries(s.buffer(1), query, head, column);
    wait_for_copies<0>();
    sync_block();
    const int columns = s.columns_from(column, width), tiles = (columns + 7) / 8;
    Strip<S::TILES> y;
    if (d_query && key.data) {
      y.clear();
      multiply_square_columns<S>(s.lane, y, s.extra(), h.rows.pairs, s.buffer(0), tiles);
      s.store(y, d_query + s.noise_head(head) * p.rows * width + column, p.rows, width, columns,
              {factor, factor});
    }
    if (d_key) {
      y.clear();
      multiply_transposed<S>(s.lane, y, s.extra(), s.buffer(1), p.causal ? 2 * s.lane.warp : 0,
                             (p.rows + 7) / 8, tiles);
      s.store(y, d_key + s.noise_head(head) * p.keys * width + column, p.keys, width, columns,
              {factor, factor});
    }
  }
}

template <class S>
RKA_DEVICE void backward_head(const Sequence<S>& s, const Saved<S>& saved, int head, bool first) {
  const Problem& p = s.p;
  HeadState<S> h;
  h.rows = s.rows_of(head);
  Strip<S::TILES> x;
  {
    Strip<S::TILES> y;
    weights_again(s, saved, head, first, h, x, y);
    softmax_backward(s, saved, head, h, x, y);
  }
  const float slope = slope_of(p.activation);
#pragma unroll 1
  for (int operand = VALUE; operand >= SHAPE_KEY; --operand) {
    if (operand == SCALE_KEY && !p.has_spread()) break;
    if (operand == LOCATION_KEY) {
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
    } else if (operand == SCALE_KEY) {
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
    } else if (operand == SHAPE_KEY) {
      if (p.d_scale_bias && thread_index() == 0) {
        p.d_scale_bias[int64_t(s.b) * p.heads + head] = added_up(s, 0);
      }
      if (!p.needs_covariance()) break;
      draw_backward(s, saved, h, first, x);
      if (!p.has_shape()) break;
      const Strip<S::TILES> y = saved.get(SAVED_SLOPES);
#pragma unroll
      for (int j = 0; j < S::TILES; ++j) {
        for (int c = 0; c < 4; ++c) x[j][c] *= y[j][c];
      }
    }
    const bool shape = operand == SHAPE_KEY, scale = operand == SCALE_KEY, value = operand == VALUE;
    const Heads query = choose(operand < LOCATION_KEY, choose(shape, p.shape_query, p.scale_query),
                               choose(value, p.grad, p.query));
    const Heads key = choose(operand < LOCATION_KEY, choose(shape, p.shape_key, p.scale_key),
                             choose(value, Heads{}, p.key));
    rows_backward(s, h, head, x, query, key, scale_of(p, operand, query.width),
                  shape   ? p.d_shape_query
                  : scale ? p.d_scale_query
                          : p.d_query,
                  shape   ? p.d_shape_key
                  : scale ? p.d_scale_key
                  : value ? p.d_value
                          : p.d_key);
  }
}

template <class S>
RKA_DEVICE void strip_backward(const Problem& p, int b, int64_t scratch, float* shared) {
  const Sequence<S> s(p, b, shared);
  const Saved<S> saved(p, scratch);
  if (p.needs_covariance()) prepare(s, 0);
#pragma unroll 1
  for (int head = 0; head < p.heads; ++head) backward_head(s, saved, head, head == 0);
  if (p.wants_covariance()) {
    Strip<S::TILES> x = saved.get(SAVED_D_FACTOR);
    if (p.mode == Mode::mean) {
      add_transposed(s, x);
    } else {
      factor_backward(s, x);
    }
    correlation_backward(s);
  }
  sync_block();  // shared memory is the next sequence's
}

}  // namespace rka::cuda
