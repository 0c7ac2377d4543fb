// What the binding asks of a device. kernels.cu launches on the GPU; the tests put a host version
// of the same program in its place.
#pragma once

#include "long_plan.h"

namespace rka::cuda {

constexpr int BLOCKS = 2;        // on one multiprocessor: at most 128 registers a thread
constexpr int STRIP_BLOCKS = 4;  // of those of four warps, and ...
constexpr int LONG_BACKWARD_BLOCKS = 3;  // ... that need more registers

struct Device {
  int64_t shared_limit;  // bytes of shared memory that a block may use
  int multiprocessors;
  bool tensor_cores;  // that multiply in TF32: sm_80 and newer
  int64_t workspace = WORKSPACE;  // bytes that launches may leave each other
};

Device describe_device(int index);

// All fill p.output or the gradients; nullptr or what failed. `sequences` are worked on at a time,
// each by `parts` blocks: what the scratch memory is for.
const char* launch_forward(const Problem& p, int sequences, int parts, void* stream);
// For short sequences: `tiles` as strip_tiles says.
const char* launch_strip_forward(const Problem& p, int tiles, int parts, void* stream);
// Sequences first .. last - 1, a kernel each for their relations, their heads and
// the gradient of the covariance.
const char* launch_strip_backward(const Problem& p, int tiles, int blocks, void* stream);
const char* launch_backward(const Problem& p, int sequences, void* stream);
// For long sequences, those of the workspace: `parts` blocks share the rows of a head.
const char* launch_long_forward(const Problem& p, const Workspace& w, int blocks, int parts,
                                void* stream);
const char* launch_long_backward(const Problem& p, const Workspace& w, const Adjoint& adjoint,
                                 int blocks, void* stream);

}  // namespace rka::cuda
