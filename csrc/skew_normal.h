// One row of the skew-normal map S = X - 2 delta min(h, 0), forward and backward.
//
// For a row of shapes A with P = A K: q = A.P (rounding may not take it below 0), i = 1 / sqrt(1 +
// q), delta = i P and h = i (A.X + T). The row's sums go in, coefficients of the element-wise
// passes come out, so that the caller decides how rows are spread over lanes or threads.
#pragma once

#include "common.h"

namespace rka {
inline namespace RKA_ISA {

constexpr double MEAN_OF_HALF_NORMAL = 0.7978845608028654;  // sqrt(2 / pi)

// S = x_weight X + p_weight P, where x_weight is 1 for a draw and 0 for the mean.
template <class T>
struct SkewRow {
  T projection;  // A.X + T
  T inverse;     // i
  T h;
  T p_weight;

  static RKA_HD SkewRow sample(T q, T projection) { return sample_of(inverse_root(q), projection); }
  static RKA_HD SkewRow sample_of(T inverse, T projection) {
    const T h = projection * inverse;
    return {projection, inverse, h, h > T(0) ? T(0) : T(-2) * inverse * h};
  }
  static RKA_HD SkewRow mean(T q) { return mean_of(inverse_root(q)); }
  static RKA_HD SkewRow mean_of(T inverse) {
    return {T(0), inverse, T(0), inverse * T(MEAN_OF_HALF_NORMAL)};
  }

 private:
  static RKA_HD T inverse_root(T q) { return T(1) / std::sqrt(q < T(0) ? T(1) : T(1) + q); }
};

// From r = dS.P of the row:
//   dX = dS + shape_to_x A,  dP = p_weight dS + shape_to_p A,
//   dA = shape_to_x X + shape_to_p P + dP K.
template <class T>
struct SkewRowGrad {
  T shape_to_x;  // dh i
  T shape_to_p;  // dq

  static RKA_HD SkewRowGrad of(const SkewRow<T>& row, T r) {
    const T dh = row.h < T(0) ? T(-2) * row.inverse * r : T(0);
    // d(1 / sqrt(1 + q)): once through h, once through delta; p_weight = i * (d delta / dS).
    const T d_inverse = dh * row.projection + r * row.p_weight / row.inverse;
    const T cube = row.inverse * row.inverse * row.inverse;
    return {dh * row.inverse, T(-0.5) * cube * d_inverse};
  }
};

}  // namespace RKA_ISA
}  // namespace rka
