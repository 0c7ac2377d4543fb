// Entries of the three-kernel correlation matrix K = r1 k_c + r2 k_i + r3 k_u and of the shape's
// co-occurrence prior. See rka_fast/ops/reference/covariance.py for the whole matrices.
#pragma once

#include "elementwise.h"

namespace rka {
inline namespace RKA_ISA {

// 1 / sqrt(x), and 0 for an empty row: of a Gram matrix's diagonal, or of an item's support.
template <class T>
RKA_HD T inverse_norm(T square) {
  return square > T(0) ? T(1) / std::sqrt(square) : (square <= T(0) ? T(0) : square);  // NaN stays
}

// exp(2 gamma (cos - 1)).
template <class V>
RKA_HD V cosine_kernel(V cosine, V twice_gamma) {
  return exp_(twice_gamma * (cosine - constant<V>(1)));
}

// Unnormalised prior of key j in row t, off the diagonal: `product` = sum over allowed k of
// c_tk c_kj with the diagonal of C taken as 0, `mean` = D_tj, `own` = D_tt where t sees itself.
template <class V>
RKA_HD V prior_entry(V product, V count, V mean, V own) {
  return product + count * (mean + own);
}

}  // namespace RKA_ISA
}  // namespace rka
