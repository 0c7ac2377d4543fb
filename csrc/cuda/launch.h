// What the binding asks of a device. kernels.cu launches on the GPU; the tests put a host version
// of the same program in its place.
#pragma once

#include "problem.h"

namespace rka::cuda {

struct Device {
  int64_t shared_limit;    // bytes of shared memory that a block may use
  int multiprocessors;
  bool tensor_cores;  // that multiply in TF32: sm_80 and newer
};

Device describe_device(int index);

// Both fill p.output or the gradients; `parts` blocks share one sequence. nullptr or what failed.
const char* launch_forward(const Problem& p, int parts, void* stream);
// For short sequences: `tiles` as strip_tiles says.
const char* launch_strip_forward(const Problem& p, int tiles, int parts, void* stream);
const char* launch_backward(const Problem& p, void* stream);

}  // namespace rka::cuda
