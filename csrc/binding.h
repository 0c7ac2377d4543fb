// The operator's schema without the backend, as both libraries register it.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>

#include "common.h"

namespace rka {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// The arguments in the order of the schema.
struct Inputs {
  Tensor query, key, value;
  MaybeTensor bias, scale_query, scale_key, scale_bias, shape_query, shape_key;
  MaybeTensor features, concentration, mixture, gate, cooccurrence, mask, padding, seed;
  bool causal;
  std::string mode, activation;
  double dropout, jitter;
};

inline Mode mode_of(const std::string& name) {
  return name == "sample" ? Mode::sample : name == "mean" ? Mode::mean : Mode::location;
}
inline Activation activation_of(const std::string& name) {
  return name == "leaky_relu" ? Activation::leaky_relu
         : name == "relu"     ? Activation::relu
         : name == "tanh"     ? Activation::tanh
                              : Activation::identity;
}

#define RKA_PARAMETERS                                                                          \
  Tensor query, Tensor key, Tensor value, MaybeTensor bias, MaybeTensor scale_query,            \
      MaybeTensor scale_key, MaybeTensor scale_bias, MaybeTensor shape_query,                   \
      MaybeTensor shape_key, MaybeTensor features, MaybeTensor concentration,                   \
      MaybeTensor mixture, MaybeTensor gate, MaybeTensor cooccurrence, MaybeTensor mask,        \
      MaybeTensor padding, MaybeTensor seed, bool causal, std::string mode,                     \
      std::string activation, double dropout, double jitter
#define RKA_INPUTS                                                                              \
  Inputs {                                                                                      \
    query, key, value, bias, scale_query, scale_key, scale_bias, shape_query, shape_key,        \
        features, concentration, mixture, gate, cooccurrence, mask, padding, seed, causal,      \
        mode, activation, dropout, jitter                                                       \
  }
#define RKA_SCHEMA                                                                              \
  "Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? scale_query, "                 \
  "Tensor? scale_key, Tensor? scale_bias, Tensor? shape_query, Tensor? shape_key, "             \
  "Tensor? features, Tensor? concentration, Tensor? mixture, Tensor? gate, "                    \
  "Tensor? cooccurrence, Tensor? mask, Tensor? padding, Tensor? seed, bool causal, str mode, "  \
  "str activation, float dropout, float jitter"

}  // namespace rka
