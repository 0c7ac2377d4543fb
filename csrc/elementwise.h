// Element-wise mathematics, templated over scalars and SIMD vectors.
//
// A vector type brings its own select, exp_, log1p_unit and tanh_, declared before this header:
// built-in vectors have no namespace in which they could be found later.
#pragma once

#include "common.h"

namespace rka {
inline namespace RKA_ISA {

template <class T>
RKA_HD T select(bool condition, T yes, T no) {
  return condition ? yes : no;
}
RKA_HD float exp_(float x) { return expf(x); }
RKA_HD double exp_(double x) { return exp(x); }
RKA_HD float tanh_(float x) { return tanhf(x); }
RKA_HD double tanh_(double x) { return tanh(x); }
// log(1 + x) for 0 <= x <= 1.
RKA_HD float log1p_unit(float x) { return log1pf(x); }
RKA_HD double log1p_unit(double x) { return log1p(x); }

// f of location and shape.
template <class V>
RKA_HD V activate(Activation f, V x) {
  switch (f) {
    case Activation::leaky_relu: return select(x > constant<V>(0), x, x * constant<V>(0.01));
    case Activation::relu: return select(x < constant<V>(0), constant<V>(0), x);  // a NaN stays one
    case Activation::tanh: return tanh_(x);
    default: return x;
  }
}

// f'(x).
template <class V>
RKA_HD V activation_slope(Activation f, V x) {
  const V one = constant<V>(1);
  switch (f) {
    case Activation::leaky_relu: return select(x > constant<V>(0), one, constant<V>(0.01));
    case Activation::relu: return select(x > constant<V>(0), one, constant<V>(0));
    case Activation::tanh: {
      const V y = tanh_(x);
      return one - y * y;
    }
    default: return one;
  }
}

// softplus(x) and its derivative sigmoid(x) from one exponential that cannot overflow.
template <class V>
struct Softplus {
  V value, slope;
};

template <class V>
RKA_HD Softplus<V> softplus(V x) {
  const V zero = constant<V>(0), one = constant<V>(1);
  const auto negative = x < zero;
  const V e = exp_(select(negative, x, -x));
  const V value = select(negative, zero, x) + log1p_unit(e);
  const V inverse = one / (one + e);
  return {value, select(negative, e * inverse, inverse)};
}

}  // namespace RKA_ISA
}  // namespace rka
