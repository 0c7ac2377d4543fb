// The C++ backend as PyTorch operators, on LibTorch's stable ABI only.
//
// torch.ops.rka_fast_native.attention_cpp{,_backward} take the operator's schema without the
// backend. They are called below autograd, by rka_fast/ops/native/cpp.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "../binding.h"
#include "../check.h"
#include "problem.h"
#include "threads.h"

namespace rka {

const InstructionSet& instruction_set() {
#if defined(__x86_64__)
  static const bool avx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  // RKA_FAST_CPP names a lower instruction set, to test it where a higher one is there.
  static const char* const most = std::getenv("RKA_FAST_CPP");
  static const std::string limit = most ? most : "avx512";
  if (avx512 && limit == "avx512") return instructions_avx512;
  if (avx2 && limit != "plain") return instructions_avx2;
#endif
  return instructions_plain;
}

namespace {

Type type_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Type::f32;
    case ScalarType::Double: return Type::f64;
    case ScalarType::Half: return Type::f16;
    case ScalarType::BFloat16: return Type::bf16;
    case ScalarType::Bool: return Type::u8;
    case ScalarType::Long: return Type::i64;
    default:
      STD_TORCH_CHECK(false, "rka_fast: a tensor's dtype is neither a float, int64 nor bool");
  }
}

// A tensor of up to four dimensions: the first stays the first, the others become the last ones.
View view(const Tensor& t) {
  View v{static_cast<char*>(t.data_ptr()), type_of(t), {0, 0, 0, 0}};
  const int64_t dims = t.dim();
  STD_TORCH_CHECK(dims <= 4, "rka_fast: a tensor has ", dims, " dimensions, expected at most 4");
  for (int64_t i = 0; i < dims; ++i) {
    const int64_t slot = i == 0 && dims > 1 ? 0 : i + 4 - dims;
    v.stride[slot] = t.size(i) == 1 ? 0 : t.stride(i);
  }
  // A last dimension of one element must still be writable as a row.
  return v;
}
View view(const MaybeTensor& t) { return t ? view(*t) : View{}; }

// (H or 1, buckets), shared by the sequences.
View table_view(const Tensor& t) {
  return {static_cast<char*>(t.data_ptr()),
          type_of(t),
          {0, 0, t.size(0) == 1 ? 0 : t.stride(0), t.stride(1)}};
}

int64_t width_of(const MaybeTensor& t) { return t ? t->size(t->dim() - 1) : 0; }

Problem problem_of(const Inputs& in) {
  Problem c{};
  c.batch = in.query.size(0), c.heads = in.query.size(1);
  c.rows = in.query.size(2), c.keys = in.key.size(2);
  c.ahead = torch::stable::get_num_threads();
  c.width = in.query.size(3), c.value_width = in.value.size(3);
  c.scale_width = width_of(in.scale_query), c.shape_width = width_of(in.shape_query);
  c.feature_width = width_of(in.features);
  c.query = view(in.query), c.key = view(in.key), c.value = view(in.value), c.bias = view(in.bias);
  c.scale_query = view(in.scale_query), c.scale_key = view(in.scale_key);
  c.scale_bias = view(in.scale_bias);
  c.shape_query = view(in.shape_query), c.shape_key = view(in.shape_key);
  c.features = view(in.features), c.concentration = view(in.concentration);
  c.mixture = view(in.mixture), c.gate = view(in.gate);
  c.cooccurrence = view(in.cooccurrence), c.mask = view(in.mask), c.padding = view(in.padding);
  c.row_times = view(in.row_times), c.key_times = view(in.key_times);
  c.correlation = view(in.correlation), c.factor = view(in.factor), c.prior = view(in.prior);
  if (in.time_table) c.time_table = table_view(*in.time_table);
  c.mask_per_head = in.mask && in.mask->size(1) != 1;
  c.seed = view(in.seed), c.draws = in.draws.value_or(1);
  c.causal = in.causal;
  c.mode = mode_of(in.mode), c.activation = activation_of(in.activation);
  c.dropout = in.dropout, c.jitter = in.jitter;
  c.scale = in.scale, c.row_offset = in.row_offset;
  return c;
}
bool is_f64(const Inputs& in) { return in.query.scalar_type() == ScalarType::Double; }

Check checked(const Inputs& in) {
  return Check(in, {ScalarType::Float, ScalarType::Double, ScalarType::Half, ScalarType::BFloat16});
}

Tensor attention(const Inputs& in) {
  checked(in);
  Problem problem = problem_of(in);
  // The draws of a call lie one after the other.
  const int64_t B = problem.batch, H = problem.heads, n = problem.rows, width = problem.value_width;
  std::vector<int64_t> sizes{B, H, n, width};
  if (in.draws) sizes.insert(sizes.begin(), problem.draws);
  Tensor output = torch::stable::new_empty(in.value, sizes);
  problem.output = {
      static_cast<char*>(output.data_ptr()), type_of(output), {H * n * width, n * width, width, 1}};
  problem.output_stride = B * problem.output.stride[0];
  const InstructionSet& k = instruction_set();
  for_each_sequence(problem.batch, k.bytes(problem, nullptr, is_f64(in)),
                    [&](int64_t i, void* scratch) { k.forward(problem, i, is_f64(in), scratch); });
  return output;
}

// Partial sums of an argument that sequences share, one row of `size` elements for each.
struct Partial {
  int64_t size = 0;
  std::vector<char> bytes;

  View allocate(int64_t batch, int64_t elements, bool f64) {
    size = elements;
    bytes.assign(size_t(batch * elements) * (f64 ? 8 : 4), 0);
    return {bytes.data(), f64 ? Type::f64 : Type::f32, {elements, 0, 0, 1}};
  }
  // Adds the sequences in their order into a tensor of `size` (or batch * size) elements.
  template <class T>
  Tensor reduce(int64_t batch, const Tensor& like, bool shared) const {
    const auto sizes = like.sizes();
    Tensor sums = torch::stable::new_empty(like, sizes,
                                           sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float);
    T* out = static_cast<T*>(sums.data_ptr());
    const T* in = reinterpret_cast<const T*>(bytes.data());
    const int64_t count = shared ? size : size * batch;
    torch::stable::parallel_for(0, count, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T total = in[i];
        for (int64_t b = 1; shared && b < batch; ++b) total += in[b * size + i];
        out[i] = total;
      }
    });
    return like.scalar_type() == sums.scalar_type() ? sums
                                                    : torch::stable::to(sums, like.scalar_type());
  }
};

// A gradient of partial sums: its place among the results, its argument, whether sequences share
// it.
struct Pending {
  size_t at;
  Tensor argument;
  bool shared;
  Partial sums;
};

// The gradients of the arguments at the positions `needs`; f(g, sequence, scratch) fills them.
template <class F>
std::vector<Tensor> gradients(Gradients g, const std::vector<int64_t>& needs, const Inputs& in,
                              const Problem& problem, const F& f) {
  const bool f64 = is_f64(in);
  const int64_t B = problem.batch;
  std::vector<Tensor> result;
  // What the mode leaves without effect has a gradient of zero and is not computed.
  const bool spread = problem.mode != Mode::location;
  const bool shaped = spread && in.shape_query;
  const bool covariance = problem.mode == Mode::sample || shaped;

  const auto zeros = [&](const MaybeTensor& t) {
    result.push_back(torch::stable::new_zeros(*t, t->sizes()));
  };
  const auto filled = [&](const MaybeTensor& t, View& v, bool computed) {
    zeros(t);
    if (computed) v = view(result.back()), v.stride[3] = 1;
  };
  const auto rows = [&](const MaybeTensor& t, View& v, bool computed) {
    if (!computed) return zeros(t);
    result.push_back(torch::stable::new_empty(*t, t->sizes()));
    v = view(result.back());
    v.stride[3] = 1;
  };
  // What sequences share: the sums follow when all have given theirs.
  std::vector<Pending> pending;
  pending.reserve(needs.size());  // views point into it
  const auto partial = [&](const MaybeTensor& t, View& v, int64_t size, bool computed,
                           bool shared = true) {
    if (!computed) return zeros(t);
    pending.push_back({result.size(), *t, shared, {}});
    v = pending.back().sums.allocate(B, size, f64);
    result.push_back(*t);
  };
  for (const int64_t i : needs) switch (Argument(i)) {
      case Argument::query: rows(in.query, g.query, true); break;
      case Argument::key: rows(in.key, g.key, true); break;
      case Argument::value: rows(in.value, g.value, true); break;
      case Argument::bias: {
        const int64_t heads = in.bias->size(1), n = in.bias->size(2), m = in.bias->size(3);
        partial(in.bias, g.bias, heads * n * m, true, in.bias->size(0) == 1);
        const int64_t stride[4] = {heads * n * m, heads > 1 ? n * m : 0, n > 1 ? m : 0, m > 1};
        for (int d = 0; d < 4; ++d) g.bias.stride[d] = stride[d];
        break;
      }
      case Argument::scale_query: rows(in.scale_query, g.scale_query, spread); break;
      case Argument::scale_key: rows(in.scale_key, g.scale_key, spread); break;
      case Argument::scale_bias: partial(in.scale_bias, g.scale_bias, problem.heads, spread); break;
      case Argument::shape_query: rows(in.shape_query, g.shape_query, spread); break;
      case Argument::shape_key: rows(in.shape_key, g.shape_key, spread); break;
      case Argument::features: rows(in.features, g.features, covariance); break;
      case Argument::concentration:
        partial(in.concentration, g.concentration, 2, covariance);
        break;
      case Argument::mixture:
        partial(in.mixture, g.mixture, 3, covariance, in.mixture->size(0) == 1);
        break;
      case Argument::time_table: {
        const int64_t heads = in.time_table->size(0);
        partial(in.time_table, g.time_table, heads * TIME_BUCKETS, true);
        g.time_table.stride[2] = heads > 1 ? TIME_BUCKETS : 0;
        break;
      }
      case Argument::gate: filled(in.gate, g.gate, covariance); break;
      case Argument::correlation: filled(in.correlation, g.correlation, shaped); break;
      case Argument::factor: filled(in.factor, g.factor, problem.mode == Mode::sample); break;
      default: STD_TORCH_CHECK(false, "rka_fast: no gradient for argument ", i);
    }

  for_each_sequence(B, instruction_set().bytes(problem, &g, f64),
                    [&](int64_t i, void* scratch) { f(g, i, scratch); });
  for (const Pending& p : pending)
    result[p.at] = f64 ? p.sums.reduce<double>(B, p.argument, p.shared)
                       : p.sums.reduce<float>(B, p.argument, p.shared);
  return result;
}

std::vector<Tensor> attention_backward(const Tensor& grad, const std::vector<int64_t>& needs,
                                       const Inputs& in) {
  checked(in).backward(grad, needs);
  STD_TORCH_CHECK(!in.draws, "draws: expected none, as gradients are those of one draw, got ",
                  *in.draws);
  const Problem problem = problem_of(in);
  Gradients g{};
  g.output = view(grad);
  return gradients(g, needs, in, problem, [&](const Gradients& g, int64_t i, void* scratch) {
    instruction_set().backward(problem, g, i, is_f64(in), scratch);
  });
}

// K, L and the prior alone are those of a call that draws.
Problem relations_problem(const Inputs& in) {
  STD_TORCH_CHECK(in.mode == "mean" && in.shape_query && in.features,
                  "mode, shape_query, features: expected a call in mode mean with a shape and "
                  "features, which checks all that K, L and the prior are made of");
  Problem problem = problem_of(in);
  problem.mode = Mode::sample;
  return problem;
}

std::vector<Tensor> relations(const Inputs& in) {
  checked(in);
  const Problem problem = relations_problem(in);
  const int64_t B = problem.batch, m = problem.keys,
                heads = problem.mask_per_head ? problem.heads : 1;
  const ScalarType type = is_f64(in) ? ScalarType::Double : ScalarType::Float;
  const auto zeros = [&](std::vector<int64_t> sizes) {
    return torch::stable::new_zeros(*in.features, sizes, type);
  };
  std::vector<Tensor> result = {zeros({B, m, m}), zeros({B, m, m})};
  if (in.cooccurrence)
    result.push_back(zeros({B, heads, problem.rows, m}));
  else
    result.push_back(zeros({0}));
  Relations out{view(result[0]), view(result[1]), in.cooccurrence ? view(result[2]) : View{}};
  for (View* v : {&out.correlation, &out.factor, &out.prior}) v->stride[3] = 1;
  const InstructionSet& k = instruction_set();
  Problem each = problem;
  each.heads = heads;
  for_each_sequence(B, k.bytes(each, nullptr, is_f64(in)), [&](int64_t i, void* scratch) {
    k.relations(each, out, i, is_f64(in), scratch);
  });
  return result;
}

std::vector<Tensor> relations_backward(const MaybeTensor& d_correlation,
                                       const MaybeTensor& d_factor,
                                       const std::vector<int64_t>& needs, const Inputs& in) {
  checked(in).relations_backward(d_correlation, d_factor, needs);
  const Problem problem = relations_problem(in);
  const Relations grad{view(d_correlation), view(d_factor), {}};
  return gradients({}, needs, in, problem, [&](const Gradients& g, int64_t i, void* scratch) {
    instruction_set().relations_backward(problem, grad, g, i, is_f64(in), scratch);
  });
}

std::vector<Tensor> relations_op(RKA_PARAMETERS) { return relations(RKA_INPUTS); }
std::vector<Tensor> relations_backward_op(MaybeTensor d_correlation, MaybeTensor d_factor,
                                          std::vector<int64_t> needs, RKA_PARAMETERS) {
  return relations_backward(d_correlation, d_factor, needs, RKA_INPUTS);
}

Tensor attention_op(RKA_PARAMETERS) { return attention(RKA_INPUTS); }
std::vector<Tensor> attention_backward_op(Tensor grad, std::vector<int64_t> needs, RKA_PARAMETERS) {
  return attention_backward(grad, needs, RKA_INPUTS);
}

std::string cpp_instructions() { return instruction_set().name; }

// Words (int64) and normals of row `row`, head `head`, for tests. `seed` holds one int64.
void check_noise(const Tensor& seed, int64_t columns) {
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.numel() == 1,
                  "seed: expected one int64");
  STD_TORCH_CHECK(columns >= 0, "columns: expected 0 or more, got ", columns);
}
Tensor words_op(Tensor seed, int64_t row, int64_t head, int64_t stream, int64_t columns) {
  check_noise(seed, columns);
  std::vector<uint32_t> words(static_cast<size_t>(columns));
  instruction_set().words(uint64_t(*static_cast<const int64_t*>(seed.data_ptr())), uint32_t(row),
                          uint32_t(head), uint32_t(stream), int(columns), words.data());
  Tensor out = torch::stable::new_empty(seed, std::vector<int64_t>{columns});
  for (size_t i = 0; i < words.size(); ++i) static_cast<int64_t*>(out.data_ptr())[i] = words[i];
  return out;
}
Tensor normals_op(Tensor seed, int64_t row, int64_t head, int64_t columns) {
  check_noise(seed, columns);
  Tensor out = torch::stable::new_empty(seed, std::vector<int64_t>{columns}, ScalarType::Float);
  instruction_set().normals(uint64_t(*static_cast<const int64_t*>(seed.data_ptr())), uint32_t(row),
                            uint32_t(head), int(columns), static_cast<float*>(out.data_ptr()));
  return out;
}

}  // namespace
}  // namespace rka

STABLE_TORCH_LIBRARY_FRAGMENT(rka_fast_native, m) {
  m.def("attention_cpp(" RKA_SCHEMA ") -> Tensor");
  m.def("attention_cpp_backward(Tensor grad, int[] needs, " RKA_SCHEMA ") -> Tensor[]");
  m.def("relations_cpp(" RKA_SCHEMA ") -> Tensor[]");
  m.def("relations_cpp_backward(Tensor? d_correlation, Tensor? d_factor, int[] needs, " RKA_SCHEMA
        ") -> Tensor[]");
  m.def("cpp_instructions() -> str");
  m.def("philox_words_cpp(Tensor seed, int row, int head, int stream, int columns) -> Tensor");
  m.def("normals_cpp(Tensor seed, int row, int head, int columns) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(rka_fast_native, CompositeExplicitAutograd, m) {
  m.impl("cpp_instructions", TORCH_BOX(&rka::cpp_instructions));
}

STABLE_TORCH_LIBRARY_IMPL(rka_fast_native, CPU, m) {
  m.impl("attention_cpp", TORCH_BOX(&rka::attention_op));
  m.impl("attention_cpp_backward", TORCH_BOX(&rka::attention_backward_op));
  m.impl("relations_cpp", TORCH_BOX(&rka::relations_op));
  m.impl("relations_cpp_backward", TORCH_BOX(&rka::relations_backward_op));
  m.impl("philox_words_cpp", TORCH_BOX(&rka::words_op));
  m.impl("normals_cpp", TORCH_BOX(&rka::normals_op));
}
