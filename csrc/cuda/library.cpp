// The CUDA kernels as PyTorch operators, on LibTorch's stable ABI only.
//
// torch.ops.rka_fast_native.attention_cuda{,_backward} take the operator's schema without the
// backend, as prepared by rka_fast/ops/native/cuda.py: small arguments are contiguous float32,
// the others have an innermost stride of 1. The tests compile this file for host tensors.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "../check.h"
#include "attention_backward.h"
#include "launch.h"
#include "long_plan.h"

#if !defined(RKA_EMULATION)
#define RKA_LIBRARY rka_fast_native
#define RKA_DISPATCH_KEY CUDA
#else
#define RKA_LIBRARY rka_fast_emulation
#define RKA_DISPATCH_KEY CPU
#endif

namespace rka::cuda {
namespace {

#if !defined(RKA_EMULATION)
using Guard = torch::stable::accelerator::DeviceGuard;
void* current_stream(int device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return stream;
}
#else
struct Guard {
  explicit Guard(int) {}
};
void* current_stream(int) { return nullptr; }
#endif

Scalar scalar_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Scalar::float32;
    case ScalarType::Half: return Scalar::float16;
    case ScalarType::BFloat16: return Scalar::bfloat16;
    default: STD_TORCH_CHECK(false, "rka_fast: expected float32, float16 or bfloat16");
  }
}

Heads heads(const MaybeTensor& t) {
  if (!t) return {};
  STD_TORCH_CHECK(t->size(3) == 1 || t->stride(3) == 1, "rka_fast: innermost stride is not 1");
  return {t->data_ptr(), t->stride(0), t->stride(1), t->stride(2), int(t->size(3))};
}

template <class T>
constexpr ScalarType TYPE = ScalarType::Float;
template <>
constexpr ScalarType TYPE<uint8_t> = ScalarType::Bool;
template <>
constexpr ScalarType TYPE<int64_t> = ScalarType::Long;

template <class T>
Pairs<T> pairs(const MaybeTensor& t) {
  if (!t) return {};
  STD_TORCH_CHECK(t->scalar_type() == TYPE<T>, "rka_fast: expected bias and prior in float32");
  const auto stride = [&](int i) { return t->size(i) == 1 ? 0 : t->stride(i); };
  return {static_cast<const T*>(t->data_ptr()), stride(0), stride(1), stride(2), stride(3)};
}

template <class T>
const T* pointer(const MaybeTensor& t) {
  STD_TORCH_CHECK(!t || (t->is_contiguous() && t->scalar_type() == TYPE<T>),
                  "rka_fast: expected contiguous tensors, those of floats in float32");
  return t ? static_cast<const T*>(t->data_ptr()) : nullptr;
}

Check checked(const Inputs& in) {
  return Check(in, {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16});
}

Problem problem_of(const Inputs& in) {
  STD_TORCH_CHECK(!in.draws, "rka_fast: the CUDA kernels make one draw in a call");
  Problem p;
  p.batch = int(in.query.size(0)), p.heads = int(in.query.size(1));
  p.rows = int(in.query.size(2)), p.keys = int(in.key.size(2));
  p.feature_width = in.features ? int(in.features->size(2)) : 0;
  p.scalar = scalar_of(in.query);
  p.mode = mode_of(in.mode);
  p.activation = activation_of(in.activation);
  p.causal = in.causal, p.dropout = float(in.dropout), p.jitter = float(in.jitter);
  p.query = heads(in.query), p.key = heads(in.key), p.value = heads(in.value);
  p.scale_query = heads(in.scale_query), p.scale_key = heads(in.scale_key);
  p.shape_query = heads(in.shape_query), p.shape_key = heads(in.shape_key);
  p.bias = pairs<float>(in.bias), p.mask = pairs<uint8_t>(in.mask);
  p.scale_bias = pointer<float>(in.scale_bias), p.features = pointer<float>(in.features);
  p.concentration = pointer<float>(in.concentration), p.mixture = pointer<float>(in.mixture);
  p.mixture_batch = in.mixture && in.mixture->size(0) > 1 ? 3 : 0;
  p.gate = pointer<float>(in.gate), p.cooccurrence = pointer<float>(in.cooccurrence);
  p.padding = pointer<uint8_t>(in.padding), p.seed = pointer<int64_t>(in.seed);
  p.location_scale = in.scale ? float(*in.scale) : 1.0f / std::sqrt(float(p.query.width));
  p.row_offset = int(in.row_offset);
  p.correlation = pointer<float>(in.correlation), p.factor = pointer<float>(in.factor);
  p.prior = pairs<float>(in.prior);
  if (in.time_table) {
    static const TimeEdges edges;
    std::copy_n(edges.seconds, TIME_BUCKETS, p.time_edges);
    p.time_table = pointer<float>(in.time_table);
    p.time_table_head = in.time_table->size(0) > 1 ? TIME_BUCKETS : 0;
    p.row_times = pointer<int64_t>(in.row_times), p.key_times = pointer<int64_t>(in.key_times);
  }
  return p;
}

Tensor new_floats(const Tensor& like, std::vector<int64_t> sizes, bool zero = false) {
  return zero ? torch::stable::new_zeros(like, sizes, ScalarType::Float)
              : torch::stable::new_empty(like, sizes, ScalarType::Float);
}

// As many sequences at a time as the device holds blocks, and no more: the others follow in turn.
int sequences_at_once(const Problem& p, const Device& device) {
  return std::min(p.batch, BLOCKS * device.multiprocessors);
}

// Chooses the layout, allocates the scratch memory of `blocks` blocks.
Tensor plan(Problem& p, const Tensor& like, bool backward, int blocks, int64_t shared_limit) {
  p.layout = choose_layout(p.keys, p.rows, backward ? BACKWARD_TILES : FORWARD_TILES, shared_limit);
  STD_TORCH_CHECK(p.layout.tile_rows > 0 && p.keys <= MAX_KEYS, "rka_fast: ", p.keys,
                  " keys do not fit into shared memory");
  p.scratch_per_block = scratch_per_block(p, backward);
  Tensor scratch = new_floats(like, {p.scratch_per_block * blocks});
  p.scratch = static_cast<float*>(scratch.data_ptr());
  return scratch;
}

void check(const char* error) {
  STD_TORCH_CHECK(error == nullptr, "rka_fast: the CUDA kernel failed: ", error);
}

// Long sequences, as many at a time as the workspace holds; blocks take turns over their heads, or
// share one where there are few.
void attend_long(Problem& p, const Tensor& like, const Device& device, void* stream) {
  Workspace w = workspace_of(p, device.workspace);
  const int slots = STRIP_BLOCKS * device.multiprocessors;
  const int parts = std::clamp(slots / (w.sequences * p.heads), 1, w.row_squares);
  const int blocks = std::min(slots, w.sequences * p.heads * parts);
  p.scratch_per_block = long_scratch(w, LONG_ROWS);
  Tensor memory = new_floats(like, {w.floats()});
  Tensor scratch = new_floats(like, {p.scratch_per_block * blocks});
  w.place(static_cast<float*>(memory.data_ptr()));
  p.scratch = static_cast<float*>(scratch.data_ptr());
  const int at_once = w.sequences;
  for (; w.first < p.batch; w.first += at_once) {
    w.sequences = std::min(at_once, p.batch - w.first);
    check(launch_long_forward(p, w, blocks, parts, stream));
  }
}

// The same backward: a head to a block.
void attend_long_backward(Problem& p, const Tensor& like, const Device& device, void* stream) {
  Adjoint adjoint;
  Workspace w = workspace_of(p, 2 * device.workspace, true);
  const int blocks = std::min(LONG_BACKWARD_BLOCKS * device.multiprocessors, w.sequences * p.heads);
  p.scratch_per_block = long_scratch(w, LONG_BACKWARD_ROWS);
  Tensor memory = new_floats(like, {w.floats() + adjoint.place(p, w, nullptr)});
  Tensor scratch = new_floats(like, {p.scratch_per_block * blocks});
  w.place(static_cast<float*>(memory.data_ptr()));
  adjoint.place(p, w, w.relations + w.floats());
  p.scratch = static_cast<float*>(scratch.data_ptr());
  const int at_once = w.sequences;
  for (; w.first < p.batch; w.first += at_once) {
    w.sequences = std::min(at_once, p.batch - w.first);
    check(launch_long_backward(p, w, adjoint, blocks, stream));
  }
}

Tensor attention(const Inputs& in) {
  checked(in);
  const int index = int(in.query.get_device_index());
  const Guard guard(index);
  const Device device = describe_device(index);
  Problem p = problem_of(in);
  Tensor output = torch::stable::new_empty(
      in.value, std::vector<int64_t>{p.batch, p.heads, p.rows, p.value.width});
  if (p.batch == 0 || p.heads == 0 || p.rows == 0) return output;
  p.output = output.data_ptr();
  if (const int tiles = device.tensor_cores ? strip_tiles(p) : 0) {
    // Few sequences: several blocks share the heads of one.
    const int parts = std::clamp(BLOCKS * device.multiprocessors / p.batch, 1, p.heads);
    list_operands(p);
    check(launch_strip_forward(p, tiles, parts, current_stream(index)));
    return output;
  }
  if (device.tensor_cores && serves_long(p)) {
    attend_long(p, in.query, device, current_stream(index));
    return output;
  }
  // Few sequences: several blocks share one, each with a factorisation of its own.
  const Layout layout = choose_layout(p.keys, p.rows, FORWARD_TILES, device.shared_limit);
  const int tile_rows = std::max(layout.tile_rows, 1);
  const int tiles = p.heads * ((p.rows + tile_rows - 1) / tile_rows);
  const int parts = std::clamp(BLOCKS * device.multiprocessors / p.batch, 1, tiles);
  const int sequences = sequences_at_once(p, device);
  const Tensor scratch = plan(p, in.query, false, sequences * parts, device.shared_limit);
  check(launch_forward(p, sequences, parts, current_stream(index)));
  return output;
}

// float32 gradients of the arguments `needs`; those of arguments that sequences share come as one
// share per sequence, (B, ...), for the caller to add up.
std::vector<Tensor> attention_backward(const Tensor& grad, const std::vector<int64_t>& needs,
                                       const Inputs& in) {
  const int index = int(in.query.get_device_index());
  const Guard guard(index);
  checked(in).backward(grad, needs);
  STD_TORCH_CHECK(grad.scalar_type() == in.query.scalar_type(),
                  "grad: expected the dtype of query");
  Problem p = problem_of(in);
  p.grad = heads(grad);
  const int64_t B = p.batch, H = p.heads;
  const bool spread = p.has_spread(), covariance = p.needs_covariance(), shape = p.has_shape();
  std::vector<Tensor> result;
  const auto add = [&](std::vector<int64_t> sizes, float*& pointer, bool computed, bool zero) {
    result.push_back(new_floats(in.query, std::move(sizes), zero || !computed));
    if (computed) pointer = static_cast<float*>(result.back().data_ptr());
  };
  const auto rows = [&](const MaybeTensor& t, float*& pointer, bool computed = true) {
    const auto sizes = t->sizes();
    add({sizes.begin(), sizes.end()}, pointer, computed, false);
  };
  for (const int64_t i : needs) switch (Argument(i)) {
      case Argument::query: rows(in.query, p.d_query); break;
      case Argument::key: rows(in.key, p.d_key); break;
      case Argument::value: rows(in.value, p.d_value); break;
      case Argument::bias: add({B, H, p.rows, p.keys}, p.d_bias, true, p.causal); break;
      case Argument::scale_query: rows(in.scale_query, p.d_scale_query, spread); break;
      case Argument::scale_key: rows(in.scale_key, p.d_scale_key, spread); break;
      case Argument::scale_bias: add({B, H}, p.d_scale_bias, spread, false); break;
      case Argument::shape_query: rows(in.shape_query, p.d_shape_query, shape); break;
      case Argument::shape_key: rows(in.shape_key, p.d_shape_key, shape); break;
      case Argument::features: rows(in.features, p.d_features, covariance); break;
      case Argument::concentration: add({B, 2}, p.d_concentration, covariance, true); break;
      case Argument::mixture: add({B, 3}, p.d_mixture, covariance, true); break;
      case Argument::gate: rows(in.gate, p.d_gate, covariance); break;
      case Argument::time_table: add({B, H, TIME_BUCKETS}, p.d_time_table, true, false); break;
      case Argument::correlation: {
        rows(in.correlation, p.d_correlation, covariance && p.mode == Mode::mean);
        break;
      }
      case Argument::factor: rows(in.factor, p.d_factor, p.mode == Mode::sample); break;
      default: STD_TORCH_CHECK(false, "rka_fast: no gradient for argument ", i);
    }
  if (B == 0 || H == 0) return result;
  const Device device = describe_device(index);
  if (const int tiles = device.tensor_cores ? strip_tiles(p) : 0) {
    const int at_once = strip_backward_blocks(tiles, device.shared_limit);
    const int blocks = std::min(p.batch, at_once * device.multiprocessors);
    const int most = strip_sequences(p, blocks);
    list_operands(p);
    p.scratch_per_block = SAVED_STRIPS * strip_floats(tiles);
    const int64_t own = p.scratch_per_block * blocks;
    Tensor scratch = new_floats(in.query, {own + most * strip_handed(p) * strip_floats(tiles)});
    p.scratch = static_cast<float*>(scratch.data_ptr());
    p.handed = p.scratch + own;
    for (; p.first < p.batch; p.first = p.last) {
      p.last = std::min(p.batch, p.first + most);
      check(launch_strip_backward(p, tiles, blocks, current_stream(index)));
    }
    return result;
  }
  if (device.tensor_cores && serves_long(p)) {
    attend_long_backward(p, in.query, device, current_stream(index));
    return result;
  }
  const int sequences = sequences_at_once(p, device);
  const Tensor scratch = plan(p, in.query, true, sequences, device.shared_limit);
  check(launch_backward(p, sequences, current_stream(index)));
  return result;
}

// [bytes of shared memory of a block, rows per tile, 1 if the factor is among it].
std::vector<int64_t> layout_op(int64_t keys, int64_t rows, bool backward, int64_t shared_limit) {
  STD_TORCH_CHECK(keys > 0 && rows > 0, "keys, rows: expected 1 or more, got ", keys, ", ", rows);
  const Layout l =
      choose_layout(int(keys), int(rows), backward ? BACKWARD_TILES : FORWARD_TILES, shared_limit);
  return {l.shared_size() * int64_t(sizeof(float)), l.tile_rows, l.factor_in_shared};
}

Tensor attention_op(RKA_PARAMETERS) { return attention(RKA_INPUTS); }
std::vector<Tensor> attention_backward_op(Tensor grad, std::vector<int64_t> needs, RKA_PARAMETERS) {
  return attention_backward(grad, needs, RKA_INPUTS);
}

}  // namespace
}  // namespace rka::cuda

STABLE_TORCH_LIBRARY_FRAGMENT(RKA_LIBRARY, m) {
  m.def("attention_cuda(" RKA_SCHEMA ") -> Tensor");
  m.def("attention_cuda_backward(Tensor grad, int[] needs, " RKA_SCHEMA ") -> Tensor[]");
  m.def("attention_cuda_layout(int keys, int rows, bool backward, int shared_limit) -> int[]");
}
STABLE_TORCH_LIBRARY_IMPL(RKA_LIBRARY, CompositeExplicitAutograd, m) {
  m.impl("attention_cuda_layout", TORCH_BOX(&rka::cuda::layout_op));
}
STABLE_TORCH_LIBRARY_IMPL(RKA_LIBRARY, RKA_DISPATCH_KEY, m) {
  m.impl("attention_cuda", TORCH_BOX(&rka::cuda::attention_op));
  m.impl("attention_cuda_backward", TORCH_BOX(&rka::cuda::attention_backward_op));
}
