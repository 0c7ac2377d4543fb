// The operator's arguments, once: what both libraries register, take and pass on.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "common.h"

namespace rka {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// clang-format off
// X(C++ type, schema type, name), with SEPARATOR() between; names and order are those of
// rka_fast/ops/arguments.py.
#define RKA_ARGUMENTS(X, SEPARATOR)                         \
  X(Tensor, "Tensor", query) SEPARATOR()                    \
  X(Tensor, "Tensor", key) SEPARATOR()                      \
  X(Tensor, "Tensor", value) SEPARATOR()                    \
  X(MaybeTensor, "Tensor?", bias) SEPARATOR()               \
  X(MaybeTensor, "Tensor?", scale_query) SEPARATOR()        \
  X(MaybeTensor, "Tensor?", scale_key) SEPARATOR()          \
  X(MaybeTensor, "Tensor?", scale_bias) SEPARATOR()         \
  X(MaybeTensor, "Tensor?", shape_query) SEPARATOR()        \
  X(MaybeTensor, "Tensor?", shape_key) SEPARATOR()          \
  X(MaybeTensor, "Tensor?", features) SEPARATOR()           \
  X(MaybeTensor, "Tensor?", concentration) SEPARATOR()      \
  X(MaybeTensor, "Tensor?", mixture) SEPARATOR()            \
  X(MaybeTensor, "Tensor?", gate) SEPARATOR()               \
  X(MaybeTensor, "Tensor?", time_table) SEPARATOR()         \
  X(MaybeTensor, "Tensor?", correlation) SEPARATOR()        \
  X(MaybeTensor, "Tensor?", factor) SEPARATOR()             \
  X(MaybeTensor, "Tensor?", cooccurrence) SEPARATOR()       \
  X(MaybeTensor, "Tensor?", prior) SEPARATOR()              \
  X(MaybeTensor, "Tensor?", mask) SEPARATOR()               \
  X(MaybeTensor, "Tensor?", padding) SEPARATOR()            \
  X(MaybeTensor, "Tensor?", row_times) SEPARATOR()          \
  X(MaybeTensor, "Tensor?", key_times) SEPARATOR()          \
  X(MaybeTensor, "Tensor?", seed) SEPARATOR()               \
  X(bool, "bool", causal) SEPARATOR()                       \
  X(std::string, "str", mode) SEPARATOR()                   \
  X(std::string, "str", activation) SEPARATOR()             \
  X(double, "float", dropout) SEPARATOR()                   \
  X(double, "float", jitter) SEPARATOR()                    \
  X(std::optional<double>, "float?", scale) SEPARATOR()     \
  X(int64_t, "int", row_offset) SEPARATOR()                 \
  X(std::optional<int64_t>, "int?", draws)
// clang-format on

#define RKA_COMMA() ,
#define RKA_NOTHING()
#define RKA_COMMA_IN_SCHEMA() ", "
#define RKA_FIELD(type, schema, name) type name;
#define RKA_PARAMETER(type, schema, name) type name
#define RKA_NAME(type, schema, name) name
#define RKA_SCHEMA_ENTRY(type, schema, name) schema " " #name

struct Inputs {
  RKA_ARGUMENTS(RKA_FIELD, RKA_NOTHING)
};

// Positions in the schema, as `needs` of a backward call counts them.
enum class Argument : int64_t { RKA_ARGUMENTS(RKA_NAME, RKA_COMMA) };

// An operator's parameters, what it passes on, and its schema without the backend.
#define RKA_PARAMETERS RKA_ARGUMENTS(RKA_PARAMETER, RKA_COMMA)
#define RKA_INPUTS \
  ::rka::Inputs { RKA_ARGUMENTS(RKA_NAME, RKA_COMMA) }
#define RKA_SCHEMA RKA_ARGUMENTS(RKA_SCHEMA_ENTRY, RKA_COMMA_IN_SCHEMA)

inline Mode mode_of(const std::string& name) {
  return name == "sample" ? Mode::sample : name == "mean" ? Mode::mean : Mode::location;
}
inline Activation activation_of(const std::string& name) {
  return name == "leaky_relu" ? Activation::leaky_relu
         : name == "relu"     ? Activation::relu
         : name == "tanh"     ? Activation::tanh
                              : Activation::identity;
}

}  // namespace rka
