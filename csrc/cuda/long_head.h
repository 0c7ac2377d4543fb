// A row of squares of one head of a long sequence: the products that its logits and its output are
// made of, in their order, and what is set aside in between.
#pragma once

#include "long_sequence.h"
#include "strip_attention.h"

namespace rka::cuda {

enum class Pass { shapes, lower, symmetric, upper, scales, locations, gradients, values, none };

// Square (i, j) of the factor, or j of a head's keys with their columns from `column` on.
struct Step {
  Pass pass = Pass::none;
  int i = 0, j = 0, column = 0;

  RKA_DEVICE bool of_factor() const {
    return pass == Pass::lower || pass == Pass::symmetric || pass == Pass::upper;
  }
  // Whether it adds to what a step before has begun.
  RKA_DEVICE bool continues(const Step& last) const {
    if (pass != last.pass) return false;
    return of_factor() ? i == last.i : pass == Pass::values ? column == last.column : j == last.j;
  }
};

// What is set aside, a row of squares each; forward most of it lies in one place.
struct Aside {
  float *shapes, *products, *noise, *sums, *deviates, *scaled, *logits;
  float *scales = nullptr, *locations = nullptr, *d_logits = nullptr;  // backward

  RKA_DEVICE Aside(const Problem& p, float* x, float* y)
      : shapes(x), products(x), noise(y), sums(x), deviates(x), scaled(x), logits(x) {
    if (p.mode == Mode::mean) products = y;
  }
  // Of LONG_BACKWARD_ROWS rows of squares.
  RKA_DEVICE Aside(float* x, int64_t row)
      : shapes(x),
        products(x + row),
        noise(x + 2 * row),
        sums(noise),
        deviates(x + 3 * row),
        scaled(x + 4 * row),
        logits(scaled),
        scales(x + 5 * row),
        locations(x + 6 * row),
        d_logits(x + 7 * row) {}
};

struct LongHead {
  const Long& s;
  const int head, seen;  // squares that the rows see
  const Aside aside;
  // Of the rows.
  float q[2] = {}, projection[2] = {}, largest[2] = {-3.40282347e38f, -3.40282347e38f};
  float inverse[2] = {};  // of the sum of the weights
  Draw draw = {};

  RKA_DEVICE LongHead(const Long& s, int head, const Aside& aside)
      : s(s), head(head), seen(s.seen_squares()), aside(aside) {}

  RKA_DEVICE bool draws() const { return s.p.mode == Mode::sample; }
  RKA_DEVICE Step first() const {
    if (s.p.has_shape()) return {Pass::shapes};
    if (s.p.needs_covariance()) return {Pass::upper, seen - 1};
    return {s.p.has_spread() ? Pass::scales : Pass::locations};
  }

  RKA_DEVICE Step after(const Step& now) const {
    Step next = now;
    if (now.pass == Pass::none) return next;
    if (now.of_factor()) {
      const bool upper = now.pass == Pass::upper;
      if (++next.j < (upper ? now.i + 1 : seen)) return next;
      next.i += upper ? -1 : 1;
      next.j = now.pass == Pass::lower ? next.i : 0;
      if (next.i >= 0 && next.i < seen) return next;
      if (now.pass == Pass::lower) return {Pass::upper, seen - 1};
      return {Pass::scales};
    }
    if (now.pass == Pass::values) {
      if (++next.j < seen) return next;
      next.j = 0, next.column += SIDE;
      if (next.column >= s.p.value.width) next.pass = Pass::none;
      return next;
    }
    next.column += SIDE;
    if (next.column < key_of(now.pass).width) return next;
    next.column = 0;
    if (now.pass == Pass::scales) {
      next.pass = Pass::locations;
      return next;
    }
    if (++next.j < seen) {
      if (now.pass == Pass::locations && s.p.has_spread()) next.pass = Pass::scales;
      return next;
    }
    if (now.pass == Pass::locations) return {aside.scales ? Pass::gradients : Pass::values};
    if (now.pass == Pass::gradients) return {};
    return {draws() ? Pass::lower : Pass::symmetric};
  }

  RKA_DEVICE Heads key_of(Pass pass) const {
    const Problem& p = s.p;
    return choose(pass == Pass::shapes || pass == Pass::scales,
                  choose(pass == Pass::shapes, p.shape_key, p.scale_key),
                  choose(pass == Pass::values || pass == Pass::gradients, p.value, p.key));
  }
  RKA_DEVICE Heads query_of(Pass pass) const {
    const Problem& p = s.p;
    return choose(pass == Pass::shapes, p.shape_query,
                  choose(pass == Pass::scales, p.scale_query,
                         choose(pass == Pass::gradients || pass == Pass::values, p.grad, p.query)));
  }
  // Values are read by columns, as the factor is where it stands on the right as it is.
  RKA_DEVICE static bool by_columns(const Step& now) {
    return now.pass == Pass::values || now.pass == Pass::lower ||
           (now.pass == Pass::symmetric && now.j >= now.i);
  }

  // Starts the copies of a step.
  RKA_DEVICE void fetch(float* to, const Step& now) const {
    if (now.pass == Pass::none) return end_of_copies();
    const bool columns = by_columns(now);
    if (now.of_factor()) {
      const bool below = now.j > now.i;
      const float* from = s.w.relation(s.local, below ? now.j : now.i, below ? now.i : now.j);
      return columns ? s.fetch_square<ByColumns>(to, from) : s.fetch_square<Square>(to, from);
    }
    const Heads key = key_of(now.pass);
    if (columns) return s.fetch_heads<ByColumns>(to, key, head, now.j, now.column);
    s.fetch_heads<Square>(to, key, head, now.j, now.column);
  }

  // What is set aside of square j, as a function of the tile.
  RKA_DEVICE auto tile_of(const float* from, int j) const {
    from = s.own(from, 8 * j);
    return [from](int k) { return load4(from + k * TILE_FLOATS); };
  }
  // f(tile) of the warp's strip of square j, set aside.
  template <class F>
  RKA_DEVICE void each_tile(float* to, int j, F f) const {
    const int tiles = 2 * s.pairs_of(j);
    to = s.own(to, 8 * j);
#pragma unroll 1
    for (int k = 0; k < tiles; ++k) store4(to + k * TILE_FLOATS, f(k));
  }
  // The same where the tile stands in a strip as well.
  template <class F>
  RKA_DEVICE void each_tile_unrolled(float* to, int j, F f) const {
    const int tiles = 2 * s.pairs_of(j);
    to = s.own(to, 8 * j);
#pragma unroll
    for (int k = 0; k < Square::TILES; ++k) {
      if (k < tiles) store4(to + k * TILE_FLOATS, f(k));
    }
  }
  RKA_DEVICE void put(const Strip<Square::TILES>& x, float* to, int j) const {
    each_tile_unrolled(to, j, [&](int k) { return Four{{x[k][0], x[k][1], x[k][2], x[k][3]}}; });
  }
};

// sum += the product of a step, whose square is on its way to `right`.
RKA_DEVICE void multiply_step(const LongHead& h, const Step& now, const float* right,
                              Strip<Square::TILES>& sum) {
  const Long& s = h.s;
  const Lane& l = s.lane;
  const auto arrive = [] {
    wait_for_copies<1>();
    sync_block();
  };
  const bool values = now.pass == Pass::values;
  if (now.of_factor() || values) {
    const float* from = now.pass == Pass::upper ? h.aside.sums
                        : values                ? h.aside.logits
                                                : h.aside.shapes;
    from = s.own(from, 8 * now.j);
    // Weights are divided before they meet the values: a sum of many may overflow.
    const float first = values ? h.inverse[0] : 1.0f, second = values ? h.inverse[1] : 1.0f;
    const auto left = [&](int k) {
      const Four a = load4(from + k * TILE_FLOATS);
      return Four{{a[0] * first, a[1] * first, a[2] * second, a[3] * second}};
    };
    const int depth = 2 * s.pairs_of(now.j),
              pairs = values ? (s.columns_from(now.column, s.p.value.width) + STRIP - 1) / STRIP
                             : s.pairs_of(now.i);
    const bool diagonal = now.i == now.j && (now.pass == Pass::lower || now.pass == Pass::upper);
    arrive();
    if (LongHead::by_columns(now)) {
      multiply_tiles<true>(l, sum, left, depth, right, pairs, diagonal);
    } else {
      multiply_tiles<false>(l, sum, left, depth, right, pairs, diagonal);
    }
    return;
  }
  const Heads query = h.query_of(now.pass);
  const Strip<Square::TILES> q = s.load(query, h.head, now.column);
  const int depth = (s.columns_from(now.column, query.width) + 7) / 8, pairs = s.pairs_of(now.j);
  arrive();
  if (s.p.scalar == Scalar::float32) {
    multiply_rows<Square>(l, sum, q, depth, right, pairs);
  } else {
    multiply_rows<Square, true>(l, sum, q, depth, right, pairs);
  }
}

// All steps; finish(step, sum) when a sum is complete. One loop for all products: less code.
template <class F>
RKA_DEVICE void take_steps(const LongHead& h, F finish) {
  Strip<Square::TILES> sum;
  Step now, next, ahead = h.first();
  sum.clear();
#pragma unroll 1
  for (int number = -2; number < 0 || now.pass != Pass::none; ++number) {
    float* buffer = h.s.buffer(number & 1);
    if (number >= 0) {
      multiply_step(h, now, buffer, sum);
      sync_block();
    }
    h.fetch(buffer, ahead);
    if (number >= 0 && !next.continues(now)) {
      finish(now, sum);
      sum.clear();
    }
    now = next, next = ahead, ahead = h.after(ahead);
  }
}

}  // namespace rka::cuda
