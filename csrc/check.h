// What the kernels take for granted about a call, told by the argument's name: sizes, dtypes,
// devices and what goes together. rka_fast/ops/check.py and shapes.py say more to those who call
// the function.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "binding.h"
#include "times.h"

namespace rka {

// The sizes that a call is about, and each tensor against them.
class Check {
 public:
  using Sizes = std::vector<int64_t>;

  // `dtypes` are those that the library computes with.
  Check(const Inputs& in, std::initializer_list<ScalarType> dtypes) : in_(in) {
    dimensions("query", in.query, 4), dimensions("key", in.key, 4);
    dimensions("value", in.value, 4);
    batch_ = in.query.size(0), heads_ = in.query.size(1), rows_ = in.query.size(2);
    keys_ = in.key.size(2);
    STD_TORCH_CHECK(std::count(dtypes.begin(), dtypes.end(), in.query.scalar_type()),
                    "query: its dtype is none that this library computes with");
    options();
    location();
    if (in.mode != "location") spread();
#define RKA_SAME_DEVICE(type, schema, name) device(#name, in.name);
    RKA_ARGUMENTS(RKA_SAME_DEVICE, RKA_NOTHING)
#undef RKA_SAME_DEVICE
  }

  // Of a backward call: the gradient of the output and the arguments whose gradients are wanted.
  void backward(const Tensor& grad, const std::vector<int64_t>& needs) const {
    sizes("grad", grad, {batch_, heads_, rows_, in_.value.size(3)});
    floating("grad", grad);
    device("grad", grad);
    positions(needs, int64_t(Argument::query), int64_t(Argument::cooccurrence) - 1);
  }

  // Of a backward call of the relations: the gradients of K and L, where there are any.
  void relations_backward(const MaybeTensor& d_correlation, const MaybeTensor& d_factor,
                          const std::vector<int64_t>& needs) const {
    square("d_correlation", d_correlation), device("d_correlation", d_correlation);
    square("d_factor", d_factor), device("d_factor", d_factor);
    positions(needs, int64_t(Argument::features), int64_t(Argument::gate));
  }

 private:
  const Inputs& in_;
  int64_t batch_, heads_, rows_, keys_;

  // Positions of given arguments from `first` to `last`, each once.
  void positions(const std::vector<int64_t>& needs, int64_t first, int64_t last) const {
    std::vector<const char*> names;
    std::vector<bool> given;
#define RKA_GIVEN(type, schema, name) names.push_back(#name), given.push_back(present(in_.name));
    RKA_ARGUMENTS(RKA_GIVEN, RKA_NOTHING)
#undef RKA_GIVEN
    std::vector<bool> seen(names.size());
    for (const int64_t i : needs) {
      STD_TORCH_CHECK(i >= first && i <= last,
                      "needs: expected positions of arguments with a gradient, ", first, " to ",
                      last, ", got ", i);
      const size_t at = size_t(i);
      STD_TORCH_CHECK(given[at], "needs: ", names[at], " was not given");
      STD_TORCH_CHECK(!seen[at], "needs: ", names[at], " is there twice");
      seen[at] = true;
    }
  }

  static bool present(const Tensor&) { return true; }
  static bool present(const MaybeTensor& t) { return t.has_value(); }
  template <class T>
  static bool present(const T&) {
    return false;
  }

  void device(const char* name, const Tensor& t) const {
    STD_TORCH_CHECK(
        t.is_cpu() == in_.query.is_cpu() && t.get_device_index() == in_.query.get_device_index(),
        name, ": expected the device of query");
  }
  void device(const char* name, const MaybeTensor& t) const {
    if (t) device(name, *t);
  }
  template <class T>
  void device(const char*, const T&) const {}

  static std::string text(const Sizes& sizes) {
    std::string out = "(";
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (i) out += ", ";
      out += std::to_string(sizes[i]);
    }
    return out + ")";
  }
  static Sizes sizes_of(const Tensor& t) {
    const auto sizes = t.sizes();
    return {sizes.begin(), sizes.end()};
  }
  static void dimensions(const char* name, const Tensor& t, int64_t count) {
    STD_TORCH_CHECK(t.dim() == count, name, ": expected ", count, " dimensions, got shape ",
                    text(sizes_of(t)));
  }
  static void sizes(const char* name, const Tensor& t, const Sizes& expected) {
    STD_TORCH_CHECK(sizes_of(t) == expected, name, ": expected shape ", text(expected), ", got ",
                    text(sizes_of(t)));
  }
  // Every dimension is the expected one or 1.
  static void broadcasts(const char* name, const Tensor& t, const Sizes& expected) {
    const Sizes given = sizes_of(t);
    bool fits = given.size() == expected.size();
    for (size_t i = 0; fits && i < given.size(); ++i)
      fits = given[i] == 1 || given[i] == expected[i];
    STD_TORCH_CHECK(fits, name, ": expected a shape broadcastable to ", text(expected), ", got ",
                    text(given));
  }
  static void dtype(const char* name, const Tensor& t, ScalarType type, const char* called) {
    STD_TORCH_CHECK(t.scalar_type() == type, name, ": expected dtype ", called);
  }
  static void floating(const char* name, const Tensor& t) {
    const ScalarType type = t.scalar_type();
    STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double ||
                        type == ScalarType::Half || type == ScalarType::BFloat16,
                    name, ": expected a float dtype");
  }
  static void is_float(const char* name, const Tensor& t, const Sizes& expected) {
    sizes(name, t, expected);
    floating(name, t);
  }
  // (batch, keys, keys), where it is given.
  void square(const char* name, const MaybeTensor& t) const {
    if (t) is_float(name, *t, {batch_, keys_, keys_});
  }
  static void required(const char* name, const MaybeTensor& t, const char* by) {
    STD_TORCH_CHECK(t.has_value(), name, ": ", by, " needs it");
  }
  // (batch, heads, length, width) of the query's dtype, at least one wide.
  void pair(const char* name, const Tensor& t, int64_t length, int64_t width) const {
    dimensions(name, t, 4);
    sizes(name, t, {batch_, heads_, length, width});
    STD_TORCH_CHECK(width > 0, name, ": expected at least one channel");
    STD_TORCH_CHECK(t.scalar_type() == in_.query.scalar_type(), name,
                    ": expected the dtype of query");
  }
  void pairs(const char* query_name, const MaybeTensor& query, const char* key_name,
             const MaybeTensor& key, const char* by) const {
    required(query_name, query, by), required(key_name, key, by);
    dimensions(query_name, *query, 4);
    const int64_t width = query->size(3);
    pair(query_name, *query, rows_, width), pair(key_name, *key, keys_, width);
  }

  void options() const {
    STD_TORCH_CHECK(in_.mode == "sample" || in_.mode == "mean" || in_.mode == "location",
                    "mode: expected sample, mean or location, got ", in_.mode);
    STD_TORCH_CHECK(
        in_.activation == "identity" || activation_of(in_.activation) != Activation::identity,
        "activation: expected identity, leaky_relu, relu or tanh, got ", in_.activation);
    STD_TORCH_CHECK(in_.dropout >= 0 && in_.dropout < 1, "dropout: expected 0 <= dropout < 1, got ",
                    in_.dropout);
    STD_TORCH_CHECK(in_.jitter > 0 && std::isfinite(in_.jitter),
                    "jitter: expected a positive number, got ", in_.jitter);
    STD_TORCH_CHECK(!in_.scale || std::isfinite(*in_.scale), "scale: expected a finite number");
    STD_TORCH_CHECK(in_.row_offset >= 0 && (in_.row_offset == 0 || rows_ + in_.row_offset <= keys_),
                    "row_offset: expected 0 to ", keys_ - rows_, " for ", rows_, " queries among ",
                    keys_, " keys, got ", in_.row_offset);
    STD_TORCH_CHECK(!in_.causal || in_.row_offset > 0 || rows_ == keys_,
                    "causal: expected as many queries as keys, or a row_offset, got ", rows_,
                    " queries and ", keys_, " keys");
    if (in_.mode == "sample" || in_.dropout > 0) required("seed", in_.seed, "the noise");
    if (in_.seed) dtype("seed", *in_.seed, ScalarType::Long, "int64");
    if (in_.draws) {
      STD_TORCH_CHECK(*in_.draws > 0, "draws: expected at least 1, got ", *in_.draws);
      required("seed", in_.seed, "several draws");
      sizes("seed", *in_.seed, {*in_.draws});
    } else if (in_.seed) {
      STD_TORCH_CHECK(in_.seed->numel() == 1, "seed: expected one element, got shape ",
                      text(sizes_of(*in_.seed)));
    }
  }

  void location() const {
    pair("query", in_.query, rows_, in_.query.size(3));
    pair("key", in_.key, keys_, in_.query.size(3));
    pair("value", in_.value, keys_, in_.value.size(3));
    const Sizes all = {batch_, heads_, rows_, keys_};
    if (in_.bias) broadcasts("bias", *in_.bias, all), floating("bias", *in_.bias);
    if (in_.mask) {
      broadcasts("mask", *in_.mask, all);
      dtype("mask", *in_.mask, ScalarType::Bool, "bool");
    }
    if (in_.padding) {
      sizes("padding", *in_.padding, {batch_, keys_});
      dtype("padding", *in_.padding, ScalarType::Bool, "bool");
    }
    if (!in_.time_table) return;
    broadcasts("time_table", *in_.time_table, {heads_, TIME_BUCKETS});
    sizes("time_table", *in_.time_table, {in_.time_table->size(0), TIME_BUCKETS});
    floating("time_table", *in_.time_table);
    const auto times = [&](const char* name, const MaybeTensor& t, int64_t length) {
      required(name, t, "time_table");
      sizes(name, *t, {batch_, length});
      dtype(name, *t, ScalarType::Long, "int64");
    };
    times("row_times", in_.row_times, rows_), times("key_times", in_.key_times, keys_);
  }

  void spread() const {
    pairs("scale_query", in_.scale_query, "scale_key", in_.scale_key, "the mode");
    if (in_.scale_bias) is_float("scale_bias", *in_.scale_bias, {heads_});
    const bool shaped = in_.shape_query || in_.shape_key;
    if (shaped) pairs("shape_query", in_.shape_query, "shape_key", in_.shape_key, "a shape");
    if (in_.correlation || in_.factor || in_.prior) return relations();
    if (in_.mode == "sample" || shaped) {
      required("features", in_.features, "the covariance");
      required("concentration", in_.concentration, "the covariance");
      required("mixture", in_.mixture, "the covariance");
    }
    if (in_.features) {
      dimensions("features", *in_.features, 3);
      is_float("features", *in_.features, {batch_, keys_, in_.features->size(2)});
      STD_TORCH_CHECK(in_.features->size(2) > 0, "features: expected at least one channel");
    }
    if (in_.concentration) is_float("concentration", *in_.concentration, {2});
    if (in_.mixture) {
      broadcasts("mixture", *in_.mixture, {batch_, 3});
      is_float("mixture", *in_.mixture, {in_.mixture->size(0), 3});
    }
    if (in_.gate) {
      required("features", in_.features, "gate");
      is_float("gate", *in_.gate, {batch_, in_.features->size(2)});
    }
    if (!in_.cooccurrence) return;
    is_float("cooccurrence", *in_.cooccurrence, {batch_, keys_, keys_});
    STD_TORCH_CHECK(!shaped || rows_ + in_.row_offset <= keys_,
                    "cooccurrence: expected queries that are keys, got ", rows_, " queries and ",
                    keys_, " keys");
  }

  // Ready-made K, L and prior, and none of what they are made of.
  void relations() const {
    required("correlation", in_.correlation, "a ready-made factor or prior");
    if (in_.mode == "sample") required("factor", in_.factor, "mode sample with a correlation");
    square("correlation", in_.correlation), square("factor", in_.factor);
    if (in_.prior) {
      broadcasts("prior", *in_.prior, {batch_, heads_, rows_, keys_});
      floating("prior", *in_.prior);
    }
    const auto absent = [](const char* name, const MaybeTensor& t) {
      STD_TORCH_CHECK(!t, name, ": expected nothing beside correlation, which is made of it");
    };
    absent("features", in_.features), absent("concentration", in_.concentration);
    absent("mixture", in_.mixture), absent("gate", in_.gate);
    absent("cooccurrence", in_.cooccurrence);
  }
};

}  // namespace rka
