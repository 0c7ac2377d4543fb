// The CUDA program on the host: blocks one after the other, the threads of a block phase by phase,
// those of the kernels for short sequences as coroutines (threads.h).
//
// Linked with ../../cuda/library.cpp in place of kernels.cu. Shared memory and scratch start as
// NaN. `set_order` chooses the order of the threads within a phase, and between two meetings of
// a warp or of the block: what depends on it has a race.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "../../cuda/attention_backward.h"
#include "../../cuda/launch.h"
#include "../../cuda/long_attention_backward.h"
#include "../../cuda/long_cholesky.h"
#include "../../cuda/long_covariance_backward.h"
#include "../../cuda/strip_attention_backward.h"
#include "../../cuda/strip_plan.h"
#include "threads.h"

namespace rka::cuda {
namespace {

int64_t order = 0, shared_limit = LARGE_SHARED, multiprocessors = 132, launches = 0,
        strip_launches = 0, long_launches = 0, scratch_floats = 0, workspace = WORKSPACE;
bool tensor_cores = true;

template <bool IN_SHARED>
struct HostBlock {
  static constexpr bool factor_in_shared = IN_SHARED;

  template <class F>
  void for_each(int count, F f) const {
    if (order == 0) {
      for (int i = 0; i < count; ++i) f(i);
    } else if (order == 1) {
      for (int i = count; i-- > 0;) f(i);
    } else {  // thread by thread, each with its own units in their order
      std::vector<int> threads(THREADS);
      std::iota(threads.begin(), threads.end(), 0);
      std::shuffle(threads.begin(), threads.end(), std::mt19937_64(order));
      for (const int thread : threads) {
        for (int i = thread; i < count; i += THREADS) f(i);
      }
    }
  }
};

constexpr float POISON = std::numeric_limits<float>::quiet_NaN();

// Runs f(shared) for a block with fresh shared memory; what lies behind it must stay untouched.
template <class F>
const char* with_shared(size_t size, F f) {
  std::vector<Four> memory(size / 4 + 16, Four{{POISON, POISON, POISON, POISON}});
  float* shared = memory.data()->v;
  for (size_t i = size; i < 4 * memory.size(); ++i) shared[i] = 12345.0f;
  f(shared);
  for (size_t i = size; i < 4 * memory.size(); ++i) {
    if (shared[i] != 12345.0f) return "a block wrote beyond its shared memory";
  }
  return nullptr;
}

void poison_scratch(const Problem& p, int64_t block) {
  for (int64_t i = 0; i < p.scratch_per_block; ++i)
    p.scratch[block * p.scratch_per_block + i] = POISON;
}

// Sequence by sequence as the blocks of a grid take them: `sequences` at a time.
template <bool IN_SHARED>
const char* forward(const Problem& p, int sequences, int parts) {
  for (int i = 0; i < p.batch * parts; ++i) {
    const int b = i / parts, part = i % parts, scratch = b % sequences * parts + part;
    poison_scratch(p, scratch);
    const char* error = with_shared(p.layout.shared_size(), [&](float* shared) {
      forward_block(HostBlock<IN_SHARED>{}, p, b, scratch, part, parts, shared);
    });
    if (error) return error;
  }
  return nullptr;
}

template <bool IN_SHARED>
const char* backward(const Problem& p, int sequences) {
  for (int b = 0; b < p.batch; ++b) {
    poison_scratch(p, b % sequences);
    const char* error = with_shared(p.layout.shared_size(), [&](float* shared) {
      backward_block(HostBlock<IN_SHARED>{}, p, b, b % sequences, shared);
    });
    if (error) return error;
  }
  return nullptr;
}

// f(shared) by the threads of a block of four warps.
template <class F>
const char* run_warps(int floats, F f) {
  const char* failed = nullptr;
  const char* error = with_shared(floats, [&](float* shared) {
    failed = host::run_block(WARPS * LANES, order, [&] { f(shared); });
  });
  return failed ? failed : error;
}

template <int TILES>
const char* strip_forward(const Problem& p, int parts) {
  ++strip_launches;
  for (int i = 0; i < p.batch * parts; ++i) {
    const char* error = run_warps(Shape<TILES>::FLOATS, [&](float* shared) {
      cuda::strip_forward<Shape<TILES>>(p, i / parts, i % parts, parts, shared);
    });
    if (error) return error;
  }
  return nullptr;
}

template <int TILES>
const char* strip_backward(const Problem& p, int blocks) {
  using S = Shape<TILES>;
  strip_launches += p.needs_covariance() + 1 + p.wants_covariance();
  std::fill_n(p.handed, (p.last - p.first) * strip_handed(p) * strip_floats(TILES), POISON);
  for (int b = p.first; b < p.last && p.needs_covariance(); ++b) {
    const char* error =
        run_warps(S::FLOATS, [&](float* shared) { strip_relations<S>(p, b, shared); });
    if (error) return error;
  }
  for (int b = p.first; b < p.last; ++b) {
    const int block = (b - p.first) % blocks;
    poison_scratch(p, block);
    const char* error = run_warps(
        S::BACKWARD_FLOATS, [&](float* shared) { cuda::strip_backward<S>(p, b, block, shared); });
    if (error) return error;
  }
  for (int b = p.first; b < p.last && p.wants_covariance(); ++b) {
    const char* error = run_warps(S::COVARIANCE_FLOATS, [&](float* shared) {
      cuda::strip_covariance_backward<S>(p, b, shared);
    });
    if (error) return error;
  }
  return nullptr;
}

}  // namespace

Device describe_device(int) {
  return {shared_limit, int(multiprocessors), tensor_cores, workspace};
}

const char* launch_forward(const Problem& p, int sequences, int parts, void*) {
  ++launches, scratch_floats = p.scratch_per_block * sequences * parts;
  return p.layout.factor_in_shared ? forward<true>(p, sequences, parts)
                                   : forward<false>(p, sequences, parts);
}

const char* launch_backward(const Problem& p, int sequences, void*) {
  ++launches, scratch_floats = p.scratch_per_block * sequences;
  return p.layout.factor_in_shared ? backward<true>(p, sequences) : backward<false>(p, sequences);
}

const char* launch_strip_forward(const Problem& p, int tiles, int parts, void*) {
  ++launches;
  return tiles == FEWEST_TILES ? strip_forward<FEWEST_TILES>(p, parts)
                               : strip_forward<MOST_TILES>(p, parts);
}

const char* launch_strip_backward(const Problem& p, int tiles, int blocks, void*) {
  ++launches, scratch_floats = p.scratch_per_block * blocks;
  return tiles == FEWEST_TILES ? strip_backward<FEWEST_TILES>(p, blocks)
                               : strip_backward<MOST_TILES>(p, blocks);
}

namespace {
// f(block, shared) of every block, until one goes wrong.
template <class F>
void run_blocks(const char*& error, int count, int floats, F f) {
  for (int i = 0; i < count && !error; ++i) {
    error = run_warps(floats, [&](float* shared) { f(i, shared); });
  }
}

const char* prepare_long(const Problem& p, const Workspace& w) {
  const char* error = nullptr;
  if (!p.needs_covariance()) return error;
  run_blocks(error, w.sequences * w.key_squares, RELATE_FLOATS, [&](int i, float* shared) {
    relate(p, w, i / w.key_squares, i % w.key_squares, shared);
  });
  const int rows = w.priors * w.row_squares;
  run_blocks(error, w.sequences * rows, LONG_FLOATS, [&](int i, float* shared) {
    shape_prior(p, w, i / rows, i % rows / w.row_squares, i % w.row_squares, shared);
  });
  run_blocks(error, p.mode == Mode::sample ? w.sequences : 0, FACTOR_FLOATS,
             [&](int i, float* shared) { factor_squares(p, w, i, shared); });
  return error;
}
}  // namespace

const char* launch_long_forward(const Problem& p, const Workspace& w, int blocks, int parts,
                                void*) {
  ++launches, ++long_launches, scratch_floats = p.scratch_per_block * blocks;
  if (w.first == 0) std::fill_n(w.relations, w.floats(), POISON);
  const char* error = prepare_long(p, w);
  for (int i = 0; i < blocks; ++i) poison_scratch(p, i);
  run_blocks(error, blocks, LONG_FLOATS,
             [&](int i, float* shared) { long_forward_block(p, w, i, blocks, parts, shared); });
  return error;
}

const char* launch_long_backward(const Problem& p, const Workspace& w, const Adjoint& adjoint,
                                 int blocks, void*) {
  ++launches, ++long_launches, scratch_floats = p.scratch_per_block * blocks;
  if (w.first == 0) {
    std::fill_n(w.relations, w.floats() + Adjoint(adjoint).place(p, w, nullptr), POISON);
  }
  const char* error = prepare_long(p, w);
  for (int i = 0; i < blocks; ++i) poison_scratch(p, i);
  run_blocks(error, blocks, LONG_BACKWARD_FLOATS,
             [&](int i, float* shared) { long_backward_block(p, w, adjoint, i, blocks, shared); });
  if (!p.wants_covariance()) return error;
  const int rows = w.sequences * w.key_squares, n = w.key_squares,
            triangle = Workspace::index(n, 0);
  run_blocks(error, p.heads > 1 ? w.sequences * triangle : 0, 0,
             [&](int i, float*) { add_heads(p, w, adjoint, i / triangle, i % triangle); });
  if (p.mode == Mode::sample) {
    run_blocks(error, rows, LONG_FLOATS,
               [&](int i, float* shared) { divide_lower(p, w, adjoint, i / n, i % n, shared); });
    run_blocks(error, rows, LONG_FLOATS,
               [&](int i, float* shared) { divide_whole(p, w, adjoint, i / n, i % n, shared); });
  }
  run_blocks(error, rows, RELATE_FLOATS, [&](int i, float* shared) {
    correlation_backward(p, w, adjoint, i / n, i % n, shared);
  });
  run_blocks(error, w.sequences, 0, [&](int i, float*) { add_shares(p, w, adjoint, i); });
  return error;
}

void set_device(int64_t limit, int64_t count, bool tensors) {
  shared_limit = limit, multiprocessors = count, tensor_cores = tensors;
}
void set_workspace(int64_t bytes) { workspace = bytes; }
void set_order(int64_t seed) { order = seed; }
int64_t launch_count() { return launches; }
int64_t strip_launch_count() { return strip_launches; }
int64_t long_launch_count() { return long_launches; }
int64_t scratch_bytes() { return scratch_floats * int64_t(sizeof(float)); }

}  // namespace rka::cuda

STABLE_TORCH_LIBRARY_FRAGMENT(rka_fast_emulation, m) {
  m.def("set_device(int shared_limit, int multiprocessors, bool tensor_cores) -> ()");
  m.def("set_workspace(int bytes) -> ()");
  m.def("set_order(int seed) -> ()");
  m.def("launch_count() -> int");
  m.def("strip_launch_count() -> int");
  m.def("long_launch_count() -> int");
  m.def("scratch_bytes() -> int");  // of the last launch
}
STABLE_TORCH_LIBRARY_IMPL(rka_fast_emulation, CompositeExplicitAutograd, m) {
  m.impl("set_device", TORCH_BOX(&rka::cuda::set_device));
  m.impl("set_workspace", TORCH_BOX(&rka::cuda::set_workspace));
  m.impl("set_order", TORCH_BOX(&rka::cuda::set_order));
  m.impl("launch_count", TORCH_BOX(&rka::cuda::launch_count));
  m.impl("strip_launch_count", TORCH_BOX(&rka::cuda::strip_launch_count));
  m.impl("long_launch_count", TORCH_BOX(&rka::cuda::long_launch_count));
  m.impl("scratch_bytes", TORCH_BOX(&rka::cuda::scratch_bytes));
}
