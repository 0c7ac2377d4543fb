// A, P = A K, X = L E and the deviates S of a tile of rows, forward.
#pragma once

#include "covariance.h"

namespace rka {
inline namespace RKA_ISA {

template <class T>
using Tile = typename Sequence<T>::Tile;

template <class T>
const T* prior_row(const Sequence<T>& s, const Tile<T>& t, int r) {
  return s.has_prior ? s.prior + int64_t(t.first + r) * s.ld : s.allowed + r * s.ld;
}

// A and P = A K of a tile's rows: what their draws share.
template <class T>
void shape_tile(Sequence<T>& s, const Tile<T>& t, int64_t head) {
  typedef Vec<T> V;
  const Problem& problem = s.problem;
  const int ld = s.ld;
  if (s.skewed) {
    s.score_tile(s.shape, t, head);
    for (int r = 0; r < t.rows; ++r) {
      const T* prior = prior_row(s, t, r);
      for (int j = 0; j < t.columns; j += LANES<T>)
        store(s.alpha + r * ld + j,
              activate(problem.activation, load(s.shape.tile + r * ld + j)) * load(prior + j));
    }
    gemm<T, false, Op::set>(t.rows, t.columns, t.limit, s.alpha, ld, s.k, ld, s.p, ld);
  }
  if (head == 0) {
    s.fetch_next(problem.features, t, 0, problem.feature_width);
    s.fetch_next(problem.cooccurrence, t, 0, problem.keys);
  }
}

// X = E U of a draw and the coefficients of S for the rows of a tile.
template <class T>
void skew_normal_tile(Sequence<T>& s, const Tile<T>& t, int64_t head) {
  typedef Vec<T> V;
  const int ld = s.ld;
  const uint32_t stream_head = uint32_t(s.b * s.problem.heads + head);
  if (s.sampled) {
    const auto columns = [&](int r) { return s.visible_keys(t, r); };
    normal_tile(s.seed, uint32_t(s.col0 / 4), s.position(t.first), stream_head, t.rows, columns,
                s.noise, ld);
    gemm_upper<T, Op::set>(t.rows, t.columns, t.limit, s.noise, ld, s.u, ld, s.x, ld);
  }
  if (!s.skewed) return;
  T skew_noise[TILE];
  if (s.sampled) skew_noise_tile(s.seed, s.position(t.first), stream_head, t.rows, skew_noise);
  for (int r = 0; r < t.rows; ++r) {
    V q = {}, projection = {};
    for (int j = 0; j < t.columns; j += LANES<T>) {
      const V a = load(s.alpha + r * ld + j);
      q += a * load(s.p + r * ld + j);
      if (s.sampled) projection += a * load(s.x + r * ld + j);
    }
    s.skew[r] = s.sampled ? SkewRow<T>::sample(sum<T>(q), sum<T>(projection) + skew_noise[r])
                          : SkewRow<T>::mean(sum<T>(q));
  }
}

// S of LANES keys from j: X - 2 delta min(h, 0), its mean, or X alone.
template <class T>
Vec<T> deviates(const Sequence<T>& s, int r, int j) {
  const int at = r * s.ld + j;
  if (!s.skewed) return s.sampled ? load(s.x + at) : Vec<T>{};
  const Vec<T> skewed = s.skew[r].p_weight * load(s.p + at);
  return s.sampled ? load(s.x + at) + skewed : skewed;
}

}  // namespace RKA_ISA
}  // namespace rka
